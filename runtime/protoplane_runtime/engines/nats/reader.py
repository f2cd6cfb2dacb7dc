"""One reader of a log: a place, and the way from there to what comes."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from protoplane_base import PlaneError
from protoplane_runtime.engines.batches import MAX_BATCH, Batch, Filter, newest
from protoplane_runtime.engines.interface import Event, EventId, Gap, Since, Start
from protoplane_runtime.engines.nats.connection import Connection
from protoplane_runtime.engines.nats.consumer import StreamLost
from protoplane_runtime.engines.nats.feed import Feed
from protoplane_runtime.engines.nats.payload import EPHEMERAL_BITS
from protoplane_runtime.engines.nats.replay import Replay
from protoplane_runtime.engines.nats.retention import Enforcement
from protoplane_runtime.engines.nats.stream import Stream
from protoplane_runtime.engines.nats.subjects import subjects_of

_RETRY_S = 0.1
_AFTER_DURABLE = (1 << EPHEMERAL_BITS) - 1


class _Kept(NamedTuple):
    """What the stream holds, and the newest that a rule deleted of what matches; 0 for none."""

    epoch: int
    first: int
    last: int
    floor: int

    @property
    def kept(self) -> int:
        """Number from which on nothing is missing."""
        return max(self.first, self.floor + 1)


class Now:
    """Where a reader from now on begins that has not taken its first step.

    Attributes:
        place: Its place; ``None`` where nobody reads the same already.
        sequence: The newest one that the process knew of.
        first: Number of the first durable event that the process published since.
    """

    __slots__ = ("__weakref__", "first", "place", "sequence")

    def __init__(self, sequence: int) -> None:
        self.place: int | None = None
        self.sequence = sequence
        self.first: int | None = None

    def published(self, sequence: int) -> None:
        """The process published a durable event."""
        self.first = sequence if self.first is None else min(self.first, sequence)


class Reader:
    """Brings what a feed's readers get: from before its tail one by one, from there on together.

    Args:
        connection: The way to the server.
        stream: The stream.
        retention: What rules deleted of it.
        feed: The events that match.
        shared: What readers of the same expressions share.
    """

    def __init__(
        self,
        connection: Connection,
        stream: Stream,
        retention: Enforcement,
        feed: Feed,
        shared: Filter,
    ) -> None:
        self._connection = connection
        self._stream = stream
        self._retention = retention
        self._feed = feed
        self._passing = feed.passing
        self._shared = shared
        self._place = 0
        self._epoch = 0
        self._asked: EventId | None = None
        self._told: int | None = 0
        self._since_ns = 0
        self._seen = 0
        self._generation = 0
        self._cuts = 0
        self._joined = False
        self._fallen = False
        self._due: deque[Batch] = deque()
        self._replay: Replay | None = None

    async def start(self, after: EventId | Start | Since, now: Now) -> None:
        """Find the place to begin; the feed must have begun.

        Raises:
            PlaneError: UNAVAILABLE where the connection is over for good.
        """
        feed = self._feed
        self._epoch, self._generation, self._cuts = feed.epoch, feed.generation, feed.cuts
        if isinstance(after, EventId):
            self._asked = after
            self._place = after.sequence
        elif after is Start.EARLIEST:
            self._told = None
        elif isinstance(after, Since) and after.time_ns <= time.time_ns():
            self._told = None
            self._since_ns = after.time_ns
            self._place = await self._place_at(after.time_ns) << EPHEMERAL_BITS
        elif now.place is not None:
            self._place = now.place
        else:
            places = [feed.began]
            if now.first is not None:
                places.append(((now.first - 1) << EPHEMERAL_BITS) + _AFTER_DURABLE)
            first = self._passing.first_after(now.sequence)
            if first is not None:
                places.append(first - 1)
            self._place = max(0, min(places))

    async def next(self) -> Batch:
        """What comes next; it may be nothing, when there is something to look at again.

        Raises:
            PlaneError: UNAVAILABLE where the connection is over for good.
        """
        if self._due:
            return self._due.popleft()
        feed = self._feed
        await feed.begun()
        if self._generation != feed.generation:
            self._asked = self._asked or EventId(self._epoch, self._place)
            self._epoch, self._generation, self._cuts = feed.epoch, feed.generation, feed.cuts
            self.close()
            await self._tell_lost()
        elif self._cuts != feed.cuts:
            self._cuts = feed.cuts
            await self._tell_cut()
        elif self._asked is not None:
            await self._check()
        elif self._place >= feed.tail.start:
            return await self._live()
        else:
            await self._past()
        return self._due.popleft() if self._due else Batch()

    def close(self) -> None:
        """Give back what it holds."""
        replay, self._replay = self._replay, None
        if replay is not None:
            replay.close()

    async def _live(self) -> Batch:
        self.close()
        self._joined, self._fallen = True, False
        tail = self._feed.tail
        if self._place >= tail.end:
            self._place = await tail.wait(self._shared, self._place)
            return Batch()
        batch, self._place = tail.batch(self._shared, self._place)
        if batch and (self._since_ns or self._seen):
            return Batch(self._wanted([each for each in batch if isinstance(each, Event)]))
        return batch

    async def _past(self) -> None:
        feed = self._feed
        before = self._place
        if self._joined and not self._fallen and feed.ephemeral > before:
            # It was slow, and only durable events can be read again.
            self._fallen = True
            await self._tell_ephemeral()
        if self._told is None:
            self._told = (await self._state()).kept
        if self._replay is None:
            self._replay = Replay(self._connection, self._stream, feed, self._place, self._joined)
        try:
            events = self._wanted(await self._replay.next())
        except StreamLost:
            # The feed notices too, and begins anew.
            self.close()
            await asyncio.sleep(_RETRY_S)
            return
        self._place = self._replay.place
        if self._place >= feed.tail.start:
            # Its server would send what comes now, too.
            self.close()
        state = await self._state()
        if state.epoch != self._epoch:
            return
        if state.kept > max((before >> EPHEMERAL_BITS) + 1, self._told):
            self._told = state.kept
            # Some of it may have been read just before it was deleted.
            await self._tell(EventId(self._epoch, before), before, state, events)
        if self._shared.latest:
            events = newest(events)
        for at in range(0, len(events), MAX_BATCH):
            self._due.append(Batch(events[at : at + MAX_BATCH]))

    async def _check(self) -> None:
        """See whether what is after the id that was asked for is all there."""
        asked, self._asked = self._asked, None
        assert asked is not None
        tail = self._feed.tail
        if asked.epoch == self._epoch and tail.start <= asked.sequence <= tail.end:
            return
        state = await self._state()
        durable = asked.sequence >> EPHEMERAL_BITS
        if asked.epoch != state.epoch or durable > state.last:
            self._asked = asked
            await self._tell_lost()
        elif state.kept > durable + 1:
            self._told = state.kept
            await self._tell(asked, asked.sequence, state)
        else:
            if asked.sequence > tail.end:
                # Others count further: it saw durable events that are still to come here.
                self._seen = durable
                self._place = tail.end
            await self._tell(asked, asked.sequence, state, ephemeral=True)

    async def _tell_lost(self) -> None:
        asked, self._asked = self._asked, None
        assert asked is not None
        state = await self._state()
        self._place = 0
        self._joined = False
        self._told = state.kept
        await self._tell(asked, 0, state)

    async def _tell_cut(self) -> None:
        state = await self._state()
        # What was deleted while the server was away never came.
        lost = state.kept > max(self._feed.cut_at + 1, self._told or 0)
        if lost:
            self._told = state.kept
        await self._tell(EventId(self._epoch, self._place), self._place, state, ephemeral=not lost)

    async def _tell_ephemeral(self) -> None:
        state = await self._state()
        await self._tell(EventId(self._epoch, self._place), self._place, state, ephemeral=True)

    async def _tell(
        self,
        asked: EventId,
        place: int,
        state: _Kept,
        events: Sequence[Event] = (),
        *,
        ephemeral: bool = False,
    ) -> None:
        kept: list[int] = []
        following: list[int] = []
        if state.first <= state.last:
            kept.append(state.first << EPHEMERAL_BITS)
        after = max(state.first, (place >> EPHEMERAL_BITS) + 1)
        if state.floor:
            # There are holes.
            found = await self._first_after(after - 1)
            if found is not None:
                following.append(found << EPHEMERAL_BITS)
        elif after <= state.last:
            following.append(after << EPHEMERAL_BITS)
        if self._passing.oldest is not None:
            kept.append(self._passing.oldest)
        first = self._passing.first_after(place)
        if first is not None:
            following.append(first)
        epoch = state.epoch
        if events:
            following = [events[0].id.sequence]
        oldest = EventId(epoch, min(kept)) if kept else None
        coming = EventId(epoch, min(following, default=(state.last + 1) << EPHEMERAL_BITS))
        self._due.append(Batch([Gap(asked, oldest, coming, ephemeral)]))

    def _wanted(self, events: Sequence[Event]) -> Sequence[Event]:
        """Without what is from before the time asked for, or was seen elsewhere."""
        if self._since_ns:
            events = [event for event in events if event.time_ns >= self._since_ns]
            if events:
                self._since_ns = 0
        if self._seen:
            events = [event for event in events if not self._was_seen(event.id.sequence)]
            if self._place >> EPHEMERAL_BITS >= self._seen:
                self._seen = 0
        return events

    def _was_seen(self, sequence: int) -> bool:
        durable = not sequence & _AFTER_DURABLE
        return durable and sequence >> EPHEMERAL_BITS <= self._seen

    async def _state(self) -> _Kept:
        while True:
            try:
                state = await self._stream.state()
                floor = await self._retention.floor(self._feed.match, state.epoch)
                return _Kept(state.epoch, state.first, state.last, floor)
            except PlaneError:
                await self._connection.wait_connected()
                await asyncio.sleep(_RETRY_S)

    async def _first_after(self, place: int) -> int | None:
        subjects = subjects_of(self._stream.durable, self._feed.match.expressions)
        while True:
            try:
                return await self._stream.first_after(subjects, place)
            except PlaneError:
                await self._connection.wait_connected()
                await asyncio.sleep(_RETRY_S)

    async def _place_at(self, time_ns: int) -> int:
        while True:
            try:
                return await self._stream.place_at(time_ns)
            except PlaneError:
                await self._connection.wait_connected()
                await asyncio.sleep(_RETRY_S)
