"""A balanced channel in front of real servers, over gRPC and over HTTP."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any, cast

import pytest
from tests.component_suite import (
    CAPTION,
    LIST_STYLES,
    ComponentSuite,
    Harness,
    component_options,
    do,
    eventually,
)
from tests.parts import Parts

from forge.captioner.v1 import CaptionRequest, ListStylesRequest
from protoplane_base import CallOptions, Code, Context, PlaneError
from protoplane_client import GrpcChannel, HttpChannel, HttpSession
from protoplane_client.balanced import BalancedChannel
from protoplane_client.balancing import RoundRobin
from protoplane_client.retrying import RetryPolicy
from protoplane_client.route import ConnectionState, Route
from protoplane_runtime.link.errors import UnsentError
from protoplane_server import Server

pytestmark = pytest.mark.anyio

DOORS = ["grpc", "http"]


class TestBehaviour(ComponentSuite):
    """Nothing of a component's behaviour gets lost in between."""

    @pytest.fixture
    async def harness(self) -> AsyncIterator[Harness]:
        parts = Parts()
        async with Server(parts, component_options(grpc="127.0.0.1:0")) as server:
            route = GrpcChannel(str(server.grpc_address))
            async with BalancedChannel([route]) as balanced:
                yield Harness(balanced, parts, server)


class Instance:
    """A server, how it is reached, and what it was asked."""

    def __init__(self, door: str, name: str) -> None:
        self.door, self.name = door, name
        self.parts = Parts()
        self._stack = AsyncExitStack()
        self.address = "127.0.0.1:0"

    async def start(self) -> None:
        options: Any = {self.door: self.address}
        server = await self._stack.enter_async_context(
            Server(self.parts, component_options(**options))
        )
        address = server.grpc_address if self.door == "grpc" else server.http_url
        self.address = str(address).removeprefix("http://").rstrip("/")

    async def stop(self) -> None:
        await self._stack.aclose()

    def route(self) -> GrpcChannel | HttpChannel:
        if self.door == "grpc":
            return GrpcChannel(self.address, name=self.name)
        return HttpChannel(HttpSession(f"http://{self.address}"), name=self.name)

    @property
    def calls(self) -> int:
        return len(self.parts.contexts)


@pytest.fixture(params=DOORS)
async def pair(request: pytest.FixtureRequest) -> AsyncIterator[list[Instance]]:
    instances = [Instance(request.param, name) for name in ("one", "two")]
    for instance in instances:
        await instance.start()
    yield instances
    for instance in instances:
        await instance.stop()


def over(*routes: Route) -> BalancedChannel:
    return BalancedChannel(routes, picker=RoundRobin(), retries=RetryPolicy(first_s=0.01))


async def ask(balanced: BalancedChannel, **options: Any) -> None:
    chosen = cast(CallOptions, {"timeout_s": 5, **options})
    await balanced.unary(LIST_STYLES, ListStylesRequest(), chosen)


async def test_shares_calls_and_tells_of_them(pair: list[Instance]) -> None:
    routes = [instance.route() for instance in pair]
    assert {route.state for route in routes} == {ConnectionState.DISCONNECTED}
    async with over(*routes) as balanced:
        for _ in range(10):
            await ask(balanced)
        assert [instance.calls for instance in pair] == [5, 5]
        for route in routes:
            stats = route.stats
            assert route.state is ConnectionState.CONNECTED
            assert (stats.messages_sent, stats.messages_received) == (5, 5)
            assert stats.bytes_received > 0
            assert (stats.errors, stats.reconnects, route.outstanding) == (0, 0, 0)
    assert {route.state for route in routes} == {ConnectionState.FAILED}


async def test_an_instance_by_its_name(pair: list[Instance]) -> None:
    async with over(*[instance.route() for instance in pair]) as balanced:
        for _ in range(4):
            await ask(balanced, entity="two")
    assert [instance.calls for instance in pair] == [0, 4]


async def test_calls_go_on_while_an_instance_is_gone_and_when_it_is_back(
    pair: list[Instance],
) -> None:
    one, two = pair
    routes = [instance.route() for instance in pair]
    async with over(*routes) as balanced:
        for _ in range(4):
            await ask(balanced)
        await one.stop()
        # Not one of them fails, though these may not be repeated: no handler saw the first try.
        for _ in range(6):
            answers = balanced.server_stream(CAPTION, CaptionRequest(prompt="one two"), {})
            assert len([answer async for answer in answers]) == 2
        assert (one.calls, two.calls) == (2, 8)
        assert routes[0].state is not ConnectionState.CONNECTED
        await one.start()
        async with asyncio.timeout(10):
            while one.calls == 2:
                await ask(balanced)
                await asyncio.sleep(0.01)
        assert routes[0].stats.errors >= 1
        assert routes[0].stats.reconnects >= 1


async def test_a_slow_instance_is_hedged(pair: list[Instance]) -> None:
    async with over(*[instance.route() for instance in pair]) as balanced:
        call = asyncio.create_task(
            ask(balanced, metadata=do("wait"), hedge_after_s=0.01, timeout_s=10)
        )
        one, two = pair
        await one.parts.until(hanging=1)
        await two.parts.until(hanging=1)
        two.parts.release.set()
        await call
        await one.parts.until(hanging=0, cancelled=1)


async def test_an_instance_that_leaves_finishes_its_calls(pair: list[Instance]) -> None:
    one, two = pair
    leaving, staying = one.route(), two.route()
    async with over(leaving, staying) as balanced:
        calls = [asyncio.create_task(ask(balanced, metadata=do("wait"))) for _ in range(8)]
        await one.parts.until(hanging=4)
        balanced.replace([staying])
        await ask(balanced)
        assert leaving.outstanding == 4
        for instance in pair:
            instance.parts.release.set()
        await asyncio.gather(*calls)
        await eventually(lambda: leaving.state is ConnectionState.FAILED)


@pytest.mark.parametrize("door", DOORS)
async def test_nobody_there(door: str) -> None:
    instance = Instance(door, "gone")
    await instance.start()
    await instance.stop()
    route = instance.route()
    async with over(route) as balanced:
        with pytest.raises(UnsentError, match="cannot reach"):
            await ask(balanced)
        assert route.state is ConnectionState.RECONNECTING
        assert route.stats.errors >= 1


async def test_a_server_that_speaks_of_another_it_cannot_reach_was_reached() -> None:
    class Relay(Parts):
        async def list_styles(self, request: ListStylesRequest, ctx: Context) -> Any:
            raise PlaneError(
                Code.UNAVAILABLE, "failed to connect to all addresses; last error: UNKNOWN: refused"
            )

    async with Server(Relay(), component_options(grpc="127.0.0.1:0")) as server:
        route = GrpcChannel(str(server.grpc_address))
        async with over(route) as balanced:
            with pytest.raises(PlaneError) as caught:
                await ask(balanced)
    assert caught.value.code is Code.UNAVAILABLE
    assert not isinstance(caught.value, UnsentError)


async def test_grpc_and_http_side_by_side() -> None:
    instances = [Instance(door, door) for door in DOORS]
    for instance in instances:
        await instance.start()
    try:
        async with over(*[instance.route() for instance in instances]) as balanced:
            await asyncio.gather(*[ask(balanced) for _ in range(20)])
        counts = Counter({instance.name: instance.calls for instance in instances})
        assert counts == {"grpc": 10, "http": 10}
    finally:
        for instance in instances:
            await instance.stop()
