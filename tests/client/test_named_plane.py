"""A plane by name: calls and events of whoever discovery says is there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from typing import Any, cast

import pytest
from tests.component_suite import component_options, eventually
from tests.parts import Parts

from forge.captioner.v1 import CaptionerClient, CaptionFinished, ListStylesRequest
from protoplane_base import Code, PlaneError
from protoplane_client import Plane, Policy, Received, connect, connect_sync
from protoplane_client.subscription import Reconnect
from protoplane_runtime.engines.discovery import Instance
from protoplane_runtime.engines.interface import Gap, Start
from protoplane_runtime.engines.memory_discovery import MemoryDiscovery
from protoplane_runtime.entities import EntityId
from protoplane_runtime.link.errors import UnsentError
from protoplane_server import Server

pytestmark = pytest.mark.anyio

PATH = "forge/captioner"
ONE, TWO = f"{PATH}/one", f"{PATH}/two"
STYLES = "/forge.captioner.v1.CaptionerService/ListStyles"


@pytest.fixture
def engine(tmp_path: Path) -> str:
    return f"local:{tmp_path}"


def server(name: str, **options: Any) -> Server:
    return Server(Parts(), component_options(http="127.0.0.1:0", name=name, **options))


async def take(events: AsyncIterator[Received | Gap], count: int) -> list[Received]:
    found: list[Any] = []
    async with asyncio.timeout(10), aclosing(cast("Any", events)) as stream:
        async for event in stream:
            found.append(event)
            if len(found) == count:
                break
    return found


async def styles(plane: Plane, **options: Any) -> None:
    await CaptionerClient(plane).list_styles(ListStylesRequest(), timeout_s=5, **options)


async def test_calls_find_who_has_the_name(engine: str) -> None:
    before = asyncio.all_tasks()
    async with server(ONE, engine=engine), server(TWO, engine=engine) as two:
        async with connect(PATH, engine=engine) as plane:
            assert not plane.routes
            await styles(plane)
            await eventually(lambda: {each.name for each in plane.routes} == {ONE, TWO})
            await styles(plane, entity=TWO)
            await plane.request(EntityId.of(ONE), STYLES, b"", timeout_s=5)
            await two.stop()
            await eventually(lambda: [each.name for each in plane.routes] == [ONE])
            await styles(plane)
        async with connect(ONE, engine=engine) as plane:
            # Also where nothing was called before.
            await plane.request(EntityId.of(ONE), STYLES, b"", timeout_s=5)
    await eventually(lambda: asyncio.all_tasks() == before)


async def test_a_call_waits_for_the_first_instance(engine: str) -> None:
    async with connect(PATH, engine=engine) as plane:
        call = asyncio.create_task(styles(plane))
        await asyncio.sleep(0.05)
        assert not call.done()
        async with server(ONE, engine=engine):
            await call


async def test_nobody_of_that_name_is_said(engine: str) -> None:
    async with connect(PATH, engine=engine, policy=Policy(ready_s=0.1)) as plane:
        for call in (styles(plane), plane.request(EntityId.of(ONE), STYLES, b"")):
            with pytest.raises(UnsentError) as caught:
                await call
            assert caught.value.code is Code.UNAVAILABLE
        with pytest.raises(UnsentError, match=f"nobody serves {PATH} in the namespace default"):
            await styles(plane)


async def test_namespaces_are_apart(engine: str) -> None:
    policy = Policy(ready_s=0.1)
    async with server(ONE, engine=engine, namespace="blue"):
        async with connect(PATH, engine=engine, namespace="blue") as plane:
            await styles(plane)
        async with connect(PATH, engine=engine, policy=policy) as plane:
            with pytest.raises(UnsentError):
                await styles(plane)


async def test_a_name_says_where_its_http_doors_are() -> None:
    with pytest.raises(PlaneError, match="discovery says where") as caught:
        connect(PATH, http="http://h:1")
    assert caught.value.code is Code.INVALID_ARGUMENT
    with pytest.raises(PlaneError, match="namespace"):
        connect(PATH, namespace="a/b")
    with pytest.raises(PlaneError, match="no engine nonsense:"):
        connect(PATH, engine="nonsense:")


async def test_a_shared_log_tells_each_event_once(engine: str) -> None:
    async with (
        server(ONE, engine=engine),
        server(TWO, engine=engine) as two,
        connect(PATH, engine=engine) as plane,
    ):
        ids = [
            await plane.publish(f"a/{number}", CaptionFinished(words=number), entity=whom)
            for number, whom in enumerate((None, PATH, ONE, TWO, EntityId.of(TWO)))
        ]
        assert two.events.last == ids[-1]
        events = await take(plane.subscribe("a/*", after=Start.EARLIEST), 5)
        assert [event.id for event in events] == [str(each) for each in ids]
        # One log, so one place in it is enough.
        events = await take(plane.subscribe("a/*", entity=PATH, after=ids[3]), 1)
        assert [event.key for event in events] == ["a/4"]


async def test_a_subscription_goes_on_at_another_instance(engine: str) -> None:
    lost: list[Reconnect] = []
    async with AsyncExitStack() as stack:
        plane = await stack.enter_async_context(connect(PATH, engine=engine))
        one = await stack.enter_async_context(server(ONE, engine=engine))
        events = plane.subscribe("a/*", after=Start.EARLIEST, on_reconnect=lost.append)
        stack.push_async_callback(cast("Any", events).aclose)
        await plane.publish("a/1", CaptionFinished())
        async with asyncio.timeout(10):
            assert cast("Received", await anext(events)).key == "a/1"
            two = await stack.enter_async_context(server(TWO, engine=engine))
            await one.stop()
            await two.events.publish("a/2", "x", b"", "{}")
            assert cast("Received", await anext(events)).key == "a/2"
    assert lost


async def test_logs_of_their_own_are_merged() -> None:
    discovery = MemoryDiscovery()
    async with AsyncExitStack() as stack:
        for name in (ONE, TWO):
            its = await stack.enter_async_context(server(name))
            entry = Instance(name, its.endpoints)
            await stack.enter_async_context(discovery.register(entry))
        plane = await stack.enter_async_context(connect(PATH, engine=discovery))
        await plane.publish("a/b", CaptionFinished(), entity=PATH)
        events = await take(plane.subscribe("**", after=Start.EARLIEST), 2)
        assert {event.instance for event in events} == {ONE, TWO}
        places = {event.instance: event.id for event in events}
        with pytest.raises(PlaneError, match="place in the log of one"):
            await take(plane.subscribe("**", after=places[ONE]), 1)
        await plane.publish("a/c", CaptionFinished(), entity=TWO)
        [event] = await take(plane.subscribe("**", after=places), 1)
        assert (event.instance, event.key) == (TWO, "a/c")
        for events_of in ("forge/other", EntityId.of("nobody")):
            with pytest.raises(PlaneError, match="has none") as caught:
                await plane.publish("a/b", CaptionFinished(), entity=events_of)
            assert caught.value.code is Code.NOT_FOUND
    await discovery.close()


async def test_without_an_http_door_there_are_no_events(engine: str) -> None:
    options = component_options(link=("link+tcp://127.0.0.1:0",), name=ONE, engine=engine)
    async with Server(Parts(), options), connect(PATH, engine=engine) as plane:
        with pytest.raises(PlaneError, match="HTTP door") as caught:
            await take(plane.subscribe("**"), 1)
        assert caught.value.code is Code.FAILED_PRECONDITION


async def test_without_async(engine: str) -> None:
    def ask() -> int:
        with connect_sync(PATH, engine=engine) as plane:
            plane.publish("a/b", CaptionFinished())
            answer = plane.client(CaptionerClient).list_styles(ListStylesRequest())
            with plane.subscribe("**", after=Start.EARLIEST) as events:
                assert cast("Received", next(events)).key == "a/b"
            return len(answer.styles)

    async with server(ONE, engine=engine):
        assert await asyncio.to_thread(ask)
