"""What the readers of some key expressions share: a live view of the events that match."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence

from msgspec.structs import replace

from protoplane_base import PlaneError
from protoplane_runtime.engines.interface import Event, EventId
from protoplane_runtime.engines.keys import KeyMatcher
from protoplane_runtime.engines.nats import payload
from protoplane_runtime.engines.nats.connection import Connection, Msg, Subscription
from protoplane_runtime.engines.nats.consumer import Consumer, Stored, StreamLost
from protoplane_runtime.engines.nats.passing import Passing
from protoplane_runtime.engines.nats.payload import EPHEMERAL_BITS
from protoplane_runtime.engines.nats.stream import Newest, Stream
from protoplane_runtime.engines.nats.subjects import key_of, subjects_of
from protoplane_runtime.engines.tail import Tail

_log = logging.getLogger("protoplane.engines")

_FIRST_RETRY_S = 0.1
_LAST_RETRY_S = 2.0
_MAX_HELD = 16_384


class Feed:
    """The events that match some expressions, from when it began, as they come.

    Durable events come in the order of the stream. An ephemeral one has the id that its publisher
    gave it, unless that is before what came already, or after durable events that have not come
    here: then it gets the next id after what came.

    Attributes:
        match: The expressions.
        passing: What the process knows by itself.
        tail: Its newest events.
        began: Place from which on it has everything; its tail may begin later.
        mark: The durable event at which it began.
        generation: Raised when the stream was lost and everything begins anew.
        cuts: How often ephemeral events may have been missed.
        cut_at: Number of the newest durable event that had come the last time.
        ephemeral: Sequence of the newest ephemeral event that came.
        readers: How many read from it.
    """

    def __init__(
        self, connection: Connection, stream: Stream, match: KeyMatcher, passing: Passing
    ) -> None:
        self.match = match
        self.passing = passing
        self.tail = Tail()
        self.began = 0
        self.mark = Newest(0, "")
        self.generation = 0
        self.cuts = 0
        self.cut_at = 0
        self.ephemeral = 0
        self.readers = 0
        self._connection = connection
        self._stream = stream
        self._epoch = stream.epoch
        self._received = 0
        self._expected = 0
        self._held: deque[Event] = deque()
        self._subscriptions: list[Subscription] = []
        self._running = asyncio.Event()
        self._error: PlaneError | None = None
        self._subjects = subjects_of(stream.durable, match.expressions)
        connection.lost.append(self._cut)
        self._task = asyncio.create_task(self._run())

    @property
    def live(self) -> bool:
        """Whether it has begun."""
        return self._running.is_set() and self._error is None

    @property
    def epoch(self) -> int:
        """Epoch of its events."""
        return self._epoch

    @property
    def ended(self) -> bool:
        """Whether it is over for good."""
        return self._task.done()

    async def begun(self) -> None:
        """Wait until it has begun; for as long as the engine is away.

        Raises:
            PlaneError: UNAVAILABLE where the connection is over for good.
        """
        await self._running.wait()
        if self._error is not None:
            raise self._error

    def expect(self, sequence: int) -> None:
        """Note that a durable event that matches was accepted, and will come."""
        self._expected = max(self._expected, sequence)

    def offer(self, event: Event) -> None:
        """Bring an ephemeral event of this process that matches."""
        if not self.live:
            return
        if self._received < min(self._expected, event.id.sequence >> EPHEMERAL_BITS):
            self._held.append(event)
            if len(self._held) > _MAX_HELD:
                self._bring(self._held.popleft())
        else:
            self._bring(event)

    async def close(self) -> None:
        """End it; whoever waits on its tail goes on."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        try:
            while True:
                try:
                    await self._begin()
                    await self._follow()
                except StreamLost:
                    self._begin_anew()
        except PlaneError as error:
            _log.error("a reader of NATS ends: %s", error.message)
            self._error = error
        finally:
            self._running.set()
            self._connection.lost.remove(self._cut)
            for subscription in self._subscriptions:
                self._connection.unsubscribe(subscription)
            self.tail.close()

    async def _begin(self) -> None:
        delay_s = _FIRST_RETRY_S
        while True:
            try:
                await self._connection.wait_connected()
                if not self._subscriptions:
                    await self._subscribe()
                await self._stream.state()
                self._epoch = self._stream.epoch
                self.mark = await self._stream.newest()
                break
            except PlaneError as error:
                await self._connection.wait_connected()
                _log.info("a reader of NATS waits: %s", error.message)
                await asyncio.sleep(delay_s)
                delay_s = min(2 * delay_s, _LAST_RETRY_S)
        self._received = self.mark.sequence
        self.passing.saw(self._epoch, self._received << EPHEMERAL_BITS)
        self.began = max(self._received << EPHEMERAL_BITS, self.passing.sequence)
        self.tail.restart(self.began)
        self._running.set()

    def _begin_anew(self) -> None:
        self._running.clear()
        self.generation += 1
        self._held.clear()
        self._expected = 0
        self.ephemeral = 0
        # Whoever waits has to see that this is over.
        self.tail.close()

    async def _subscribe(self) -> None:
        for subject in subjects_of(self._stream.passing, self.match.expressions):
            self._subscriptions.append(await self._connection.subscribe(subject, self._passing))
        await self._connection.settle()

    async def _follow(self) -> None:
        consumer = Consumer(self._connection, self._stream, self._subjects, self._received + 1)
        try:
            while True:
                found = await consumer.take()
                if found:
                    self._take(found)
        finally:
            consumer.close()

    def _take(self, found: Sequence[Stored]) -> None:
        events = decoded(found, self._epoch, self._stream.durable, self.match)
        if self._held:
            for event in events:
                # All that is before the next durable event has come.
                self._received = (event.id.sequence >> EPHEMERAL_BITS) - 1
                while self._held and self._held[0].id < event.id:
                    self._bring(self._held.popleft())
                self.tail.extend((event,))
        else:
            self.tail.extend(events)
        self._received = found[-1].sequence
        self.passing.saw(self._epoch, self._received << EPHEMERAL_BITS)
        while self._held and self._received >= min(
            self._expected, self._held[0].id.sequence >> EPHEMERAL_BITS
        ):
            self._bring(self._held.popleft())

    def _passing(self, message: Msg) -> None:
        found = payload.decode_passing(message.data)
        if found is None or not self.live:
            return
        passing, body = found
        key = key_of(self._stream.passing, message.subject)
        if not self.match.matches(key):
            return
        sequence = passing.sequence if passing.epoch == self._epoch else 0
        event_id = EventId(self._epoch, sequence)
        self._bring(Event(event_id, key, body.type, body.data, body.json, passing.time_ns))

    def _bring(self, event: Event) -> None:
        sequence = min(event.id.sequence, ((self._received + 1) << EPHEMERAL_BITS) - 1)
        if sequence >> EPHEMERAL_BITS < event.id.sequence >> EPHEMERAL_BITS:
            sequence = (self._received << EPHEMERAL_BITS) + 1
        sequence = max(sequence, self.tail.end + 1)
        if sequence != event.id.sequence or event.id.epoch != self._epoch:
            event = replace(event, id=EventId(self._epoch, sequence))
        self.ephemeral = sequence
        self.passing.saw(self._epoch, sequence)
        self.tail.extend((event,))

    def _cut(self) -> None:
        self.cuts += 1
        self.cut_at = self._received


def decoded(found: Sequence[Stored], epoch: int, prefix: str, match: KeyMatcher) -> list[Event]:
    """The events of some messages that match; what is no event of ours is left out."""
    events: list[Event] = []
    for stored in found:
        key = key_of(prefix, stored.subject)
        if match.matches(key):
            body = payload.decode(stored.data)
            if body is not None:
                event_id = EventId(epoch, stored.sequence << EPHEMERAL_BITS)
                events.append(Event(event_id, key, body.type, body.data, body.json, stored.time_ns))
    return events
