"""How long an event takes from one process to another, at 200 events a second.

From just before it is published to when a reader in another process has it, by the clock that both
share. An engine's events are durable or ephemeral; bare nats-py publishes the same event's JSON by
JetStream or without it. Each way has two processes of its own, and the ways take turns.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from itertools import count
from statistics import median
from time import monotonic_ns
from typing import Protocol

from events_processes import Desk, Role, Worker, WorkerError
from events_sample import EXPRESSION, KEY, TYPE, event, number_of
from report import Claim, Row
from request_plane_side import untyped

from forge.captioner.v1 import CaptionFinished

RATE = 200
_WARM_UP = 20
_SUBJECT = "bench.latency.{}"
_STREAMS = count(1)


# The ways of an event.


class Way(Protocol):
    """A way from who publishes to who reads."""

    async def publish(self, made: CaptionFinished) -> None:
        """Publish an event."""
        ...

    def read(self) -> AsyncGenerator[Sequence[bytes | str], None]:
        """What was published since, as it arrives."""
        ...


class EngineWay:
    """An engine's event log."""

    def __init__(self, url: str, *, durable: bool) -> None:
        self._url = url
        self._durable = durable

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[EngineWay]:
        """Open the engine for the time of the block."""
        from protoplane_runtime.engines.opening import open_engine

        engine = await open_engine(self._url)
        self._log = engine.events
        try:
            yield self
        finally:
            await engine.close()

    async def publish(self, made: CaptionFinished) -> None:
        """See `Way.publish`."""
        data, text = made.to_bytes(), made.model_dump_json()
        await self._log.publish(KEY, TYPE, data, text, durable=self._durable)

    async def read(self) -> AsyncGenerator[Sequence[bytes | str], None]:
        """See `Way.read`."""
        from protoplane_runtime.engines.interface import Event

        async for batch in self._log.read([EXPRESSION]):
            yield [each.json for each in batch if isinstance(each, Event)]


class NatsWay:
    """Bare nats-py."""

    def __init__(self, url: str, subject: str, *, durable: bool) -> None:
        self._url = url
        self._subject = subject
        self._durable = durable

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[NatsWay]:
        """Connect for the time of the block."""
        self._connection = connection = await untyped("nats").connect(self._url)
        try:
            if self._durable:
                self._stream = connection.jetstream()
                name = self._subject.replace(".", "-")
                await self._stream.add_stream(name=name, subjects=[self._subject])
            yield self
        finally:
            await connection.close()

    async def publish(self, made: CaptionFinished) -> None:
        """See `Way.publish`."""
        data = made.model_dump_json().encode()
        if self._durable:
            await self._stream.publish(self._subject, data)
        else:
            await self._connection.publish(self._subject, data)

    async def read(self) -> AsyncGenerator[Sequence[bytes | str], None]:
        """See `Way.read`."""
        if self._durable:
            pushed = await self._stream.subscribe(self._subject, ordered_consumer=True)
            while True:
                try:
                    message = await pushed.next_msg(timeout=10)
                except TimeoutError:
                    return
                yield [message.data]
        subscription = await self._connection.subscribe(self._subject)
        await self._connection.flush()
        async for message in subscription.messages:
            yield [message.data]


def _way(url: str, subject: str, *, durable: bool) -> EngineWay | NatsWay:
    if subject:
        return NatsWay(url, subject, durable=durable)
    return EngineWay(url, durable=durable)


# Roles.


async def read_events(desk: Desk, *, url: str, subject: str, durable: bool, events: int) -> None:
    """Read so many events, and tell when each arrived."""
    arrived: dict[int, int] = {}

    def note(texts: Sequence[bytes | str]) -> None:
        now = monotonic_ns()
        for text in texts:
            arrived[number_of(CaptionFinished.model_validate_json(text).words)] = now

    async def read(way: Way, ready: asyncio.Event) -> None:
        async with aclosing(way.read()) as read:
            asyncio.get_running_loop().call_later(0.3, ready.set)
            async for texts in read:
                note(texts)
                if len(arrived) >= events:
                    return

    async with _way(url, subject, durable=durable).opened() as way:
        ready = asyncio.Event()
        reading = asyncio.create_task(read(way, ready))
        await ready.wait()
        desk.tell(ready=True)
        async with asyncio.timeout(60):
            await reading
    desk.tell(times=[arrived[number] for number in range(events)])


async def publish_events(desk: Desk, *, url: str, subject: str, durable: bool, events: int) -> None:
    """Publish so many events at `RATE`, and tell when each was."""
    times: list[int] = []
    async with _way(url, subject, durable=durable).opened() as way:
        desk.tell(ready=True)
        await desk.order()
        loop = asyncio.get_running_loop()
        started = loop.time()
        for number in range(events):
            await asyncio.sleep(started + number / RATE - loop.time())
            made = event(number)
            times.append(monotonic_ns())
            await way.publish(made)
        desk.tell(times=times)
        # Until the reader has them all.
        await desk.order()


ROLES: dict[str, Role] = {"latency reader": read_events, "latency publisher": publish_events}


# What is measured.


@dataclass(frozen=True, slots=True)
class Course:
    """A row: what is published where."""

    name: str
    url: str
    durable: bool
    bare: bool = False

    @property
    def metric(self) -> str:
        """What is measured of it."""
        return f"{'durable' if self.durable else 'ephemeral'} event to another process"


def latencies(
    local: str, nats: str, *, full: bool, absent: dict[str, str]
) -> tuple[list[Row], list[Claim]]:
    """Every way's latency; why one could not be measured goes into ``absent``.

    Args:
        local: URL of a local engine.
        nats: URL of a NATS server with JetStream.
        full: Whether to take the time for more events and more rounds.
        absent: What could not be measured, and why.
    """
    courses = [
        Course(name, url, durable, bare)
        for durable in (True, False)
        for name, url, bare in (
            ("local:", local, False),
            ("nats:", nats, False),
            ("bare nats-py", nats, True),
        )
    ]
    rounds, events = (5, 2_000) if full else (2, 200)
    spent: dict[Course, list[list[float]]] = defaultdict(list)
    for _ in range(rounds):
        for course in courses:
            if course.name not in absent:
                try:
                    measured = _measured(course, events)
                except WorkerError as error:
                    absent[course.name] = str(error)
                else:
                    spent[course].append(measured)
    rows: list[Row] = []
    for course, lists in spent.items():
        middles, slow = [median(each) for each in lists], [_p99(each) for each in lists]
        rows.append(Row(course.name, f"{course.metric}, median", median(middles), "ms"))
        rows.append(Row(course.name, f"{course.metric}, p99", median(slow), "ms"))
    medians = {
        (each.name, each.durable): [median(values) for values in spent[each]] for each in courses
    }
    claims: list[Claim] = []
    for durable, bound in ((True, 2), (False, 1)):
        said = f"{'durable' if durable else 'ephemeral'} event to another process"
        ours = medians["local:", durable]
        claims.append(Claim(f"local: {said}, median, ms", bound, _median(ours), at_most=True))
    for durable in (True, False):
        said = f"{'durable' if durable else 'ephemeral'} event to another process"
        pairs = zip(medians["nats:", durable], medians["bare nats-py", durable], strict=False)
        ratio = _median([ours / theirs for ours, theirs in pairs])
        claims.append(Claim(f"nats: {said}, of bare nats-py", 1.5, ratio, at_most=True))
    return rows, claims


def _measured(course: Course, events: int) -> list[float]:
    """Milliseconds of each event, save those of the warm-up."""
    subject = _SUBJECT.format(next(_STREAMS)) if course.bare else ""
    given = {
        "url": course.url,
        "subject": subject,
        "durable": course.durable,
        "events": _WARM_UP + events,
    }
    with Worker("latency publisher", **given) as publisher:
        publisher.answer()
        with Worker("latency reader", **given) as reader:
            reader.answer()
            published = publisher.ask("publish")["times"]
            arrived = reader.answer()["times"]
    pairs = zip(published, arrived, strict=True)
    return [(after - before) / 1e6 for before, after in pairs][_WARM_UP:]


def _p99(values: Sequence[float]) -> float:
    return sorted(values)[int(len(values) * 0.99)]


def _median(values: Sequence[float]) -> float:
    return median(values) if values else float("nan")
