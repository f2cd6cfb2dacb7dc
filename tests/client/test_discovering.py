"""Routes by discovery: real servers that come, go and move, and the best way to each."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from tests.component_suite import LIST_STYLES, component_options, do, eventually
from tests.parts import Parts

from forge.captioner.v1 import ListStylesRequest
from protoplane_base import CallOptions, Code, MissingExtraError, PlaneError
from protoplane_client import GrpcChannel, HttpChannel, HttpSession
from protoplane_client.balanced import BalancedChannel
from protoplane_client.balancing import RoundRobin
from protoplane_client.discovering import Here, Resolver, ways
from protoplane_client.inprocess_channel import InprocessChannel
from protoplane_client.link_channel import LinkChannel
from protoplane_client.retrying import RetryPolicy
from protoplane_client.route import Route
from protoplane_client.targets import Target
from protoplane_runtime.engines.discovery import (
    DEFAULT_NAMESPACE,
    Change,
    Discovery,
    Instance,
    Registration,
)
from protoplane_runtime.engines.local.discovery import LocalDiscovery
from protoplane_runtime.engines.memory_discovery import MemoryDiscovery
from protoplane_runtime.engines.opening import open_discovery
from protoplane_runtime.link.errors import UnsentError
from protoplane_server import Server

pytestmark = pytest.mark.anyio

PATH = "forge/captioner"


def route(name: str, to: Target) -> Route:
    match to.door:
        case "http":
            return HttpChannel(HttpSession(to.address), name=name)
        case "inproc":
            return InprocessChannel(to.address, name=name)
        case "link":
            return LinkChannel(to.address, name=name)
        case _:
            return GrpcChannel(to.address, name=name)


@pytest.fixture(params=["memory", "local"])
async def discovery(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Discovery]:
    discovery = MemoryDiscovery() if request.param == "memory" else LocalDiscovery(tmp_path)
    yield discovery
    await discovery.close()


@asynccontextmanager
async def resolved(
    discovery: Discovery, path: str = PATH, **options: Any
) -> AsyncGenerator[tuple[BalancedChannel, Resolver], None]:
    async with BalancedChannel(picker=RoundRobin(), retries=RetryPolicy(first_s=0.01)) as channel:
        resolver = Resolver(discovery, path, channel, route, **options)
        resolver.start()
        try:
            yield channel, resolver
        finally:
            await resolver.aclose()


@asynccontextmanager
async def served(
    discovery: Discovery, name: str, **options: Any
) -> AsyncGenerator[tuple[Parts, Registration], None]:
    """A server of some doors that others can find."""
    parts = Parts()
    options = {"link": ("link+tcp://127.0.0.1:0",)} | options
    async with Server(parts, component_options(name=name, **options)) as server:
        endpoints = [f"inproc:{server.options.inproc}"] if server.options.inproc else []
        endpoints += server.link_addresses
        endpoints += [f"grpc://{server.grpc_address}"] if server.grpc_address else []
        endpoints += [server.http_url] if server.http_url else []
        async with discovery.register(Instance(name, tuple(endpoints))) as registration:
            yield parts, registration


async def ask(channel: BalancedChannel, **options: Any) -> None:
    chosen = cast(CallOptions, {"timeout_s": 5, **options})
    await channel.unary(LIST_STYLES, ListStylesRequest(), chosen)


def rerouted(channel: BalancedChannel, before: Route | None) -> Callable[[], bool]:
    """Whether the channel's route is another one than before."""
    return lambda: channel.routes[0] is not before


async def until(channel: BalancedChannel, *names: str) -> None:
    """Wait until the channel's routes are those to these instances."""
    await eventually(lambda: {each.name for each in channel.routes} == set(names))


async def test_who_joins_is_called_and_who_leaves_is_not(discovery: Discovery) -> None:
    async with resolved(discovery) as (channel, resolver), AsyncExitStack() as stack:
        async with served(discovery, f"{PATH}/one") as (one, _):
            await resolver.ready()
            await ask(channel)
            two, _ = await stack.enter_async_context(served(discovery, f"{PATH}/two"))
            await stack.enter_async_context(served(discovery, "forge/router/one"))
            await until(channel, f"{PATH}/one", f"{PATH}/two")
            assert {each.name for each in resolver.instances} == {f"{PATH}/one", f"{PATH}/two"}
            for _ in range(4):
                await ask(channel)
            assert len(one.contexts) + len(two.contexts) == 5
            assert len(two.contexts) == 2
        await until(channel, f"{PATH}/two")
        await ask(channel)
        assert len(two.contexts) == 3


async def test_an_open_call_ends_well_when_its_instance_leaves(discovery: Discovery) -> None:
    async with (
        resolved(discovery) as (channel, _),
        served(discovery, f"{PATH}/one") as (parts, _),
    ):
        await until(channel, f"{PATH}/one")
        async with discovery.register(Instance(f"{PATH}/two", ("grpc://127.0.0.1:1",))):
            await until(channel, f"{PATH}/one", f"{PATH}/two")
            call = asyncio.create_task(ask(channel, metadata=do("wait"), entity=f"{PATH}/one"))
            await parts.until(hanging=1)
        await until(channel, f"{PATH}/one")
        parts.release.set()
        await call


async def test_a_call_waits_for_the_first(discovery: Discovery) -> None:
    async with resolved(discovery) as (channel, _):
        call = asyncio.create_task(ask(channel))
        await asyncio.sleep(0.02)
        async with served(discovery, f"{PATH}/one") as (parts, _):
            await call
            assert len(parts.contexts) == 1


async def test_nobody_is_there(discovery: Discovery) -> None:
    async with resolved(discovery) as (_, resolver):
        with pytest.raises(UnsentError) as caught:
            await resolver.ready(0.05)
        assert "nobody serves forge/captioner" in caught.value.message
        async with discovery.register(
            Instance(f"{PATH}/far", ("link+tcp://127.0.0.1:1",), host="elsewhere")
        ):
            await eventually(lambda: bool(resolver.instances))
            with pytest.raises(UnsentError) as caught:
                await resolver.ready(0.05)
        assert f"no address of {PATH}/far can be used" in caught.value.message


async def test_the_best_way(discovery: Discovery, tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "inproc": "here",
        "link": (f"link+unix:{tmp_path}/a.sock", "link+tcp://127.0.0.1:0"),
        "grpc": "127.0.0.1:0",
        "http": "127.0.0.1:0",
    }
    async with served(discovery, f"{PATH}/one", **options) as (parts, registration):
        every = list(registration.instance.endpoints)
        kinds = [InprocessChannel, LinkChannel, LinkChannel, GrpcChannel, HttpChannel]
        async with resolved(discovery) as (channel, resolver):
            await resolver.ready()
            before: Route | None = None
            for count, kind in enumerate(kinds):
                # It gives up its best door; calls go on at the next one.
                await registration.update(endpoints=every[count:])
                await eventually(rerouted(channel, before))
                before = channel.routes[0]
                assert isinstance(before, kind)
                await ask(channel)
        assert len(parts.contexts) == 5


async def test_what_is_said_of_load_changes_no_route(discovery: Discovery) -> None:
    async with (
        served(discovery, f"{PATH}/one") as (_, registration),
        resolved(discovery) as (channel, resolver),
    ):
        await resolver.ready()
        before = channel.routes
        await registration.update(load=0.5)
        await eventually(lambda: resolver.instances[0].load == 0.5)
        assert channel.routes == before


async def test_an_instance_by_its_name(discovery: Discovery) -> None:
    async with (
        served(discovery, f"{PATH}/one") as (one, _),
        served(discovery, f"{PATH}/two") as (two, _),
        resolved(discovery, f"{PATH}/two") as (channel, resolver),
    ):
        await resolver.ready()
        await ask(channel)
        assert (len(one.contexts), len(two.contexts)) == (0, 1)


async def test_namespaces() -> None:
    discovery = MemoryDiscovery()
    async with (
        discovery.register(Instance(f"{PATH}/one", ("grpc://a:1",), namespace="test")),
        discovery.register(Instance(f"{PATH}/two", ("grpc://a:2",))),
        resolved(discovery, namespace="test") as (channel, resolver),
    ):
        await resolver.ready()
        assert [each.name for each in channel.routes] == [f"{PATH}/one"]


class Refusing(MemoryDiscovery):
    """Refuses to be watched some times."""

    refusals = 2

    def watch(
        self, path: str | None = None, *, namespace: str | None = DEFAULT_NAMESPACE
    ) -> AsyncGenerator[Sequence[Change], None]:
        if self.refusals:
            self.refusals -= 1
            raise PlaneError(Code.UNAVAILABLE, "the engine is away")
        return super().watch(path, namespace=namespace)


async def test_an_engine_that_refuses_is_asked_again(caplog: pytest.LogCaptureFixture) -> None:
    discovery = Refusing()
    async with (
        discovery.register(Instance(f"{PATH}/one", ("grpc://a:1",))),
        resolved(discovery) as (channel, resolver),
    ):
        with pytest.raises(UnsentError) as caught:
            await resolver.ready(0.01)
        assert "the engine is away" in caught.value.message
        await resolver.ready()
        assert len(channel.routes) == 1
    assert "the engine is away" in caplog.text


async def test_a_discovery_that_is_opened_when_it_is_wanted(tmp_path: Path) -> None:
    opened: list[Discovery] = []

    async def opening() -> Discovery:
        opened.append(await open_discovery(f"local:{tmp_path}"))
        return opened[0]

    discovery = LocalDiscovery(tmp_path)
    async with (
        discovery.register(Instance(f"{PATH}/one", ("grpc://a:1",))),
        BalancedChannel() as channel,
    ):
        resolver = Resolver(opening, PATH, channel, route)
        assert not opened
        await resolver.ready()
        assert len(channel.routes) == 1
        await resolver.aclose()
    await discovery.close()
    with pytest.raises(PlaneError):
        await opened[0].instances()


async def test_a_way_whose_carrier_is_missing_is_passed_over() -> None:
    def picky(name: str, to: Target) -> Route:
        if to.door == "link":
            raise MissingExtraError("zmq", "pyzmq")
        return route(name, to)

    discovery = MemoryDiscovery()
    async with (
        discovery.register(Instance(f"{PATH}/one", ("link+tcp://a:1", "grpc://a:2"))),
        BalancedChannel() as channel,
    ):
        resolver = Resolver(discovery, PATH, channel, picky)
        await resolver.ready()
        assert isinstance(channel.routes[0], GrpcChannel)
        await resolver.aclose()
        await resolver.aclose()


def test_ways(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    path.touch()
    instance = Instance(
        f"{PATH}/one",
        (
            "inproc:none",
            f"link+unix:{path}",
            f"link+unix:{path}.gone",
            "link+tcp://127.0.0.1:1",
            "link+tcp://10.0.0.1:2",
            "grpc://0.0.0.0:3",
            "http://localhost:4",
            "smoke:signals",
        ),
        host="a",
        pid=os.getpid(),
    )
    assert [way.address for way in ways(instance, Here("a", 1))] == [
        f"link+unix:{path}",
        "link+tcp://127.0.0.1:1",
        "link+tcp://10.0.0.1:2",
        "127.0.0.1:3",
        "http://localhost:4",
    ]
    assert [way.address for way in ways(instance, Here("b", os.getpid()))] == [
        "link+tcp://10.0.0.1:2",
        "a:3",
    ]
    # A list that somebody wrote by hand knows no hosts.
    by_hand = replace(instance, endpoints=("grpc://localhost:1",), host="")
    assert len(ways(by_hand, Here("b", 1))) == 1
