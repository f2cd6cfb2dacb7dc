"""What a process knows by itself: the newest id, and the ephemeral events that it published."""

from __future__ import annotations

from bisect import bisect_right

from protoplane_runtime.engines.interface import Event
from protoplane_runtime.engines.keys import KeyMatcher

MAX_EVENTS = 16_384
"""Most events that are kept."""

MAX_BYTES = 16 * 1024 * 1024
"""Bytes of data and JSON that they may take together, roughly."""


class Passing:
    """The newest id, and this process's newest ephemeral events for readers who come later.

    Attributes:
        epoch: The log's epoch.
        sequence: The newest sequence that the process gave or saw.
    """

    def __init__(self) -> None:
        self.epoch = 0
        self.sequence = 0
        self._events: list[Event] = []
        self._sequences: list[int] = []
        self._bytes = 0

    @property
    def oldest(self) -> int | None:
        """Sequence of the oldest one that is here."""
        return self._sequences[0] if self._sequences else None

    def saw(self, epoch: int, sequence: int) -> None:
        """Note an id; with another epoch, all that was before is over."""
        if epoch != self.epoch:
            self.epoch = epoch
            self.sequence = 0
            self._events, self._sequences, self._bytes = [], [], 0
        self.sequence = max(self.sequence, sequence)

    def append(self, event: Event) -> None:
        """Add the newest one."""
        self._events.append(event)
        self._sequences.append(event.id.sequence)
        self._bytes += len(event.data) + len(event.json)
        # Seldom and by half, so that each is moved about once.
        if len(self._events) > 2 * MAX_EVENTS or self._bytes > 2 * MAX_BYTES:
            self._trim()

    def first_after(self, place: int) -> int | None:
        """Sequence of the first one after a place."""
        at = bisect_right(self._sequences, place)
        return self._sequences[at] if at < len(self._sequences) else None

    def between(self, after: int, upto: int, match: KeyMatcher) -> list[Event]:
        """Those after one place and up to another that match."""
        low, high = bisect_right(self._sequences, after), bisect_right(self._sequences, upto)
        return [event for event in self._events[low:high] if match.matches(event.key)]

    def _trim(self) -> None:
        cut = max(0, len(self._events) - MAX_EVENTS)
        size = self._bytes - sum(_size(event) for event in self._events[:cut])
        while size > MAX_BYTES and cut < len(self._events) - 1:
            size -= _size(self._events[cut])
            cut += 1
        if cut:
            self._bytes = size
            del self._events[:cut], self._sequences[:cut]


def _size(event: Event) -> int:
    return len(event.data) + len(event.json)
