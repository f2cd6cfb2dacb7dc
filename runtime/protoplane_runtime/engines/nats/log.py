"""The event log of the engine ``nats://…``."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from typing import Self
from urllib.parse import quote
from weakref import WeakSet

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.batches import Batch, Filter, Filters
from protoplane_runtime.engines.interface import (
    Event,
    EventId,
    LogStats,
    Publication,
    Since,
    Start,
)
from protoplane_runtime.engines.keys import KeyMatcher, check_key, matcher
from protoplane_runtime.engines.nats import payload
from protoplane_runtime.engines.nats.administration import Administration
from protoplane_runtime.engines.nats.connection import Connection, alone
from protoplane_runtime.engines.nats.feed import Feed
from protoplane_runtime.engines.nats.passing import Passing
from protoplane_runtime.engines.nats.payload import EPHEMERAL_BITS
from protoplane_runtime.engines.nats.publisher import Accepted, Publisher
from protoplane_runtime.engines.nats.reader import Now, Reader
from protoplane_runtime.engines.nats.retention import Enforcement
from protoplane_runtime.engines.nats.settings import NatsSettings
from protoplane_runtime.engines.nats.stream import Stream
from protoplane_runtime.engines.nats.subjects import key_of, subject_of

LINGER_S = 30.0
"""Seconds for which a process goes on reading what nobody reads any more: a browser comes back."""

_MAX_TYPE_LENGTH = 1024
_OVERHEAD_BYTES = 4096


class NatsLog:
    """An `EventLog` in a JetStream stream of a NATS server or cluster; get one from `open`.

    A durable event is acknowledged once the stream has it: with several replicas, once most of them
    have. When that is also on disk is the server's ``sync_interval``.

    An ephemeral event goes over plain NATS, at most once, to the processes that read just then. The
    sequence of a durable event is its number in the stream times 2**32; the ephemeral ones between
    two durable events are numbered in the low bits. `publish` returns an ephemeral event's id as
    this process counts; a reader elsewhere may see it under another, which is where it came between
    the events there. Nobody keeps ephemeral events but their publisher, for readers of its own
    process. So whoever resumes after an id where this process was not reading all the time since is
    told of it, by a `Gap` that says so.

    The epoch is the microsecond in which the stream was made. Use it from the event loop on which
    it was opened.
    """

    def __init__(self, connection: Connection, stream: Stream, settings: NatsSettings) -> None:
        self._connection = connection
        self._stream = stream
        self._retention = Enforcement(connection, stream, settings)
        self._acknowledged = 0
        self._looking: asyncio.Task[None] | None = None
        self._suspect = False
        self._filters = Filters()
        self._feeds: dict[KeyMatcher, Feed] = {}
        self._lingering: dict[KeyMatcher, asyncio.TimerHandle] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._passing = Passing()
        self._places: WeakSet[Now] = WeakSet()
        self._closed = False
        self._loop = asyncio.get_running_loop()
        self._publisher = Publisher(
            connection,
            stream.name,
            settings.publish_timeout_s,
            accepted=self._accepted,
            unheard=self._unheard,
        )

    @classmethod
    async def open(cls, url: str) -> Self:
        """Open the log that a URL names; see `NatsSettings.parse` for its form.

        The stream is made where there is none. Settings that the URL has are given to a stream that
        is there already, for all that use it; those that it has not are left as they are.

        Raises:
            PlaneError: INVALID_ARGUMENT for a URL of another form, UNAVAILABLE where no server can
                be reached or it has no JetStream, FAILED_PRECONDITION where it refuses the
                settings, RESOURCE_EXHAUSTED where it has no room. Cancelling leaves nothing open.
        """
        return await alone(url, cls.on)

    @classmethod
    async def on(cls, connection: Connection, settings: NatsSettings) -> Self:
        """Open the log over a connection that others use too; see `open`."""
        stream = Stream(connection, settings)
        state = await stream.made()
        self = cls(connection.share(), stream, settings)
        self._passing.saw(state.epoch, state.last << EPHEMERAL_BITS)
        try:
            await self._retention.begin(settings.rules)
        except BaseException:
            await self.close()
            raise
        return self

    @property
    def last(self) -> EventId:
        """Id of the newest event that this process knows of; sequence 0 where there is none."""
        return EventId(self._passing.epoch, self._passing.sequence)

    async def newest(self) -> EventId:
        """Id of the newest durable event that the stream has.

        Raises:
            PlaneError: UNAVAILABLE where the engine is away.
        """
        await self._look_at_stream()
        return self.last

    @staticmethod
    def is_durable(event_id: EventId) -> bool:
        """Whether an id is that of a durable event."""
        return event_id.sequence & ((1 << EPHEMERAL_BITS) - 1) == 0

    async def stats(
        self, expressions: Sequence[str] = ("**",), *, after: EventId | None = None
    ) -> LogStats:
        """What the stream keeps; see `EventLog.stats`.

        Raises:
            PlaneError: INVALID_ARGUMENT for a bad key expression, UNAVAILABLE where the server is
                away.
        """
        return await Administration(self._connection, self._stream).stats(
            matcher(expressions), after
        )

    async def purge(
        self, expressions: Sequence[str], *, before: EventId | Since | None = None
    ) -> int:
        """Delete durable events; see `EventLog.purge`. Readers pass over them without a `Gap`.

        Raises:
            PlaneError: INVALID_ARGUMENT for a bad key expression, UNAVAILABLE where the server is
                away.
        """
        return await Administration(self._connection, self._stream).purge(
            matcher(expressions), before
        )

    async def enforce_retention(self) -> None:
        """Carry out the rules of retention now; that happens by itself too, every few seconds.

        What was published since they were last carried out stays until the next time.

        Raises:
            PlaneError: UNAVAILABLE where the server is away, ABORTED where another process does it.
        """
        await self._retention.enforce(at_once=True)

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
        """Append an event; see `EventLog.publish`.

        While the server is away, a durable event waits for it, up to ``publish_timeout_s`` seconds;
        one that was under way when it went fails, unless it has a ``publication``. JetStream knows
        a publication again for ``duplicates_s`` seconds. An ephemeral event is not kept for a
        server that is away.

        Raises:
            PlaneError: INVALID_ARGUMENT for a bad key or text, RESOURCE_EXHAUSTED for an event that
                is larger than the server takes, a stream that is full, or too many publications
                that wait, UNAVAILABLE where the server does not acknowledge in time or is away, and
                once the log is closed.
        """
        check_key(key)
        if not json.isascii() or not type_.isascii() or len(type_) > _MAX_TYPE_LENGTH:
            _check_texts(type_, json)
        if self._closed:
            raise PlaneError(Code.UNAVAILABLE, "the event log is closed")
        body = payload.encode(type_, data, json)
        most = self._connection.max_payload_bytes - _OVERHEAD_BYTES
        if len(body) > most:
            raise PlaneError(
                Code.RESOURCE_EXHAUSTED,
                f"an event of {len(body)} bytes is too large, {most} are the most of this NATS "
                "server; put it into an object and publish where that is, or raise max_payload",
            )
        if not durable:
            return await self._pass(key, type_, data, json, body)
        subject = subject_of(self._stream.durable, key)
        named = "" if publication is None else _name(publication)
        accepted = await self._publisher.publish(subject, body, named)
        if self._suspect:
            self._suspect = False
            await self._look_at_stream()
        return EventId(self._passing.epoch, accepted.sequence << EPHEMERAL_BITS)

    def read(
        self,
        expressions: Sequence[str],
        *,
        after: EventId | Start | Since = Start.NOW,
        latest: bool = False,
    ) -> AsyncIterator[Batch]:
        """Read what any of the key expressions matches; see `EventLog.read`.

        While the server is away, readers wait for it, and go on where they were. Of what others
        publish between this call and the first step, a reader from now on may see some.

        Raises:
            PlaneError: INVALID_ARGUMENT for a bad key expression.
        """
        shared = self._filters.get(expressions, latest)
        now = Now(self._passing.sequence)
        feed = self._feeds.get(matcher(expressions))
        if feed is not None and feed.live:
            now.place = feed.tail.end
        else:
            self._places.add(now)
        return self._read(shared, after, now)

    async def close(self) -> None:
        """Send what was accepted, end all readers and the connection; once more does nothing."""
        if self._closed:
            return
        self._closed = True
        self._publisher.close()
        for timer in self._lingering.values():
            timer.cancel()
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        feeds, self._feeds = list(self._feeds.values()), {}
        await asyncio.gather(*(feed.close() for feed in feeds), *self._ending)
        await self._retention.close()
        await self._connection.close()

    async def _read(
        self, shared: Filter, after: EventId | Start | Since, now: Now
    ) -> AsyncIterator[Batch]:
        if self._closed:
            return
        feed = self._acquire(shared.match)
        reader = Reader(self._connection, self._stream, self._retention, feed, shared)
        try:
            await feed.begun()
            if after is Start.NOW and now.place is None:
                await self._publisher.settle()
            self._places.discard(now)
            await reader.start(after, now)
            while not self._closed:
                batch = await reader.next()
                if batch:
                    yield batch
        finally:
            reader.close()
            self._release(feed)

    def _acquire(self, match: KeyMatcher) -> Feed:
        timer = self._lingering.pop(match, None)
        if timer is not None:
            timer.cancel()
        feed = self._feeds.get(match)
        if feed is None or feed.ended:
            feed = self._feeds[match] = Feed(self._connection, self._stream, match, self._passing)
        feed.readers += 1
        return feed

    def _release(self, feed: Feed) -> None:
        feed.readers -= 1
        if feed.readers == 0 and self._feeds.get(feed.match) is feed:
            self._lingering[feed.match] = self._loop.call_later(LINGER_S, self._drop, feed.match)

    def _drop(self, match: KeyMatcher) -> None:
        self._lingering.pop(match, None)
        feed = self._feeds.pop(match, None)
        if feed is not None:
            ending = self._loop.create_task(feed.close())
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)

    async def _pass(self, key: str, type_: str, data: bytes, json: str, body: bytes) -> EventId:
        subject = subject_of(self._stream.passing, key)
        await self._connection.room()
        if self._closed:
            raise PlaneError(Code.UNAVAILABLE, "the event log is closed")
        if not self._connection.connected:
            raise self._connection.away()
        self._passing.sequence += 1
        event_id = self.last
        time_ns = time.time_ns()
        event = Event(event_id, key, type_, data, json, time_ns)
        self._passing.append(event)
        head = payload.Passing(event_id.epoch, event_id.sequence, time_ns)
        self._connection.send(subject, payload.encode_passing(head, body))
        for feed in self._feeds.values():
            if feed.match.matches(key):
                feed.offer(event)
        return event_id

    def _accepted(self, subject: str, accepted: Accepted) -> None:
        sequence = accepted.sequence
        if not accepted.duplicate:
            # Numbers only rise, unless the stream is another one.
            self._suspect |= sequence <= self._acknowledged
            self._acknowledged = sequence
            for now in self._places:
                now.published(sequence)
        self._passing.saw(self._passing.epoch, sequence << EPHEMERAL_BITS)
        if self._feeds:
            key = key_of(self._stream.durable, subject)
            for feed in self._feeds.values():
                if feed.match.matches(key):
                    feed.expect(sequence)

    def _unheard(self) -> None:
        if self._looking is None or self._looking.done():
            self._looking = self._loop.create_task(self._look_again())

    async def _look_again(self) -> None:
        # The stream may be lost: then this makes it anew.
        with contextlib.suppress(PlaneError):
            await self._look_at_stream()

    async def _look_at_stream(self) -> None:
        state = await self._stream.state()
        self._passing.saw(state.epoch, state.last << EPHEMERAL_BITS)


def _name(publication: Publication) -> str:
    # A header takes neither line breaks nor blanks at its ends.
    return f"{quote(publication.publisher, safe='')}:{publication.number}"


def _check_texts(type_: str, json: str) -> None:
    try:
        type_.encode()
        json.encode()
    except UnicodeEncodeError:
        raise PlaneError(
            Code.INVALID_ARGUMENT, "an event's type and JSON may hold no lone surrogates"
        ) from None
    if len(type_) > _MAX_TYPE_LENGTH:
        raise PlaneError(
            Code.INVALID_ARGUMENT,
            f"an event's type has {len(type_)} characters, and {_MAX_TYPE_LENGTH} are the most",
        )
