"""Durable events: published by 128 tasks of one process, against JetStream; and read again.

Every publisher waits for its event to be on disk before it publishes the next. Ours makes a typed
event, encodes it and publishes it through the `EventLog` of the engine ``local:``. JetStream is a
server of its own with ``sync_interval: always``, reached by nats-py, and is given the event's JSON,
encoded beforehand: once by 128 tasks that wait as ours do, and once with up to 4,000 publications
under way, which is nats-py's own limit. Its better figure is the peer's. The files of both are on
one disk. Then new processes read all of ours from the start.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter

from events_processes import Desk, Role, Worker
from events_sample import EVENT_BYTES, EXPRESSION, KEY, TYPE, event
from report import Claim, Row
from request_plane_side import untyped

PUBLISHERS = 128
_MOST_UNDER_WAY = 4_000
# The whole log, and what one asks for of a log that others use too. Both are all there is.
_REPLAYED = ("**", EXPRESSION)
_SUBJECT = "bench.events"


# Roles.


async def publish_ours(desk: Desk, *, url: str, events: int) -> None:
    """Publish, and tell how fast."""
    from protoplane_runtime.engines.opening import open_engine

    engine = await open_engine(url)
    try:

        async def publish(number: int) -> None:
            made = event(number)
            data, text = made.to_bytes(), made.model_dump_json()
            await engine.events.publish(KEY, TYPE, data, text, durable=True)

        await _by_tasks(publish, PUBLISHERS * 4)
        desk.tell(**await _by_tasks(publish, events))
        await desk.order()
    finally:
        await engine.close()


async def publish_jetstream(desk: Desk, *, url: str, events: int, tasks: bool) -> None:
    """Publish, and tell how fast."""
    connection = await untyped("nats").connect(url, pending_size=64 * 1024 * 1024)
    try:
        stream = connection.jetstream(publish_async_max_pending=_MOST_UNDER_WAY)
        await stream.add_stream(name="bench", subjects=[_SUBJECT])
        made = [event(number).model_dump_json().encode() for number in range(events)]

        async def publish(number: int) -> None:
            await (await stream.publish_async(_SUBJECT, made[number]))

        await _by_tasks(publish, min(events, PUBLISHERS * 4))
        desk.tell(**await _by_tasks(publish, events, PUBLISHERS if tasks else _MOST_UNDER_WAY))
        await desk.order()
    finally:
        await connection.close()


async def replay(desk: Desk, *, url: str, expression: str, events: int) -> None:
    """Read so many events from the start, and tell how fast."""
    from protoplane_runtime.engines.interface import Start
    from protoplane_runtime.engines.opening import open_engine

    engine = await open_engine(url)
    try:
        read = 0
        started = perf_counter()
        async for batch in engine.events.read([expression], after=Start.EARLIEST):
            read += len(batch)
            if read >= events:
                break
        desk.tell(rate=read / (perf_counter() - started))
        await desk.order()
    finally:
        await engine.close()


async def serve_jetstream(desk: Desk, *, folder: str) -> None:
    """Run a NATS server, and tell its URL."""
    from request_plane_broker import broker

    async with broker(Path(folder)) as url:
        desk.tell(url=url)
        await desk.order()


ROLES: dict[str, Role] = {
    "publisher": publish_ours,
    "JetStream publisher": publish_jetstream,
    "replay": replay,
    "JetStream": serve_jetstream,
}


async def _by_tasks(
    publish: Callable[[int], Awaitable[None]], events: int, tasks: int = PUBLISHERS
) -> dict[str, float]:
    """Events a second of so many tasks that each wait for their own, and what the slowest take."""
    numbers = iter(range(events))
    spent: list[float] = []

    async def publishing() -> None:
        for number in numbers:
            began = perf_counter()
            await publish(number)
            spent.append(perf_counter() - began)

    started = perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(tasks):
            group.create_task(publishing())
    elapsed = perf_counter() - started
    spent.sort()
    return {"rate": events / elapsed, "p99_ms": spent[int(len(spent) * 0.99)] * 1e3}


# What is measured.


def durable_events(folder: Path, jetstream: str, *, full: bool) -> tuple[list[Row], list[Claim]]:
    """Publications and replay of ``local:`` in new folders of a folder, against JetStream.

    Args:
        folder: On the disk that JetStream's files are on.
        jetstream: URL of a server.
        full: Whether to take the time for more events and more rounds.
    """
    count, peers = (500_000, 20_000) if full else (100_000, 2_000)
    figures: dict[tuple[str, str], list[float]] = defaultdict(list)
    ratios: list[float] = []
    ours, theirs = "local:", "JetStream, nats-py"
    for _ in range(5 if full else 3):
        with TemporaryDirectory(dir=folder) as engine:
            url = f"local:{engine}"
            with Worker("publisher", url=url, events=count) as publisher:
                answer = publisher.answer()
            _note(figures, ours, f"publish, {PUBLISHERS} tasks", answer)
            for expression in _REPLAYED:
                with Worker("replay", url=url, expression=expression, events=count) as reader:
                    figures[ours, f"replay of {expression}"].append(reader.answer()["rate"])
        best = 0.0
        for tasks, metric in (
            (True, f"publish, {PUBLISHERS} tasks"),
            (False, "publish, pipelined"),
        ):
            given = {"url": jetstream, "events": peers, "tasks": tasks}
            with Worker("JetStream publisher", **given) as publisher:
                peer = publisher.answer()
            _note(figures, theirs, metric, peer)
            best = max(best, peer["rate"])
        ratios.append(answer["rate"] / best)
    rows = [
        Row(name, metric, median(values), "ms" if "p99" in metric else "events/s")
        for (name, metric), values in figures.items()
    ]
    published = median(figures[ours, f"publish, {PUBLISHERS} tasks"])
    said = f"local: durable {EVENT_BYTES}-byte events"
    return rows, [
        Claim(f"{said} published, events/s", 40_000, published),
        Claim(f"{said} published, times JetStream with sync always", 1, median(ratios)),
        *(
            Claim(
                f"{said} replayed, {expression}, events/s",
                500_000,
                median(figures[ours, f"replay of {expression}"]),
            )
            for expression in _REPLAYED
        ),
    ]


def _note(
    figures: dict[tuple[str, str], list[float]], name: str, metric: str, answer: dict[str, float]
) -> None:
    figures[name, metric].append(answer["rate"])
    figures[name, f"{metric}, p99"].append(answer["p99_ms"])
