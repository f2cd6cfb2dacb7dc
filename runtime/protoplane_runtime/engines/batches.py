"""What the readers of a log share: the batches they are given, and the wait for the next one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from weakref import WeakValueDictionary

from protoplane_runtime.engines.interface import Event, Gap
from protoplane_runtime.engines.keys import KeyMatcher, matcher

MAX_BATCH = 1024
"""Most events that a reader is given at once."""

Collect = Callable[["Filter", int], tuple["Batch", int]]
"""Collects what a filter lets through from a place on: the batch, and the place after it."""


class Batch(tuple[Event | Gap, ...]):  # noqa: SLOT001  # tuples have no slots of their own
    """Events that are ready together, shared by all readers that stand at the same place.

    Attributes:
        encodings: For whoever reads: the batch as it goes out, by what encoded it, made once and
            used by all. Whatever one reader puts here the others find.
    """

    encodings: dict[Callable[[Sequence[Event | Gap]], list[str]], tuple[bytes, ...]] | None = None


class Filter:
    """What all readers of the same expressions share: who waits, and the batch made last.

    Attributes:
        match: The key expressions.
        latest: Whether a batch holds only the newest event of each key.
        waiters: Readers that wait.
        scanned: Place up to which the log was searched for those who wait.
    """

    __slots__ = ("__weakref__", "_batch", "_end", "_start", "latest", "match", "scanned", "waiters")

    def __init__(self, match: KeyMatcher, latest: bool) -> None:
        self.match = match
        self.latest = latest
        self.waiters: dict[asyncio.Future[int], None] = {}
        self.scanned = 0
        self._start = self._end = -1
        self._batch = Batch()

    def batch(self, start: int, collect: Collect) -> tuple[Batch, int]:
        """All that is ready from ``start`` on, and where to go on after it."""
        if start != self._start:
            self._batch, self._end = collect(self, start)
            self._start = start
        return self._batch, self._end

    def forget(self) -> None:
        """Make the next batch anew: something in the one made last was deleted."""
        self._start = self._end = -1
        self._batch = Batch()

    def wake(self, first: int) -> None:
        """Let all waiting readers go on; nothing that they match lies before ``first``."""
        waiters, self.waiters = self.waiters, {}
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(first)


class Filters:
    """The filters of one log; a filter lives as long as somebody reads by it."""

    def __init__(self) -> None:
        self._filters: WeakValueDictionary[tuple[KeyMatcher, bool], Filter] = WeakValueDictionary()

    def get(self, expressions: Sequence[str], latest: bool) -> Filter:
        """The one filter of these expressions.

        Raises:
            PlaneError: INVALID_ARGUMENT for a bad key expression.
        """
        match = matcher(expressions)
        shared = self._filters.get((match, latest))
        if shared is None:
            shared = self._filters[match, latest] = Filter(match, latest)
        return shared

    def forget(self) -> None:
        """Make all batches anew: something was deleted that they may hold."""
        for shared in tuple(self._filters.values()):
            shared.forget()


def newest(events: Iterable[Event]) -> list[Event]:
    """The newest event of each key, in the order of the log."""
    found: dict[str, Event] = {}
    for event in events:
        found.pop(event.key, None)
        found[event.key] = event
    return list(found.values())
