"""The groups of the engine `nats:` keep the suite, with a real server."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest
from tests.nats_server import NatsServer, NatsServers, nats_server, needs_nats_server
from tests.runtime.event_log_suite import publish
from tests.runtime.groups_suite import GroupsSuite, take, tokens

from protoplane_runtime.engines.engine import Engine
from protoplane_runtime.engines.groups import GroupSettings
from protoplane_runtime.engines.interface import Start
from protoplane_runtime.engines.log_groups import NAMESPACE
from protoplane_runtime.engines.opening import open_engine

pytest.importorskip("nats")

pytestmark = [needs_nats_server, pytest.mark.anyio]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[NatsServer]:
    folder = tmp_path_factory.mktemp("nats")
    with nats_server(folder, jetstream=folder / "jetstream") as running:
        yield running


class TestNatsGroups(GroupsSuite):
    @pytest.fixture(autouse=True)
    def url(self, server: NatsServer) -> None:
        self.engine_url = f"{server.url}?stream=test{os.urandom(4).hex()}"

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[Engine]:
        engine = await open_engine(self.engine_url)
        yield engine
        await engine.close()

    @asynccontextmanager
    async def other(self, engine: Engine) -> AsyncGenerator[Engine]:
        other = await open_engine(engine.url)
        yield other
        await other.close()

    async def test_ephemeral_events_are_not_delivered(self, engine: Engine) -> None:
        settings = GroupSettings(start=Start.EARLIEST, ordered=False)
        async with aclosing(engine.groups.consume("g", ["a"], settings)) as batches:
            waiting = asyncio.ensure_future(take(batches, 1))
            await publish(engine.events, "a")
            later = await publish(engine.events, "a", durable=True)
            [one] = await waiting
            assert one.event.id == later
            await engine.groups.acknowledge(tokens([one]))


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_who_comes_while_the_server_is_away_waits_for_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with NatsServers(tmp_path) as servers:
        server = servers.start()
        engine = await open_engine(server.url)
        event_id = await publish(engine.events, "a", durable=True)
        server.kill()
        settings = GroupSettings(start=Start.EARLIEST)
        async with aclosing(engine.groups.consume("g", ["a"], settings)) as batches:
            taking = asyncio.ensure_future(take(batches, 1))
            async with asyncio.timeout(30):
                while "wait for their engine" not in caplog.text:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            servers.start(server.port)
            [one] = await taking
            assert one.event.id == event_id
            # Others see when it dies.
            assert len(await engine.discovery.instances(namespace=NAMESPACE)) == 1
            await engine.groups.acknowledge(tokens([one]))
        await engine.close()


async def test_groups_are_closed_while_the_server_is_away(tmp_path: Path) -> None:
    with NatsServers(tmp_path) as servers:
        server = servers.start()
        engine = await open_engine(server.url)
        server.kill()
        consuming = asyncio.ensure_future(anext(engine.groups.consume("g", ["a"]), None))
        await asyncio.sleep(0.2)
        await engine.close()
        async with asyncio.timeout(30):
            assert await consuming is None
