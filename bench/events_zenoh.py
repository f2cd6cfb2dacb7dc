"""The engine zenoh: between two processes of one machine, without a broker.

How long an event takes from one to the other at 200 a second, and how many of a burst of 10,000
ephemeral events arrive. Zenoh by itself drops what its queues do not hold; the engine has it wait.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import monotonic_ns

from events_processes import Desk, Role, Worker, WorkerError
from events_sample import EXPRESSION, KEY, TYPE, event
from report import Claim, Row

_BURST = 10_000
_QUIET_S = 5.0
_WARM_UP = 20


# Roles.


async def read_burst(desk: Desk, *, url: str, events: int) -> None:
    """Read so many events, or until none comes for a while; tell how many, and when the last."""
    from protoplane_runtime.engines.interface import Event
    from protoplane_runtime.engines.opening import open_engine

    engine = await open_engine(url)
    got, last_ns = 0, 0
    reader = engine.events.read([EXPRESSION])
    desk.tell(ready=True)
    while got < events:
        try:
            async with asyncio.timeout(_QUIET_S if got else 60):
                batch = await anext(reader)
        except TimeoutError:
            break
        got += sum(isinstance(each, Event) for each in batch)
        last_ns = monotonic_ns()
    desk.tell(got=got, last_ns=last_ns)
    await desk.order()
    await engine.close()


async def publish_burst(desk: Desk, *, url: str, events: int) -> None:
    """Publish so many events at once; tell when it began."""
    from protoplane_runtime.engines.opening import open_engine

    engine = await open_engine(url)
    made = event(0)
    data, text = made.to_bytes(), made.model_dump_json()
    desk.tell(ready=True)
    await desk.order()
    began_ns = monotonic_ns()
    await asyncio.gather(*(engine.events.publish(KEY, TYPE, data, text) for _ in range(events)))
    desk.tell(began_ns=began_ns)
    await desk.order()
    await engine.close()


ROLES: dict[str, Role] = {"burst reader": read_burst, "burst publisher": publish_burst}


# What is measured.


def zenoh_events(*, full: bool, absent: dict[str, str]) -> tuple[list[Row], list[Claim]]:
    """The engine's latencies and its burst; why they could not be measured goes into ``absent``.

    Args:
        full: Whether to take the time for more events and more rounds.
        absent: What could not be measured, and why.
    """
    rounds, events = (5, 2_000) if full else (2, 200)
    spent: dict[bool, list[list[float]]] = {True: [], False: []}
    bursts: list[tuple[int, float]] = []
    if "zenoh:" not in absent:
        try:
            for _ in range(rounds):
                for durable, lists in spent.items():
                    lists.append(_latencies(events, durable=durable))
                bursts.append(_burst())
        except WorkerError as error:
            absent["zenoh:"] = str(error)
    rows: list[Row] = []
    for durable, lists in spent.items():
        if lists:
            metric = f"{'durable' if durable else 'ephemeral'} event to another process"
            slow = [_p99(each) for each in lists]
            rows.append(Row("zenoh:", f"{metric}, median", _middle(lists), "ms"))
            rows.append(Row("zenoh:", f"{metric}, p99", median(slow), "ms"))
    share = min((got / _BURST for got, _ in bursts), default=float("nan"))
    if bursts:
        rate = max(got / spent_s for got, spent_s in bursts)
        rows.append(Row("zenoh:", f"burst of {_BURST} ephemeral events, arrived", share, "share"))
        rows.append(Row("zenoh:", f"burst of {_BURST} ephemeral events", rate, "events/s"))
    said = f"zenoh: share of a burst of {_BURST} events that arrives, worst"
    return rows, [Claim(said, 1.0, share)]


def _latencies(events: int, *, durable: bool) -> list[float]:
    """Milliseconds of each event, save those of the warm-up."""
    with TemporaryDirectory(prefix="bench-zenoh-") as folder:
        one, two = _urls(Path(folder))
        given = {"subject": "", "durable": durable, "events": _WARM_UP + events}
        with Worker("latency publisher", url=one, **given) as publisher:
            publisher.answer()
            with Worker("latency reader", url=two, **given) as reader:
                reader.answer()
                published = publisher.ask("publish")["times"]
                arrived = reader.answer()["times"]
    pairs = zip(published, arrived, strict=True)
    return [(after - before) / 1e6 for before, after in pairs][_WARM_UP:]


def _burst() -> tuple[int, float]:
    """How many events arrived, and the seconds from the first to the last of them."""
    with TemporaryDirectory(prefix="bench-zenoh-") as folder:
        one, two = _urls(Path(folder))
        with Worker("burst reader", url=one, events=_BURST) as reader:
            reader.answer()
            with Worker("burst publisher", url=two, events=_BURST) as publisher:
                publisher.answer()
                began_ns = publisher.ask("publish")["began_ns"]
                arrived = reader.answer()
    return arrived["got"], max(1, arrived["last_ns"] - began_ns) / 1e9


def _urls(folder: Path) -> tuple[str, str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        hub = f"tcp/127.0.0.1:{probe.getsockname()[1]}"
    return (
        f"zenoh:?listen={hub}&folder={folder}/one",
        f"zenoh:{hub}?listen=tcp/127.0.0.1:0&folder={folder}/two",
    )


def _middle(lists: Sequence[Sequence[float]]) -> float:
    return median([median(each) for each in lists])


def _p99(values: Sequence[float]) -> float:
    return sorted(values)[int(len(values) * 0.99)]
