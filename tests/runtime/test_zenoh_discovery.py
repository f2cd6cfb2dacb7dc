"""The engine zenoh: keeps the suite of discoveries; processes that are killed are gone at once."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from pathlib import Path
from random import Random
from string import ascii_letters

import pytest
from tests.runtime.discovery_suite import ONE, TWO, DiscoverySuite, Watch
from tests.runtime.zenoh_network import Network, Worker

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.discovery import Discovery, Joined, Left
from protoplane_runtime.engines.opening import open_discovery
from protoplane_runtime.engines.zenoh.discovery import ZenohDiscovery

pytestmark = pytest.mark.anyio


@pytest.fixture
async def network(tmp_path: Path) -> AsyncIterator[Network]:
    async with Network(tmp_path) as network:
        yield network


class TestZenohDiscovery(DiscoverySuite):
    @pytest.fixture
    async def open(self, network: Network) -> Callable[[], Discovery]:
        ready = [ZenohDiscovery(each) for each in (network.hub, await network.session())]
        return ready.pop


@pytest.fixture
async def discovery(network: Network) -> AsyncIterator[ZenohDiscovery]:
    discovery = ZenohDiscovery(network.hub)
    yield discovery
    await discovery.close()


@pytest.fixture
async def watch(discovery: ZenohDiscovery) -> AsyncIterator[Watch]:
    async with aclosing(discovery.watch()) as changes:
        watch = Watch(changes)
        assert await watch.next() == []
        yield watch


async def test_join_and_kill_are_seen(network: Network, watch: Watch) -> None:
    joined: list[float] = []
    left: list[float] = []
    for number in range(3):
        name = f"forge/captioner/{number}"
        async with Worker("live", network.url, name) as worker:
            async with asyncio.timeout(60):
                await watch.next()
            seen = time.time()
            joined.append(seen - float(await worker.said()))
            assert watch.there[name].pid == worker.process.pid
            begun = time.perf_counter()
            worker.process.send_signal(signal.SIGKILL)
            await watch.names()
            left.append(time.perf_counter() - begun)
    print(f"join: {_ms(joined)}; SIGKILL to gone: {_ms(left)}")


async def test_many_processes_at_once(network: Network, watch: Watch) -> None:
    groups = [[f"forge/c{group}/{number}" for number in range(5)] for group in range(4)]
    async with AsyncExitStack() as stack:
        workers = [
            await stack.enter_async_context(Worker("live", network.url, *names)) for names in groups
        ]
        for worker in workers:
            await worker.said()
        await watch.names(*(name for names in groups for name in names))
        for worker in workers[::2]:
            worker.process.kill()
        await watch.names(*(name for names in groups[1::2] for name in names))
        for worker in workers[1::2]:
            worker.tell()  # These leave as one should.
        await watch.names()
    assert len([each for each in watch.told if isinstance(each, Joined)]) == 20
    assert len([each for each in watch.told if isinstance(each, Left)]) == 20


async def test_one_of_many_gets_a_name(network: Network, discovery: ZenohDiscovery) -> None:
    others = [ZenohDiscovery(await network.session()) for _ in range(3)]
    won = 0
    codes: list[Code] = []
    everybody = asyncio.Event()
    settled = asyncio.Semaphore(0)

    async def take(handle: ZenohDiscovery) -> None:
        nonlocal won
        try:
            async with handle.register(ONE):
                won += 1
                settled.release()
                await everybody.wait()
        except PlaneError as error:
            codes.append(error.code)
            settled.release()

    tasks = [asyncio.ensure_future(take(each)) for each in (discovery, *others) * 2]
    async with asyncio.timeout(30):
        for _ in tasks:
            await settled.acquire()
    everybody.set()
    await asyncio.gather(*tasks)
    assert won == 1
    assert codes == [Code.ALREADY_EXISTS] * 7
    for each in others:
        await each.close()


async def test_instances_of_one_cluster_have_one_log(
    network: Network, discovery: ZenohDiscovery
) -> None:
    async with (
        discovery.register(replace(ONE, log="1")),
        discovery.register(replace(TWO, log="2")),
    ):
        one, two = await discovery.instances()
        assert one.log == two.log != ""


async def test_clusters_keep_apart(network: Network, discovery: ZenohDiscovery) -> None:
    other = ZenohDiscovery(await network.session(f"{network.url}&cluster=other"))
    async with discovery.register(ONE), other.register(ONE):
        assert len(await other.instances()) == 1
        assert len(await discovery.instances()) == 1
    await other.close()


async def test_an_instance_that_says_too_much(discovery: ZenohDiscovery) -> None:
    with pytest.raises(PlaneError) as caught:
        async with discovery.register(replace(ONE, metadata={"x": _noise(60_000)})):
            pass
    assert caught.value.code is Code.RESOURCE_EXHAUSTED
    long = replace(ONE, metadata={"x": _noise(20_000)})
    async with discovery.register(long):
        assert list(await discovery.instances()) == [long]


def _noise(size: int) -> str:
    # What compresses little.
    return "".join(Random(7).choices(ascii_letters, k=size))


def _ms(times_s: list[float]) -> str:
    return ", ".join(f"{each * 1000:.1f} ms" for each in times_s)


async def test_nodes_that_scout() -> None:
    cluster = f"scouting-{os.getpid()}"
    url = f"zenoh:?listen=tcp/127.0.0.1:0&multicast=true&cluster={cluster}"
    first = await open_discovery(url)
    second = await open_discovery(url)
    try:
        async with aclosing(first.watch()) as changes, second.register(ONE):
            watch = Watch(changes)
            try:
                await watch.names(ONE.name)
            except TimeoutError:
                pytest.skip("multicast does not reach the loopback interface here")
    finally:
        await second.close()
        await first.close()
