"""The groups of the engine `nats:` keep the suite, with a real server."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing, asynccontextmanager

import pytest
from tests.nats_server import NatsServer, nats_server, needs_nats_server
from tests.runtime.event_log_suite import publish
from tests.runtime.groups_suite import GroupsSuite, take, tokens

from protoplane_runtime.engines.engine import Engine
from protoplane_runtime.engines.groups import GroupSettings
from protoplane_runtime.engines.interface import Start
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
