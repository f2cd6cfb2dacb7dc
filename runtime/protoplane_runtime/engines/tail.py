"""The newest events as one process sees them: what readers share who keep up."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Sequence

from protoplane_runtime.engines.batches import MAX_BATCH, Batch, Filter, newest
from protoplane_runtime.engines.interface import Event

MAX_EVENTS = 16_384
"""Most events that a process holds ready."""

MAX_BYTES = 16 * 1024 * 1024
"""Bytes of data and JSON that they may take together, roughly."""


class Tail:
    """All events after one place, up to the newest; use it on the event loop.

    Attributes:
        start: Place before its oldest event.
        end: Place of the newest event that it knows of.
    """

    def __init__(self) -> None:
        self.start = 0
        self.end = 0
        self._events: list[Event] = []
        self._sequences: list[int] = []
        self._bytes = 0
        self._waited: dict[Filter, None] = {}

    def restart(self, place: int) -> None:
        """Begin anew after a place; whoever waits looks at where it stands."""
        before = self.end
        self.start = self.end = place
        self._events, self._sequences, self._bytes = [], [], 0
        self._wake_all(before + 1)

    def extend(self, events: Sequence[Event]) -> None:
        """Add events that follow; those that it has are left out."""
        fresh = [event for event in events if event.id.sequence > self.end]
        if not fresh:
            return
        self._events += fresh
        self._sequences += [event.id.sequence for event in fresh]
        self._bytes += sum(len(event.data) + len(event.json) for event in fresh)
        self.end = self._sequences[-1]
        if len(self._events) > 2 * MAX_EVENTS or self._bytes > 2 * MAX_BYTES:
            self._trim()
        for shared in tuple(self._waited):
            matches = shared.match.matches
            first = next((each.id.sequence for each in fresh if matches(each.key)), 0)
            if first:
                self._waited.pop(shared, None)
                shared.wake(first)

    def skip_to(self, place: int) -> None:
        """Note that there is nothing more up to a place."""
        self.end = max(self.end, place)

    def batch(self, shared: Filter, place: int) -> tuple[Batch, int]:
        """What is ready after a place, which lies within, and the place after it."""
        return shared.batch(place, self._collect)

    async def wait(self, shared: Filter, place: int) -> int:
        """Wait until there is something after a place, or the tail begins anew or ends.

        Returns:
            The place to go on from. Cancelling it leaves nothing behind.
        """
        waiter: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waited[shared] = None
        shared.waiters[waiter] = None
        try:
            first = await waiter
        finally:
            shared.waiters.pop(waiter, None)
            if not shared.waiters:
                self._waited.pop(shared, None)
        return max(place, first - 1)

    def close(self) -> None:
        """Let all who wait go on."""
        self._wake_all(0)

    def _collect(self, shared: Filter, place: int) -> tuple[Batch, int]:
        matches = shared.match.matches
        found: list[Event] = []
        end = self.end
        events = self._events
        for at in range(bisect_right(self._sequences, place), len(events)):
            event = events[at]
            if matches(event.key):
                found.append(event)
                if len(found) == MAX_BATCH:
                    end = event.id.sequence
                    break
        return Batch(newest(found) if shared.latest else found), end

    def _trim(self) -> None:
        # Seldom and by half, so that each event is moved about once.
        cut = max(0, len(self._events) - MAX_EVENTS)
        size = self._bytes
        for event in self._events[:cut]:
            size -= len(event.data) + len(event.json)
        while size > MAX_BYTES and cut < len(self._events):
            size -= len(self._events[cut].data) + len(self._events[cut].json)
            cut += 1
        self.start = self._sequences[cut - 1]
        self._bytes = size
        del self._events[:cut], self._sequences[:cut]

    def _wake_all(self, first: int) -> None:
        waited, self._waited = self._waited, {}
        for shared in waited:
            shared.wake(first)
