"""The engine ``memory:``: a log that lives in this process and is gone with it.

Events lie in one ring that all readers share. A reader is a place in it and nothing else: readers
of the same expressions at the same place are given the same batch, and a slow one finds its place
overwritten and gets a `Gap`. An event that goes before its turn, by a rule of retention or a purge,
leaves a hole.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from time import time_ns
from typing import cast

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.batches import MAX_BATCH, Batch, Filter, Filters, newest
from protoplane_runtime.engines.interface import (
    Event,
    EventId,
    Gap,
    KeyStats,
    LogStats,
    Publication,
    Since,
    Start,
)
from protoplane_runtime.engines.keys import KNOWN_KEYS, KeyMatcher, check_key, matcher
from protoplane_runtime.engines.retention import Retention, check_rules, floor_of, rule_of

__all__ = ["MAX_BATCH", "Batch", "MemoryLog"]

_SCANNED = 2 * MAX_BATCH
_EVENT_OVERHEAD_BYTES = 400
"""What an event takes beside its texts and bytes, roughly."""


@dataclass(slots=True)
class _Kept:
    """The events under one rule of retention; those deleted otherwise are still listed."""

    rule: Retention
    sequences: deque[int] = field(default_factory=deque[int])
    events: int = 0
    bytes: int = 0
    floor: int = 0


class MemoryLog:
    """An `EventLog` in memory; use it from one event loop.

    Args:
        max_events: Most events that are kept.
        max_bytes: Most bytes that they may take together; the newest event is always kept.
        retention: What is kept under some prefixes of keys, within these bounds; an age is looked
            at when something is published or a reader begins.
        epoch: First part of every id; by default the microsecond in which the log was made, so that
            ids of an earlier process are known to be lost.
    """

    def __init__(
        self,
        *,
        max_events: int = 65_536,
        max_bytes: int = 64 * 1024 * 1024,
        retention: Sequence[Retention] = (),
        epoch: int | None = None,
    ) -> None:
        if max_events < 1 or max_bytes < 1:
            raise ValueError("a memory log keeps at least one event and one byte")
        self._epoch = time_ns() // 1_000 if epoch is None else epoch
        self._size = max_events
        self._max_bytes = max_bytes
        self._ring: list[Event | None] = [None] * max_events
        self._oldest = 1
        self._next = 1
        self._bytes = 0
        # Nothing is counted by rule where there are none.
        self._kept = {prefix: _Kept(rule) for prefix, rule in check_rules(retention).items()}
        self._ruled = bool(retention)
        self._purged = 0
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
        # What follows is written out, without a call where one can do without: it is done for each
        # event, and is most of what an event costs.
        if key not in KNOWN_KEYS:
            check_key(key)
        if self._closed:
            raise PlaneError(Code.UNAVAILABLE, "the event log is closed")
        sequence = self._next
        event_id = EventId(self._epoch, sequence)
        if durable and publication is not None:
            known = self._publications.get(publication)
            if known is not None:
                return known
            self._publications[publication] = event_id
            self._published[sequence] = publication
        weight = len(data) + len(json) + len(key) + _EVENT_OVERHEAD_BYTES
        if sequence - self._oldest == self._size:
            self._drop_oldest()
        self._ring[sequence % self._size] = Event(event_id, key, type_, data, json, time_ns())
        self._next = sequence + 1
        self._bytes += weight
        if self._ruled:
            kept = rule_of(key, self._kept)
            kept.sequences.append(sequence)
            kept.events += 1
            kept.bytes += weight
            self._enforce()
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
        if self._ruled:
            self._enforce()
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
        # Who asks for what is kept is told nothing of what went before.
        told = self._floor(shared.match) if asked is None else 0
        return self._read(shared, cursor, asked, told)

    async def stats(
        self, expressions: Sequence[str] = ("**",), *, after: EventId | None = None
    ) -> LogStats:
        """What is kept now, ephemeral events included; see `EventLog.stats`.

        Raises:
            PlaneError: INVALID_ARGUMENT for a bad key expression.
        """
        match = matcher(expressions)
        if self._ruled:
            self._enforce()
        first = after.sequence + 1 if after is not None and after.epoch == self._epoch else 0
        found = [event for event in self._events(first) if match.matches(event.key)]
        keys: dict[str, list[int]] = {}
        for event in found:
            total = keys.setdefault(event.key, [0, 0])
            total[0] += 1
            total[1] += _weight(event)
        return LogStats(
            len(found),
            sum(size for _, size in keys.values()),
            found[0].id if found else None,
            found[-1].id if found else None,
            found[0].time_ns if found else None,
            found[-1].time_ns if found else None,
            [KeyStats(key, *keys[key]) for key in sorted(keys)],
        )

    async def purge(
        self, expressions: Sequence[str], *, before: EventId | Since | None = None
    ) -> int:
        """Delete events; see `EventLog.purge`.

        Raises:
            PlaneError: INVALID_ARGUMENT for a bad key expression, UNAVAILABLE once the log is
                closed.
        """
        match = matcher(expressions)
        if self._closed:
            raise PlaneError(Code.UNAVAILABLE, "the event log is closed")
        end = self._next
        if isinstance(before, Since):
            end = self._at(before.time_ns)
        elif before is not None:
            # All that is here comes before a later epoch, and nothing before an earlier one.
            end = self._next if before > self.last else 0
            if before.epoch == self._epoch:
                end = before.sequence
        count = 0
        for event in list(self._events()):
            if event.id.sequence < end and match.matches(event.key):
                self._delete(event)
                count += 1
        self._filters.forget()
        self._skip_holes()
        return count

    async def close(self) -> None:
        """End all readers; closing twice does nothing."""
        self._closed = True
        for shared in self._waited:
            shared.wake(0)
        self._waited.clear()
        self._ring = [None] * self._size
        self._oldest = self._next
        self._bytes = 0
        for kept in self._kept.values():
            kept.sequences.clear()
        self._publications.clear()
        self._published.clear()

    async def _read(
        self, shared: Filter, cursor: int, asked: EventId | None, told: int
    ) -> AsyncIterator[Batch]:
        while not self._closed:
            if cursor < self._oldest:
                if asked is None:
                    asked = EventId(self._epoch, cursor - 1)
                yield self._gap(asked, self._oldest)
                cursor = max(cursor, self._oldest)
            elif cursor <= self._purged and told < self._purged:
                floor = self._floor(shared.match)
                if floor >= cursor and floor > told:
                    told = floor
                    yield self._gap(asked or EventId(self._epoch, cursor - 1), cursor)
                told = max(told, floor)
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
        ring, size = self._ring, self._size
        end = min(self._next, start + _SCANNED)
        first, last = start % size, end % size
        part = ring[first:last] if first < last else ring[first:] + ring[:last]
        # Without purges there are no holes.
        found = (
            [event for event in part if event is not None]
            if self._purged
            else cast("list[Event]", part)
        )
        # Each key is looked at once, and mostly they are few.
        keys = {event.key for event in found}
        wanted = set(filter(shared.match.matches, keys))
        if len(wanted) < len(keys):
            found = [event for event in found if event.key in wanted]
        if len(found) > MAX_BATCH:
            found = found[:MAX_BATCH]
            end = found[-1].id.sequence + 1
        return Batch(newest(found) if shared.latest else found), end

    def _at(self, time_ns: int) -> int:
        ring, size = self._ring, self._size

        low, high = self._oldest, self._next
        while low < high:
            middle = (low + high) // 2
            # A hole has no time of its own; the next event's tells as much.
            at = middle
            while at < high and ring[at % size] is None:
                at += 1
            event = ring[at % size] if at < high else None
            if event is None or event.time_ns >= time_ns:
                high = middle
            else:
                low = at + 1
        return low

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
            if event is not None and matches(event.key):
                return sequence
        shared.scanned = self._next
        return 0

    def _gap(self, asked: EventId, cursor: int) -> Batch:
        epoch = self._epoch
        oldest = next(self._events(), None)
        following = next(self._events(cursor), None)
        next_id = EventId(epoch, self._next) if following is None else following.id
        return Batch([Gap(asked, None if oldest is None else oldest.id, next_id)])

    def _floor(self, match: KeyMatcher) -> int:
        if not self._purged:
            return 0
        return floor_of(match, {prefix: kept.floor for prefix, kept in self._kept.items()})

    def _events(self, first: int = 0) -> Iterator[Event]:
        """What is kept, from a sequence on."""
        for sequence in range(max(first, self._oldest), self._next):
            event = self._ring[sequence % self._size]
            if event is not None:
                yield event

    def _enforce(self) -> None:
        """Delete what the rules no longer cover."""
        now_ns = time_ns()
        deleted = False
        for kept in self._kept.values():
            rule, sequences = kept.rule, kept.sequences
            while sequences:
                event = (
                    self._ring[sequences[0] % self._size] if sequences[0] >= self._oldest else None
                )
                if event is not None and not (
                    (rule.max_events is not None and kept.events > rule.max_events)
                    or (rule.max_bytes is not None and kept.bytes > rule.max_bytes)
                    or (
                        rule.max_age_s is not None and event.time_ns < now_ns - rule.max_age_s * 1e9
                    )
                ):
                    break
                sequences.popleft()
                if event is not None:
                    self._delete(event)
                    deleted = True
        if deleted:
            self._filters.forget()
            self._skip_holes()

    def _delete(self, event: Event) -> None:
        """Leave a hole where an event was."""
        sequence = event.id.sequence
        self._let_go(event)
        kept = rule_of(event.key, self._kept)
        kept.floor = max(kept.floor, sequence)
        self._purged = max(self._purged, sequence)

    def _let_go(self, event: Event) -> None:
        sequence = event.id.sequence
        # Once the ring is full this too is done for each event that is published.
        weight = len(event.data) + len(event.json) + len(event.key) + _EVENT_OVERHEAD_BYTES
        self._ring[sequence % self._size] = None
        self._bytes -= weight
        if self._ruled:
            kept = rule_of(event.key, self._kept)
            kept.events -= 1
            kept.bytes -= weight
        if self._published:
            named = self._published.pop(sequence, None)
            if named is not None:
                del self._publications[named]

    def _skip_holes(self) -> None:
        while self._oldest < self._next and self._ring[self._oldest % self._size] is None:
            self._oldest += 1

    def _drop_oldest(self) -> None:
        # No floor is raised: readers find by their own places that they were overtaken.
        event = self._ring[self._oldest % self._size]
        if event is not None:
            self._let_go(event)
        self._oldest += 1
        if self._purged:
            self._skip_holes()


def _weight(event: Event) -> int:
    return len(event.data) + len(event.json) + len(event.key) + _EVENT_OVERHEAD_BYTES
