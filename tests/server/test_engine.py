"""A server on an engine: its events are the engine's, and others find it while it takes calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest
from tests.component_suite import LIST_STYLES, component_options, do, eventually
from tests.parts import Parts

from forge.captioner.v1 import ListStylesRequest
from protoplane_base import Code, PlaneError
from protoplane_client import connect
from protoplane_runtime.engines.discovery import Left
from protoplane_runtime.engines.interface import Event, Start
from protoplane_runtime.engines.local.discovery import LocalDiscovery
from protoplane_runtime.engines.memory import MemoryLog
from protoplane_server import Options, Server

pytestmark = pytest.mark.anyio

NAME = "forge/captioner/one"


@pytest.fixture
async def others(tmp_path: Path) -> AsyncIterator[LocalDiscovery]:
    discovery = LocalDiscovery(tmp_path)
    yield discovery
    await discovery.close()


async def test_its_events_outlive_it(tmp_path: Path) -> None:
    options = component_options(engine=f"local:{tmp_path}")
    async with Server(Parts(), options) as server:
        first = await server.events.publish("a/b", "x", b"", "{}", durable=True)
    async with Server(Parts(), options) as server:
        second = await server.events.publish("a/b", "x", b"", "{}", durable=True)
        batch = await anext(server.events.read(["**"], after=Start.EARLIEST))
        assert [each.id for each in batch if isinstance(each, Event)] == [first, second]
    with pytest.raises(PlaneError):
        await server.events.publish("a/b", "x", b"", "{}")


async def test_others_find_it_by_its_doors(others: LocalDiscovery, tmp_path: Path) -> None:
    unix = f"link+unix:{tmp_path / 'x.sock'}"
    options = Options(
        grpc="127.0.0.1:0",
        http="127.0.0.1:0",
        link=("link+tcp://127.0.0.1:0", unix),
        inproc="test-engine",
        engine=f"local:{tmp_path}",
        name=NAME,
    )
    async with Server(Parts(), options) as server:
        [found] = await others.instances("forge/captioner")
        assert found.name == NAME
        assert found.services == ("forge.captioner.v1.CaptionerService",)
        assert found.log == str(server.events.last.epoch)
        tcp = server.link_addresses[0]
        rest = (
            f"link+grpc://{server.grpc_address}",
            f"grpc://{server.grpc_address}",
            str(server.http_url),
        )
        assert found.endpoints == ("inproc:test-engine", unix, tcp, *rest)
        await server.relink([unix])
        [found] = await others.instances(NAME)
        assert found.endpoints == ("inproc:test-engine", unix, *rest)
    assert not await others.instances()


async def test_it_leaves_before_it_drains(others: LocalDiscovery, tmp_path: Path) -> None:
    options = component_options(grpc="127.0.0.1:0", engine=f"local:{tmp_path}", name=NAME)
    server = Server(Parts(), options)
    await server.start()
    async with connect(f"grpc://{server.grpc_address}") as plane, asyncio.timeout(20):
        request = ListStylesRequest()
        call = asyncio.create_task(plane.unary(LIST_STYLES, request, {"metadata": do("hang")}))
        await eventually(lambda: server.dispatcher.open_calls == 1)
        async with aclosing(others.watch(NAME)) as batches:
            await anext(batches)
            stopping = asyncio.create_task(server.stop(15))
            [left] = await anext(batches)
        assert isinstance(left, Left)
        assert server.dispatcher.open_calls == 1
        call.cancel()
        await stopping


async def test_a_name_is_taken_once(tmp_path: Path) -> None:
    options = component_options(http="127.0.0.1:0", engine=f"local:{tmp_path}", name=NAME)
    before = asyncio.all_tasks()
    async with Server(Parts(), options):
        with pytest.raises(PlaneError) as caught:
            await Server(Parts(), options).start()
        assert caught.value.code is Code.ALREADY_EXISTS
    assert asyncio.all_tasks() == before


async def test_an_engine_that_does_not_open_opens_no_door(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for url in ("nonsense:", f"local:{tmp_path / 'file' / 'x'}"):
        server = Server(Parts(), component_options(http="127.0.0.1:0", engine=url))
        with pytest.raises(PlaneError):
            await server.start()
        assert server.http_url is None


async def test_a_log_of_its_own_stays(others: LocalDiscovery, tmp_path: Path) -> None:
    log = MemoryLog()
    options = component_options(engine=f"local:{tmp_path}", name=NAME)
    async with Server(Parts(), options, events=log) as server:
        assert server.events is log
        [found] = await others.instances()
        assert found.log == str(log.last.epoch)
    await log.publish("a/b", "x", b"", "{}")
    await log.close()


async def test_without_an_engine_nobody_is_told(others: LocalDiscovery) -> None:
    async with Server(Parts(), component_options(name=NAME)) as server:
        assert isinstance(server.events, MemoryLog)
        assert not await others.instances()
