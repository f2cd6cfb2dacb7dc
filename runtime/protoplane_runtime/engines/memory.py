"""The engine ``memory:``: a log that lives in this process and is gone with it.

Events lie in one ring that all readers share. A reader is a place in it and nothing else: readers
of the same expressions at the same place are given the same batch, and a slow one finds its place
overwritten and gets a `Gap`.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left
from collections.abc import AsyncIterator, Sequence

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.batches import MAX_BATCH, Batch, Filter, Filters, newest
from protoplane_runtime.engines.interface import (
    Event,
    EventId,
    Gap,
    Publication,
    Since,
    Start,
)
from protoplane_runtime.engines.keys import check_key

__all__ = ["MAX_BATCH", "Batch", "MemoryLog"]

_EVENT_OVERHEAD_BYTES = 400
"""What an event takes beside its texts and bytes, roughly."""


class MemoryLog:
    """An `EventLog` in memory; use it from one event loop.

    Args:
        max_events: Most events that are kept.
        max_bytes: Most bytes that they may take together; the newest event is always kept.
        epoch: First part of every id; by default the microsecond in which the log was made, so that
            ids of an earlier process are known to be lost.
    """

    def __init__(
        self,
        *,
        max_events: int = 65_536,
        max_bytes: int = 64 * 1024 * 1024,
        epoch: int | None = None,
    ) -> None:
        if max_events < 1 or max_bytes < 1:
            raise ValueError("a memory log keeps at least one event and one byte")
        self._epoch = time.time_ns() // 1_000 if epoch is None else epoch
        self._size = max_events
        self._max_bytes = max_bytes
        self._ring: list[Event | None] = [None] * max_events
        self._oldest = 1
        self._next = 1
        self._bytes = 0
        self._filters = Filters()
        self._publications: dict[Publication, EventId] = {}
        self._published: dict[int, Publication] = {}
        self._waited: dict[Filter, None] = {}
        self._waking = False
        self._closed = False

    @property
    def last(self) -> EventId:
        """Id of the newest event; sequence 0 where there is none."""
        return EventId(self._epoch, self._next - 1)

    @property
    def readers(self) -> int:
        """How many readers wait now."""
        return sum(len(shared.waiters) for shared in self._waited)

    async def publish(
        self,
        key: str,
        type_: str,
        data: bytes,
        json: str,
        *,
        durable: bool = False,
        publication: Publication | None = None,
    ) -> EventId:
        """Append an event; a durable one is kept no longer than any other here.

        Raises:
            PlaneError: INVALID_ARGUMENT for a bad key, UNAVAILABLE once the log is closed.
        """
        check_key(key)
        if self._closed:
            raise PlaneError(Code.UNAVAILABLE, "the event log is closed")
        named = publication if durable else None
        if named is not None and named in self._publications:
            return self._publications[named]
        event_id = EventId(self._epoch, self._next)
        event = Event(event_id, key, type_, data, json, time.time_ns())
        if self._next - self._oldest == self._size:
            self._drop_oldest()
        if named is not None:
            self._publications[named] = event_id
            self._published[self._next] = named
        self._ring[self._next % self._size] = event
        self._next += 1
        self._bytes += _weight(event)
        while self._bytes > self._max_bytes and self._next - self._oldest > 1:
            self._drop_oldest()
        if self._waited and not self._waking:
            # Once for all that is published in this turn of the loop.
            self._waking = True
            asyncio.get_running_loop().call_soon(self._wake)
        return event_id

    def read(
        self,
        expressions: Sequence[str],
        *,
        after: EventId | Start | Since = Start.NOW,
        latest: bool = False,
    ) -> AsyncIterator[Batch]:
        """Read what any of the key expressions matches; see `EventLog.read`.

        The place to begin is fixed by this call, not by the first step of the iterator. A `Gap`
        comes first too when ``after`` is of another epoch.

        Raises:
            PlaneError: INVALID_ARGUMENT for a bad key expression.
        """
        shared = self._filters.get(expressions, latest)
        asked: EventId | None = None
        if isinstance(after, EventId):
            asked = after
            if after.epoch == self._epoch and after.sequence < self._next:
                cursor = after.sequence + 1
            else:
                cursor = 0  # Lost: before everything that is kept.
        elif isinstance(after, Since):
            cursor = self._at(after.time_ns)
        else:
            cursor = self._oldest if after is Start.EARLIEST else self._next
        return self._read(shared, cursor, asked)

    async def close(self) -> None:
        """End all readers; closing twice does nothing."""
        self._closed = True
        for shared in self._waited:
            shared.wake(0)
        self._waited.clear()
        self._ring = [None] * self._size
        self._oldest = self._next
        self._bytes = 0
        self._publications.clear()
        self._published.clear()

    async def _read(
        self, shared: Filter, cursor: int, asked: EventId | None
    ) -> AsyncIterator[Batch]:
        while not self._closed:
            if cursor < self._oldest:
                if asked is None:
                    asked = EventId(self._epoch, cursor - 1)
                yield self._gap(asked)
                cursor = self._oldest
            asked = None
            if cursor < self._next:
                batch, cursor = shared.batch(cursor, self._collect)
                if batch:
                    yield batch
                # Others get their turn, and what is published meanwhile is seen.
                continue
            if not shared.waiters:
                shared.scanned = self._next
                self._waited[shared] = None
            waiter = asyncio.get_running_loop().create_future()
            shared.waiters[waiter] = None
            try:
                first = await waiter
            finally:
                shared.waiters.pop(waiter, None)
                if not shared.waiters:
                    self._waited.pop(shared, None)
            cursor = max(cursor, first)

    def _collect(self, shared: Filter, start: int) -> tuple[Batch, int]:
        found: list[Event] = []
        ring, size, end = self._ring, self._size, self._next
        matches = shared.match.matches
        for sequence in range(start, end):
            event = ring[sequence % size]
            assert event is not None
            if matches(event.key):
                found.append(event)
                if len(found) == MAX_BATCH:
                    end = sequence + 1
                    break
        return Batch(newest(found) if shared.latest else found), end

    def _at(self, time_ns: int) -> int:
        ring, size = self._ring, self._size

        def time_of(sequence: int) -> int:
            event = ring[sequence % size]
            assert event is not None
            return event.time_ns

        return bisect_left(range(self._next), time_ns, lo=self._oldest, key=time_of)

    def _wake(self) -> None:
        self._waking = False
        for shared in tuple(self._waited):
            first = 0
            if shared.scanned >= self._oldest:
                first = self._first(shared)
                if first == 0:
                    continue
            # Where the scan itself was overtaken, the readers find out by their own places.
            self._waited.pop(shared, None)
            shared.wake(first)

    def _first(self, shared: Filter) -> int:
        ring, size = self._ring, self._size
        matches = shared.match.matches
        for sequence in range(shared.scanned, self._next):
            event = ring[sequence % size]
            assert event is not None
            if matches(event.key):
                return sequence
        shared.scanned = self._next
        return 0

    def _gap(self, asked: EventId) -> Batch:
        kept = self._oldest < self._next
        next_id = EventId(self._epoch, self._oldest)
        return Batch([Gap(asked, next_id if kept else None, next_id)])

    def _drop_oldest(self) -> None:
        place = self._oldest % self._size
        event = self._ring[place]
        assert event is not None
        self._ring[place] = None
        self._bytes -= _weight(event)
        named = self._published.pop(self._oldest, None)
        if named is not None:
            del self._publications[named]
        self._oldest += 1


def _weight(event: Event) -> int:
    return len(event.data) + len(event.json) + len(event.key) + _EVENT_OVERHEAD_BYTES
