"""The event plane as a service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing
from typing import Any, cast

from protoplane.v1 import (
    AckRequest,
    AckResponse,
    Event,
    EventForm,
    EventPlane,
    ExtendRequest,
    ExtendResponse,
    Gap,
    NackRequest,
    NackResponse,
    PublishRequest,
    PublishResponse,
    PublishStreamRequest,
    PublishStreamResponse,
    SubscribeRequest,
    SubscribeResponse,
)
from protoplane_base import Code, Context, Duration, PlaneError, Timestamp
from protoplane_runtime.engines.groups import Delivery, GroupSettings
from protoplane_runtime.engines.interface import Event as LogEvent
from protoplane_runtime.engines.interface import EventId, Publication, Since, Start
from protoplane_runtime.engines.interface import Gap as LogGap
from protoplane_server.planes.ground import Ground
from protoplane_server.planes.paging import MAX_PAGE, parts
from protoplane_server.planes.payload import read_payload, written

_WINDOW = 256
"""Most events of one stream that are being published at once."""

_EVENT_BYTES = 128
"""What an event takes beside its texts and bytes, roughly."""


class EventsPlane(EventPlane):
    """Gives callers of any language the event log and the consumer groups of an engine."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground

    async def publish(self, request: PublishRequest, ctx: Context) -> PublishResponse:
        """Publish an event."""
        return PublishResponse(id=str(await self._publish(request)))

    async def publish_stream(
        self, requests: AsyncIterator[PublishStreamRequest], ctx: Context
    ) -> AsyncIterator[PublishStreamResponse]:
        """Publish events, many at a time, and answer in their order."""
        # Who sends faster than the log accepts, or than the answers are taken, has to wait.
        window = asyncio.Semaphore(_WINDOW)
        publishing: asyncio.Queue[asyncio.Task[EventId] | None] = asyncio.Queue()
        reading = asyncio.create_task(self._take(requests, window, publishing))
        try:
            while (one := await publishing.get()) is not None:
                yield PublishStreamResponse(id=str(await one))
                window.release()
            await reading
        finally:
            await _cancelled([reading])
            left = [publishing.get_nowait() for _ in range(publishing.qsize())]
            await _cancelled([one for one in left if one is not None])

    async def subscribe(
        self, request: SubscribeRequest, ctx: Context
    ) -> AsyncIterator[SubscribeResponse]:
        """Follow events, alone or as a member of a group."""
        answers = self._consume(request) if request.group else self._read(request)
        async with aclosing(answers):
            async for answer in answers:
                yield answer

    async def ack(self, request: AckRequest, ctx: Context) -> AckResponse:
        """Say that deliveries are done."""
        await self._ground.floor.engine.groups.acknowledge(request.tokens)
        return AckResponse()

    async def nack(self, request: NackRequest, ctx: Context) -> NackResponse:
        """Give deliveries back."""
        await self._ground.floor.engine.groups.negative_acknowledge(
            request.tokens, delay_s=_seconds(request.delay, 0.0), reason=request.reason
        )
        return NackResponse()

    async def extend(self, request: ExtendRequest, ctx: Context) -> ExtendResponse:
        """Keep deliveries for longer."""
        await self._ground.floor.engine.groups.extend(
            request.tokens, _seconds(request.visibility, GroupSettings().visibility_s)
        )
        return ExtendResponse()

    async def _publish(self, request: PublishRequest) -> EventId:
        payload = read_payload(request)
        named = request.publication
        publication = None if named is None else Publication.of(named.publisher, named.number)
        return await self._ground.floor.events.publish(
            request.key,
            request.type,
            payload.data,
            payload.json,
            durable=payload.durable if request.durable is None else request.durable,
            publication=publication,
        )

    async def _take(
        self,
        requests: AsyncIterator[PublishStreamRequest],
        window: asyncio.Semaphore,
        publishing: asyncio.Queue[asyncio.Task[EventId] | None],
    ) -> None:
        try:
            async for request in requests:
                await window.acquire()
                event = request.event or PublishRequest()
                publishing.put_nowait(asyncio.create_task(self._publish(event)))
        finally:
            publishing.put_nowait(None)

    async def _read(self, request: SubscribeRequest) -> AsyncGenerator[SubscribeResponse, None]:
        log = self._ground.floor.events
        after: EventId | Start | Since
        if request.since is not None:
            after = Since(request.since.seconds * 1_000_000_000 + request.since.nanos)
        else:
            after = _after(request.after)
        # Others may publish between here and the first step, so "now" is the id that is said.
        if after is Start.NOW:
            after = log.last
        batches = cast(
            "AsyncGenerator[Sequence[LogEvent | LogGap], None]",
            log.read(request.expressions, after=after, latest=request.latest),
        )
        async with aclosing(batches):
            yield SubscribeResponse(position=str(after) if isinstance(after, EventId) else "")
            async for batch in batches:
                for answer in self._answers(batch, request.form):
                    yield answer

    async def _consume(self, request: SubscribeRequest) -> AsyncGenerator[SubscribeResponse, None]:
        if request.since is not None or request.latest:
            raise PlaneError(
                Code.INVALID_ARGUMENT,
                f"the group {request.group} takes all events in order: leave out since and latest",
            )
        start = _after(request.after)
        plain = GroupSettings()
        settings = GroupSettings(
            visibility_s=_seconds(request.visibility, plain.visibility_s),
            max_deliveries=_or(request.max_deliveries, plain.max_deliveries),
            start=start,
            max_in_flight=_or(request.max_in_flight, plain.max_in_flight),
            ordered=not request.unordered,
        )
        groups = self._ground.floor.engine.groups
        batches = groups.consume(request.group, request.expressions, settings)
        async with aclosing(batches):
            yield SubscribeResponse()
            async for batch in batches:
                for answer in self._answers(batch, request.form):
                    yield answer

    def _answers(
        self, batch: Sequence[LogEvent | Delivery | LogGap], form: EventForm | int
    ) -> Iterator[SubscribeResponse]:
        events: list[Event] = []
        gap: LogGap | None = None
        for item in batch:
            if isinstance(item, LogGap):
                yield from self._answer(events, gap)
                events, gap = [], item
            elif isinstance(item, Delivery):
                events.append(_event(item.event, form, item.token, item.attempt))
            else:
                events.append(_event(item, form))
        yield from self._answer(events, gap)

    def _answer(self, events: list[Event], gap: LogGap | None) -> Iterator[SubscribeResponse]:
        told = None if gap is None else _gap(gap)
        pages = [*parts(events, _size, self._ground.max_bytes, MAX_PAGE)]
        if told is not None and not pages:
            yield SubscribeResponse(gap=told)
        for page in pages:
            yield SubscribeResponse(events=page, gap=told)
            told = None


def _after(text: str) -> EventId | Start:
    if text in ("", "now"):
        return Start.NOW
    if text == "earliest":
        return Start.EARLIEST
    try:
        return EventId.parse(text)
    except ValueError as error:
        raise PlaneError(
            Code.INVALID_ARGUMENT, f"{error}; 'earliest' and 'now' do as well"
        ) from None


def _event(event: LogEvent, form: EventForm | int, token: str = "", attempt: int = 0) -> Event:
    data, json = written(event, as_json=form == EventForm.EVENT_FORM_JSON)
    return Event(
        id=str(event.id),
        key=event.key,
        type=event.type,
        data=data,
        json_text=json,
        time=Timestamp(*divmod(event.time_ns, 1_000_000_000)),
        token=token,
        attempt=attempt,
    )


def _gap(gap: LogGap) -> Gap:
    return Gap(
        asked=str(gap.asked),
        oldest=None if gap.oldest is None else str(gap.oldest),
        next=str(gap.next),
        ephemeral=gap.ephemeral,
    )


def _size(event: Event) -> int:
    return (
        len(event.key) + len(event.type) + len(event.data or event.json_text or "") + _EVENT_BYTES
    )


def _seconds(span: Duration | None, default: float) -> float:
    return default if span is None else span.total_seconds


def _or(value: int | None, default: int) -> int:
    return default if value is None else value


async def _cancelled(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Cancel tasks and wait until they are over; what came of them is of no interest any more."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
