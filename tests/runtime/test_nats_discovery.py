"""The engine `nats:` keeps the suite of discoveries; processes and servers die."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator, AsyncIterator, Generator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest
from tests.nats_server import NatsServer, NatsServers, nats_server, needs_nats_server
from tests.runtime.discovery_suite import ONE, TWO, DiscoverySuite, Watch

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.discovery import Discovery, Instance, Joined, Left, Registration

nats = pytest.importorskip("nats")

from protoplane_runtime.engines.nats import claim, liveness  # noqa: E402  # nats-py is an extra
from protoplane_runtime.engines.nats.discovery import NatsDiscovery  # noqa: E402

pytestmark = [needs_nats_server, pytest.mark.anyio]
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[NatsServer]:
    folder = tmp_path_factory.mktemp("nats")
    with nats_server(folder, jetstream=folder / "jetstream") as running:
        yield running


@pytest.fixture
def servers(tmp_path: Path) -> Generator[NatsServers]:
    with NatsServers(tmp_path) as servers:
        yield servers


@pytest.fixture
def url(server: NatsServer) -> str:
    return f"{server.url}?stream=test{os.urandom(4).hex()}"


@asynccontextmanager
async def opened(url: str) -> AsyncGenerator[NatsDiscovery]:
    discovery = await NatsDiscovery.open(url)
    try:
        yield discovery
    finally:
        await discovery.close()


@asynccontextmanager
async def watched(discovery: Discovery) -> AsyncGenerator[Watch]:
    async with aclosing(discovery.watch()) as changes:
        watch = Watch(changes)
        await watch.next()
        yield watch


@asynccontextmanager
async def living(url: str, *names: str) -> AsyncGenerator[Process]:
    """A process in which these instances live."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.runtime.nats_worker", url, *names, stdout=PIPE, cwd=ROOT
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def said(process: Process) -> float:
    """When the process began to register."""
    assert process.stdout is not None
    async with asyncio.timeout(60):
        return float(await process.stdout.readline())


async def updated(registration: Registration) -> bool:
    """Whether others could be told of a load of 0.5."""
    try:
        await registration.update(load=0.5)
    except PlaneError as error:
        if error.code is not Code.UNAVAILABLE:
            raise
        return False
    return True


class TestNatsDiscovery(DiscoverySuite):
    @pytest.fixture
    async def here(self, url: str) -> AsyncIterator[Discovery]:
        async with opened(url) as discovery:
            yield discovery

    @pytest.fixture
    async def there(self, url: str) -> AsyncIterator[Discovery]:
        async with opened(url) as discovery:
            yield discovery


async def test_who_is_killed_is_gone(url: str) -> None:
    async with opened(url) as here, watched(here) as watch, living(url, ONE.name) as process:
        await watch.names(ONE.name)
        joined_s = time.time() - await said(process)
        begun = time.perf_counter()
        process.kill()
        await watch.names()
        print(f"join seen: {joined_s * 1000:.1f} ms; ", end="")
        print(f"SIGKILL seen: {(time.perf_counter() - begun) * 1000:.0f} ms")
        # The bucket still has it.
        assert list(await here.instances()) == []
        async with here.register(ONE):
            assert list(await here.instances()) == [ONE]
            await watch.names(ONE.name)
        # Whoever comes later does not see the dead either.
        async with opened(url) as later, watched(later) as there:
            assert there.told == []


async def test_who_is_killed_elsewhere_is_gone(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As processes of another machine are: they are not heard any more."""
    monkeypatch.setattr(claim, "here", lambda: "elsewhere")
    async with opened(url) as here, watched(here) as watch, living(url, ONE.name) as process:
        await watch.names(ONE.name)
        await said(process)
        begun = time.perf_counter()
        process.kill()
        await watch.names()
        print(f"SIGKILL elsewhere seen: {(time.perf_counter() - begun) * 1000:.0f} ms")
        assert list(await here.instances()) == []
        async with here.register(ONE):
            await watch.names(ONE.name)


async def test_who_ends_leaves_at_once(url: str) -> None:
    async with opened(url) as here, watched(here) as watch, living(url, "a/1", "b/1") as process:
        await watch.names("a/1", "b/1")
        await said(process)
        process.terminate()
        await watch.names()
        assert [type(change) for change in watch.told] == [Joined, Joined, Left, Left]


async def test_who_hangs_is_gone_and_comes_back(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(liveness, "SILENT_S", 1.0)
    async with opened(url) as here, watched(here) as watch, living(url, ONE.name) as process:
        await watch.names(ONE.name)
        await said(process)
        process.send_signal(signal.SIGSTOP)
        await watch.names()
        process.send_signal(signal.SIGCONT)
        await watch.names(ONE.name)


async def test_a_server_that_starts_again(servers: NatsServers) -> None:
    server = servers.start()
    async with opened(server.url) as here, opened(server.url) as there, watched(there) as watch:
        async with here.register(ONE) as registration:
            await watch.names(ONE.name)
            server.kill()
            async with asyncio.timeout(20):
                for use in (here.register(TWO).__aenter__(), here.instances()):
                    with pytest.raises(PlaneError) as caught:
                        await use
                    assert caught.value.code is Code.UNAVAILABLE
            # Nobody is gone because nobody can be heard.
            await asyncio.sleep(1.5)
            assert [type(change) for change in watch.told] == [Joined]
            servers.start(server.port)
            async with asyncio.timeout(20):
                while not await updated(registration):  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
            await watch.until(lambda told: ONE.name in told and told[ONE.name].load == 0.5)
            async with there.register(TWO):
                await watch.names(ONE.name, TWO.name)
                assert len(await here.instances()) == 2
        await watch.names()


async def test_a_bucket_that_was_lost(servers: NatsServers) -> None:
    server = servers.start()
    async with opened(server.url) as here, opened(server.url) as there, watched(there) as watch:
        async with here.register(ONE):
            await watch.names(ONE.name)
            server.kill()
            shutil.rmtree(servers.folder / "one")
            servers.start(server.port)
            async with opened(server.url) as later, watched(later) as other:
                await other.names(ONE.name)
            await watch.names(ONE.name)
            async with asyncio.timeout(20), there.register(TWO):
                await watch.names(ONE.name, TWO.name)
        await watch.names()


async def test_leaving_while_the_server_is_away(servers: NatsServers) -> None:
    server = servers.start()
    before = asyncio.all_tasks()
    async with opened(server.url) as here, here.register(TWO):
        async with here.register(ONE):
            server.kill()
            await asyncio.sleep(0.2)
        servers.start(server.port)
        async with opened(server.url) as later, watched(later) as watch:
            await watch.names(TWO.name)
    async with asyncio.timeout(10):
        while asyncio.all_tasks() - before:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_closing_while_the_server_is_away(servers: NatsServers) -> None:
    server = servers.start()
    async with opened(server.url) as here, watched(here) as watch, here.register(ONE):
        await watch.names(ONE.name)
        server.kill()
        starting = asyncio.create_task(anext(here.watch("a/b"), None))
        await asyncio.sleep(0.2)
        async with asyncio.timeout(10):
            await here.close()
            await starting
            with pytest.raises(StopAsyncIteration):
                await watch.until(lambda told: False)


async def test_others_in_the_bucket(url: str) -> None:
    async with opened(url) as here, watched(here) as watch:
        client = await nats.connect(url.partition("?")[0])
        bucket = await client.jetstream().key_value(f"{url.rpartition('=')[2]}-instances")
        for number, value in enumerate((b"{", b"[]", b'{"owner":"x","instance":{"name":3}}')):
            await bucket.put(f"default.a.{number}", value)
        await client.close()
        async with here.register(ONE):
            await watch.names(ONE.name)
            assert list(await here.instances()) == [ONE]
    assert isinstance(watch.told[0], Joined)
    assert isinstance(watch.told[0].instance, Instance)
