"""A NATS server behind several processes: found by name, one log of events, gone when they die."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from tests.cli.conftest import Run, Served, shown
from tests.nats_server import nats_server, needs_nats_server

from forge.captioner.v1 import CaptionerClient, CaptionFinished, ListStylesRequest
from protoplane_client import Received, connect
from protoplane_runtime.engines.interface import Gap, Start

pytest.importorskip("nats")

pytestmark = needs_nats_server

CAPTIONER = "protoplane_components.captioner:Captioner"
PLACE = ["--grpc", "0", "--http", "0"]


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[str]:
    with nats_server(tmp_path, jetstream=tmp_path / "jetstream") as server:
        yield server.url


@pytest.fixture
def serve(environment: dict[str, str], engine: str) -> Iterator[Callable[[], Served]]:
    """Starts processes that are ended with the test."""
    started: list[Served] = []

    def start() -> Served:
        started.append(Served(environment, CAPTIONER, *PLACE, "--engine", engine))
        return started[-1]

    yield start
    for served in started:
        if served.process.poll() is None:
            kill(served)


async def heard(events: AsyncIterator[Received | Gap]) -> str:
    """Key of the next event. Elsewhere, ephemeral ones before it may have been missed."""
    while isinstance(event := await anext(events), Gap):
        assert event.ephemeral
    return event.key


def kill(served: Served) -> None:
    served.process.kill()
    served.process.wait()
    assert served.process.stderr is not None
    served.process.stderr.close()


def test_a_server_of_nats_stands_behind(run: Run, serve: Callable[[], Served], engine: str) -> None:
    first = serve()
    listed = run("ps", "--json", "--engine", engine)
    assert listed.returncode == 0, listed.stderr
    [found] = [json.loads(line) for line in listed.stdout.splitlines()]
    assert found["pid"] == first.process.pid

    async def scenario() -> None:
        async with connect("forge/captioner", engine=engine) as plane, asyncio.timeout(60):
            client = CaptionerClient(plane)
            assert (await client.list_styles(ListStylesRequest())).styles
            events = plane.subscribe("forge/**", after=Start.EARLIEST)
            await plane.publish("forge/captions/1", CaptionFinished(words=1))
            assert await heard(events) == "forge/captions/1"
            second = await asyncio.to_thread(serve)
            kill(first)
            for _ in range(10):
                await client.list_styles(ListStylesRequest(), timeout_s=10)
            await plane.publish("forge/captions/2", CaptionFinished(words=2))
            assert await heard(events) == "forge/captions/2"
            await events.aclose()  # type: ignore[attr-defined]
            assert await asyncio.to_thread(second.stop) == 0

    asyncio.run(scenario())
    gone = run("ps", "--json", "--engine", engine)
    assert (gone.returncode, gone.stdout) == (0, ""), gone.stderr


def test_no_server_is_one_line(run: Run) -> None:
    done = run("ps", "--engine", "nats://127.0.0.1:1")
    assert done.returncode == 1
    assert "no NATS server at 127.0.0.1:1" in done.stderr
    assert "Traceback" not in done.stderr


def test_ps_watch_tells_of_a_kill(
    environment: dict[str, str], serve: Callable[[], Served], engine: str
) -> None:
    with shown(environment, "ps", "--watch", "--json", "--engine", engine) as process:
        assert process.stdout is not None
        served = serve()
        assert json.loads(process.stdout.readline())["change"] == "joined"
        kill(served)
        assert json.loads(process.stdout.readline())["change"] == "left"
        process.terminate()
