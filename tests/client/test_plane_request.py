"""`Plane.request`: untyped or typed, to one instance or to any of a collection, over every door."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from tests.component_suite import CAPTION, LIST_STYLES, component_options, do, eventually
from tests.parts import Parts

from forge.captioner.v1 import (
    CaptionerClient,
    CaptionRequest,
    ListStylesRequest,
    ListStylesResponse,
)
from protoplane_base import Code, PlaneError
from protoplane_client import Plane, RetryPolicy, RoundRobin, connect, connect_sync
from protoplane_client.policy import Policy
from protoplane_runtime.entities import Entity, EntityId
from protoplane_runtime.link.errors import UnsentError
from protoplane_server import Server

pytestmark = pytest.mark.anyio

PATH = "/forge.captioner.v1.CaptionerService/ListStyles"
QUICK = Policy(picker=RoundRobin(), retries=RetryPolicy(first_s=0.01))


class TwoInstances:
    """Two instances of one component, each behind every door."""

    names = ("forge/captioner/one", "forge/captioner/two")

    def __init__(self) -> None:
        self.parts = [Parts(), Parts()]
        self.servers: list[Server] = []
        self.stack = AsyncExitStack()

    async def start(self, folder: Path) -> None:
        for number, (name, parts) in enumerate(zip(self.names, self.parts, strict=True)):
            options = component_options(
                grpc="127.0.0.1:0",
                http="127.0.0.1:0",
                link=("link+tcp://127.0.0.1:0", f"link+unix:{folder / f'{number}.sock'}"),
                inproc=f"two-instances-{number}",
                name=name,
            )
            self.servers.append(await self.stack.enter_async_context(Server(parts, options)))

    def targets(self, door: str) -> list[str]:
        match door:
            case "tcp":
                return [server.link_addresses[0] for server in self.servers]
            case "unix":
                return [server.link_addresses[1] for server in self.servers]
            case "grpc":
                return [str(server.grpc_address) for server in self.servers]
            case "http":
                return [str(server.http_url) for server in self.servers]
            case _:
                return [f"inproc:two-instances-{number}" for number in range(2)]

    @property
    def calls(self) -> list[int]:
        return [len(parts.contexts) for parts in self.parts]


@pytest.fixture
async def two(tmp_path: Path) -> AsyncIterator[TwoInstances]:
    instances = TwoInstances()
    await instances.start(tmp_path)
    yield instances
    await instances.stack.aclose()


DOORS = ["tcp", "unix", "grpc", "http", "inproc"]
SELF_NAMING = ["tcp", "unix", "inproc"]


def plane_over(two: TwoInstances, door: str) -> Plane:
    targets = two.targets(door)
    if door in SELF_NAMING:
        return connect(targets, policy=QUICK)
    return connect(dict(zip(two.names, targets, strict=True)), policy=QUICK)


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("path", [PATH, PATH[1:]])
async def test_a_path_takes_and_gives_bytes(two: TwoInstances, door: str, path: str) -> None:
    async with plane_over(two, door) as plane:
        answer = await plane.request(None, path, b"", timeout_s=5)
        assert ListStylesResponse.from_bytes(answer).styles
        assert await plane.request(None, path, ListStylesRequest()) == answer


@pytest.mark.parametrize("door", DOORS)
async def test_a_method_takes_and_gives_messages(two: TwoInstances, door: str) -> None:
    async with plane_over(two, door) as plane:
        first = await plane.request(None, LIST_STYLES, ListStylesRequest())
        assert isinstance(first, ListStylesResponse)
        assert await plane.request(None, LIST_STYLES, b"") == first


@pytest.mark.parametrize("door", DOORS)
async def test_an_instance_means_that_one(two: TwoInstances, door: str) -> None:
    name = two.names[1]
    async with plane_over(two, door) as plane:
        for whom in (name, EntityId.of(name), Entity.instance(name)):
            await plane.request(whom, PATH, b"", timeout_s=5)
        assert two.calls == [0, 3]
        await CaptionerClient(plane).list_styles(ListStylesRequest(), entity=two.names[0])
        assert two.calls == [1, 3]


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("whom", ["forge", "forge/captioner", EntityId.of("forge/captioner")])
async def test_a_collection_means_any_of_it(
    two: TwoInstances, door: str, whom: str | EntityId
) -> None:
    async with plane_over(two, door) as plane:
        await plane.request(whom, PATH, b"")
        await eventually(lambda: {route.name for route in plane.routes} == {*two.names})
        for _ in range(9):
            await plane.request(whom, PATH, b"")
        assert min(two.calls) >= 4


@pytest.mark.parametrize("door", DOORS)
async def test_nobody_of_that_name(two: TwoInstances, door: str) -> None:
    async with plane_over(two, door) as plane:
        for whom in ("forge/capt", EntityId.of("forge/other")):
            with pytest.raises(UnsentError, match="forge/captioner/one"):
                await plane.request(whom, PATH, b"", timeout_s=5)
    assert two.calls == [0, 0]


async def test_a_text_that_is_no_path(two: TwoInstances) -> None:
    async with plane_over(two, "tcp") as plane:
        with pytest.raises(PlaneError) as caught:
            await plane.request("forge//captioner", PATH, b"")
        assert caught.value.code is Code.INVALID_ARGUMENT
        for path in ("ListStyles", "/a/b/c", "a b/c", ""):
            with pytest.raises(PlaneError, match="no path of a method") as caught:
                await plane.request(None, path, b"")
            assert caught.value.code is Code.INVALID_ARGUMENT


@pytest.mark.parametrize("door", DOORS)
async def test_bytes_that_are_no_message(two: TwoInstances, door: str) -> None:
    async with plane_over(two, door) as plane:
        with pytest.raises(PlaneError) as caught:
            await plane.request(None, PATH, b"\xff\xff")
        assert caught.value.code is Code.INVALID_ARGUMENT
        with pytest.raises(PlaneError) as caught:
            await plane.request(None, LIST_STYLES, b"\xff\xff")
        assert caught.value.code is Code.INVALID_ARGUMENT
    assert two.calls == [0, 0]


@pytest.mark.parametrize("door", DOORS)
async def test_an_unknown_method(two: TwoInstances, door: str) -> None:
    async with plane_over(two, door) as plane:
        with pytest.raises(PlaneError) as caught:
            await plane.request(None, PATH + "2", b"")
        assert caught.value.code is Code.UNIMPLEMENTED


async def test_a_method_that_streams_is_refused(two: TwoInstances) -> None:
    async with plane_over(two, "tcp") as plane:
        with pytest.raises(PlaneError, match="server_stream"):
            await plane.request(None, CAPTION, CaptionRequest(prompt="one two"))


@pytest.mark.parametrize("door", DOORS)
async def test_the_path_of_a_method_that_streams(two: TwoInstances, door: str) -> None:
    request = CaptionRequest(prompt="one two three")
    async with plane_over(two, door) as plane, asyncio.timeout(30):
        with pytest.raises(PlaneError):
            await plane.request(None, CAPTION.path, request)
        await eventually(lambda: not any(server.dispatcher.open_calls for server in two.servers))


@pytest.mark.parametrize("door", DOORS)
async def test_options_go_along(two: TwoInstances, door: str) -> None:
    async with plane_over(two, door) as plane:
        with pytest.raises(PlaneError) as caught:
            await plane.request(None, PATH, b"", metadata=do("hang"), timeout_s=0.2)
        assert caught.value.code is Code.DEADLINE_EXCEEDED
        for _ in range(3):
            await plane.request(
                two.names[0], PATH, b"", metadata={"x-tenant": "a"}, idempotency_key="k"
            )
    handled = [context for context in two.parts[0].contexts if "x-tenant" in context.metadata]
    assert len(handled) == 1


async def test_an_instance_that_was_replaced_is_not_taken_for_the_old_one(
    two: TwoInstances,
) -> None:
    # The caller was told a name that the process at this address does not have any more.
    [address, _] = two.targets("tcp")
    async with connect({"forge/captioner/gone": address}, policy=QUICK) as plane:
        with pytest.raises(UnsentError, match="here is forge/captioner/one") as caught:
            await plane.request("forge/captioner/gone", PATH, b"", timeout_s=5)
        assert caught.value.code is Code.NOT_FOUND
        assert two.calls == [0, 0]
        await plane.request(None, PATH, b"")
    assert two.calls == [1, 0]


async def test_an_instance_behind_a_link_that_is_away_costs_no_other_a_wait(
    two: TwoInstances, unused: str
) -> None:
    async with connect([unused, *two.targets("tcp")], policy=QUICK) as plane:
        # Less than it takes to give up one that is away.
        async with asyncio.timeout(8):
            await plane.request(two.names[1], PATH, b"")
        with pytest.raises(UnsentError, match="there is no instance forge/captioner/three"):
            await plane.request("forge/captioner/three", PATH, b"", timeout_s=5)
    assert two.calls == [0, 1]


@pytest.fixture
async def unused() -> str:
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    return f"link+tcp://127.0.0.1:{port}"


async def test_resolving_keeps_to_the_timeout(two: TwoInstances) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(silent, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with connect(f"link+tcp://127.0.0.1:{port}") as plane, asyncio.timeout(30):
            for whom in ("forge/captioner", EntityId.of("forge/captioner")):
                with pytest.raises(UnsentError):
                    await plane.request(whom, PATH, b"", timeout_s=0.2)


async def test_a_route_without_a_name_says_so(two: TwoInstances) -> None:
    [address, _] = two.targets("grpc")
    async with connect(address) as plane:
        with pytest.raises(UnsentError, match=address):
            await plane.request(two.names[0], PATH, b"")


async def test_calls_of_other_kinds_reach_an_instance_too(two: TwoInstances) -> None:
    async with plane_over(two, "tcp") as plane:
        for _ in range(4):
            chunks = CaptionerClient(plane).caption(
                CaptionRequest(prompt="one two"), entity=two.names[1]
            )
            assert len([chunk async for chunk in chunks]) == 2
    assert two.calls == [0, 4]


async def test_a_target_method_of_another_class_is_the_same_inside_a_process(
    two: TwoInstances,
) -> None:
    twin = replace(LIST_STYLES)
    async with plane_over(two, "inproc") as plane:
        assert (await plane.request(None, twin, ListStylesRequest())).styles


def test_without_async(tmp_path: Path) -> None:
    async def served() -> tuple[str, AsyncExitStack]:
        stack = AsyncExitStack()
        options = component_options(link=("link+tcp://127.0.0.1:0",), name="forge/captioner/one")
        server = await stack.enter_async_context(Server(Parts(), options))
        return server.link_addresses[0], stack

    import threading

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    address, stack = asyncio.run_coroutine_threadsafe(served(), loop).result(10)
    try:
        with connect_sync(address) as plane:
            answer = plane.request("forge/captioner", PATH, b"")
            assert ListStylesResponse.from_bytes(answer).styles
            assert plane.request(None, LIST_STYLES, ListStylesRequest()).styles
    finally:
        asyncio.run_coroutine_threadsafe(stack.aclose(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def test_many_requests_balance(two: TwoInstances) -> None:
    async with plane_over(two, "unix") as plane:
        await asyncio.gather(*[plane.request("forge", PATH, b"") for _ in range(50)])
        await asyncio.gather(*[plane.request("forge", PATH, b"") for _ in range(50)])
    assert Counter(two.calls).total() == 2
    assert sum(two.calls) == 100
    assert min(two.calls) > 20
