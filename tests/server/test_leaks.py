"""What calls leave behind, however they end: nothing on a server that goes on, or that stopped."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import struct
from collections import Counter
from collections.abc import Coroutine, Iterable, Iterator
from typing import Any
from weakref import WeakSet

import pytest
from tests.component_suite import KINDS, Harness, component_options, do, eventually
from tests.parts import Parts

from protoplane_base import PlaneError
from protoplane_client import BreakerPolicy, Plane, Policy, connect
from protoplane_runtime.engines.memory import MemoryLog
from protoplane_server import Dispatcher, Limits, Server

TIMES = 20
"""How often a round makes each call."""

SLACK = 15
"""Objects of a class that come and go: what is remembered up to a bound, and what is going on."""

DOORS = ["link", "inproc", "grpc", "http"]

# Many calls fail here on purpose, and none is to be kept from the server for it.
UNBROKEN = Policy(breaking=BreakerPolicy(consecutive=1_000_000, minimum=1_000_000))


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def unlogged() -> Iterator[None]:
    """What pytest catches of a log holds an error, and all that its traceback saw."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture(params=DOORS)
def door(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


@pytest.mark.anyio
async def test_a_server_that_goes_on_keeps_nothing_of_its_calls(door: str) -> None:
    parts, server = _component()
    async with server, _plane(server, door) as plane:
        harness = Harness(plane, parts, server)
        await _round(harness, 0)
        before = _alive()
        await _round(harness, 1)
        await _round(harness, 2)
        assert await _kept_since(before) == {}


@pytest.mark.anyio
async def test_a_server_keeps_nothing_of_callers_that_left(door: str) -> None:
    parts, server = _component()
    async with server:
        await _visits(parts, server, door)
        before = _alive()
        await _visits(parts, server, door)
        await _visits(parts, server, door)
        assert await _kept_since(before) == {}


@pytest.mark.anyio
async def test_http_keeps_nothing_of_connections_that_were_reset() -> None:
    _, server = _component()
    async with server:
        port = int(str(server.http_url).rpartition(":")[2])
        before = _alive()
        for _ in range(2 * SLACK):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /healthz HTTP/1.1\r\nhost: here\r\n\r\n")
            await reader.readuntil(b"\r\n\r\n")
            # With no time to linger, a socket that closes resets its connection.
            connection = writer.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        assert await _kept_since(before) == {}


def test_nothing_is_left_of_a_server_that_stopped(door: str) -> None:
    dispatchers: WeakSet[Dispatcher] = WeakSet()

    async def live() -> None:
        parts, server = _component()
        dispatchers.add(server.dispatcher)
        async with server, _plane(server, door) as plane:
            await _round(Harness(plane, parts, server), 0)

    # A loop of its own: gRPC keeps the loops that it ran on, and a test runner hangs on to its
    # loop all that a test had.
    asyncio.run(live())
    gc.collect()
    assert len(dispatchers) == 0


def _component() -> tuple[Parts, Server]:
    parts = Parts()
    options = component_options(
        grpc="127.0.0.1:0",
        http="127.0.0.1:0",
        link=("link+tcp://127.0.0.1:0",),
        inproc="leaks",
        limits=Limits(max_replies=10),
    )
    return parts, Server(parts, options, events=MemoryLog(max_events=10))


def _plane(server: Server, door: str) -> Plane:
    targets = {
        "link": server.link_addresses[0],
        "inproc": "inproc:leaks",
        "grpc": str(server.grpc_address),
        "http": str(server.http_url),
    }
    return connect(targets[door], policy=UNBROKEN)


async def _round(harness: Harness, number: int) -> None:
    """Calls of all kinds that end in every way, each of them `TIMES` times."""
    for kind in KINDS:
        await _ended(harness.call(kind) for _ in range(TIMES))
        await _ended(harness.call(kind, metadata=do("trailers")) for _ in range(TIMES))
        await _ended(harness.call(kind, metadata=do("fail")) for _ in range(TIMES))
        await _ended(harness.call(kind, metadata=do("hang"), timeout_s=0.02) for _ in range(TIMES))
        await _ended(harness.call(kind, idempotency_key=f"round {number}") for _ in range(TIMES))
        cancelled = await _hanging(harness, kind, TIMES)
        for task in cancelled:
            task.cancel()
        await asyncio.wait(cancelled)
    await _settled(harness.parts, harness.server)


async def _visits(parts: Parts, server: Server, door: str) -> None:
    """Callers that connect, call and leave, half of them while calls are open."""
    for index in range(TIMES):
        plane = _plane(server, door)
        harness = Harness(plane, parts, server)
        kind = KINDS[index % len(KINDS)]
        await harness.call(kind)
        left = await _hanging(harness, kind, 2) if index % 2 else []
        await plane.aclose()
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
    await _settled(parts, server)


async def _hanging(harness: Harness, kind: str, many: int) -> list[asyncio.Task[Any]]:
    """Calls that have reached their handlers, and hang there."""
    calls = [asyncio.create_task(harness.call(kind, metadata=do("hang"))) for _ in range(many)]
    await harness.parts.until(hanging=many)
    return calls


async def _ended(calls: Iterable[Coroutine[Any, Any, Any]]) -> None:
    """Make calls at the same time; they may fail, but only as calls do."""
    for outcome in await asyncio.gather(*calls, return_exceptions=True):
        if isinstance(outcome, BaseException) and not isinstance(outcome, PlaneError):
            raise outcome


async def _settled(parts: Parts, server: Server) -> None:
    await parts.until(hanging=0)
    await eventually(lambda: server.dispatcher.open_calls == 0)
    parts.contexts.clear()
    parts.remaining_s.clear()


def _alive() -> Counter[str]:
    """How many objects of this project and tasks there are, by class."""
    gc.collect()
    classes: Counter[type[Any]] = Counter(map(type, gc.get_objects()))
    return Counter(
        {
            f"{found.__module__}.{found.__qualname__}": many
            for found, many in classes.items()
            if str(found.__module__).startswith(("protoplane", "forge")) or found is asyncio.Task
        }
    )


async def _kept_since(before: Counter[str]) -> dict[str, int]:
    """What there is more of; doors and clients have five seconds to be done with calls."""
    kept: dict[str, int] = {}
    for _ in range(50):
        kept = {name: many for name, many in (_alive() - before).items() if many > SLACK}
        if not kept:
            break
        await asyncio.sleep(0.1)
    return kept
