"""The engine `nats:` keeps the suite of state stores, with real servers that die."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.nats_server import NatsServer, NatsServers, nats_server, needs_nats_server
from tests.runtime.state_suite import Open, StateSuite, facts, told, watching

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.state import (
    MAX_VALUE_BYTES,
    Deleted,
    Entry,
    Snapshot,
    StateStore,
)

nats = pytest.importorskip("nats")

from protoplane_runtime.engines.nats.state import NatsState  # noqa: E402  # nats-py is an extra

pytestmark = [needs_nats_server, pytest.mark.anyio]


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
async def opened(url: str) -> AsyncGenerator[NatsState]:
    store = await NatsState.open(url)
    try:
        yield store
    finally:
        await store.close()


async def until_put(store: StateStore, key: str, value: bytes) -> int:
    while True:
        try:
            return await store.put(key, value)
        except PlaneError as error:
            if error.code is not Code.UNAVAILABLE:
                raise
        await asyncio.sleep(0.05)


class TestNatsState(StateSuite):
    @pytest.fixture
    async def open(self, url: str) -> Open:
        async def another() -> StateStore:
            return await NatsState.open(url)

        return another


async def test_the_largest_value_comes_back(url: str) -> None:
    async with opened(url) as store:
        value = os.urandom(MAX_VALUE_BYTES)
        await store.put("a", value)
        entry = await store.get("a")
        assert entry is not None
        assert entry.value == value
        assert [entry.value for entry in await store.list()] == [value]


async def test_a_server_that_takes_less(servers: NatsServers) -> None:
    (servers.folder / "conf").write_text("max_payload: 65536\n")
    server = servers.start(arguments=("--config", str(servers.folder / "conf")))
    async with opened(server.url) as store:
        with pytest.raises(PlaneError) as caught:
            await store.put("a", b"x" * 70_000)
        assert caught.value.code is Code.RESOURCE_EXHAUSTED
        assert "max_payload" in caught.value.message
        await store.put("a", b"x" * 60_000)


async def test_what_the_command_nats_sees(url: str) -> None:
    """It is a bucket as others know it, and what they do to it counts."""
    server, _, stream = url.partition("?stream=")
    async with opened(url) as store, watching(store) as watch:
        assert await told(watch) == Snapshot(0, ())
        client = await nats.connect(server)
        bucket = await client.jetstream().key_value(f"{stream}-state")
        revision = await store.put("a/b", b"1")
        entry = await bucket.get("a.b")
        assert (entry.value, entry.revision) == (b"1", revision)
        assert await told(watch) == Entry("a/b", b"1", revision)
        revision = await bucket.put("d", b"2")
        assert await told(watch) == Entry("d", b"2", revision)
        assert await store.get("d") == Entry("d", b"2", revision)
        await bucket.delete("d")
        gone = await told(watch)
        assert isinstance(gone, Deleted)
        assert gone.key == "d"
        assert await store.get("d") is None
        assert await store.put("d", b"3", expected=0) > revision
        await client.close()


async def test_a_value_that_expires_is_forgotten_by_the_server_too(url: str) -> None:
    server, _, stream = url.partition("?stream=")
    async with opened(url) as store:
        await store.put("a", b"1", ttl_s=0.2)
        client = await nats.connect(server)
        message = await client.jetstream().get_last_msg(
            f"KV_{stream}-state", f"$KV.{stream}-state.a"
        )
        assert message.headers is not None
        assert message.headers["Nats-TTL"] == "601s"
        await client.close()


async def test_a_watcher_sees_what_expired_while_nobody_watched(url: str) -> None:
    async with opened(url) as store, opened(url) as other:
        await store.put("a", b"1", ttl_s=0.1)
        await store.put("b", b"1", ttl_s=0.5)
        await asyncio.sleep(0.1)
        async with watching(other) as watch:
            whole = await told(watch)
            assert isinstance(whole, Snapshot)
            assert facts(whole.entries) == [("b", b"1")]
            gone = [await told(watch), await told(watch)]
            assert {each.key for each in gone if isinstance(each, Deleted)} == {"a", "b"}
            assert all(isinstance(each, Deleted) and each.expired for each in gone)


async def test_a_server_that_starts_again(servers: NatsServers) -> None:
    server = servers.start()
    url = f"{server.url}?publish_timeout_s=0.5"
    async with opened(url) as store, opened(url) as other, watching(other) as watch:
        await told(watch)
        revision = await store.put("a", b"1")
        assert await told(watch) == Entry("a", b"1", revision)
        server.kill()
        async with asyncio.timeout(30):
            for use in (store.put("a", b"2"), store.get("a"), store.list()):
                with pytest.raises(PlaneError) as caught:
                    await use
                assert caught.value.code is Code.UNAVAILABLE
        waiting = asyncio.create_task(told(watch, 30))
        servers.start(server.port)
        async with asyncio.timeout(30):
            second = await until_put(store, "b", b"2")
        assert second > revision
        # The put that failed may have been done all the same.
        while (change := await waiting) != Entry("b", b"2", second):
            assert isinstance(change, Entry | Deleted)
            assert change.key == "a"
            waiting = asyncio.create_task(told(watch, 30))


async def test_a_bucket_that_was_lost(servers: NatsServers) -> None:
    server = servers.start()
    async with opened(server.url) as store, watching(store) as watch:
        await told(watch)
        revision = await store.put("a", b"1")
        await told(watch)
        server.kill()
        shutil.rmtree(servers.folder / "one")
        servers.start(server.port)
        async with asyncio.timeout(30):
            second = await until_put(store, "b", b"2")
            assert second > revision
            with pytest.raises(PlaneError) as caught:
                await store.put("a", b"2", expected=revision)
            assert caught.value.code is Code.ABORTED
            whole = await told(watch, 30)
            while isinstance(whole, Snapshot) and not whole.entries:
                # It was empty when the watcher looked.
                whole = await told(watch, 30)
        if isinstance(whole, Snapshot):
            assert facts(whole.entries) == [("b", b"2")]
        else:
            assert whole == Entry("b", b"2", second)


async def test_closing_while_the_server_is_away(servers: NatsServers) -> None:
    server = servers.start()
    before = asyncio.all_tasks()
    store = await NatsState.open(server.url)
    async with watching(store) as watch, watching(store, "b") as other:
        await told(watch)
        server.kill()
        await asyncio.sleep(0.2)
        waiting = [asyncio.create_task(anext(each, None)) for each in (watch, other)]
        putting = asyncio.create_task(store.put("a", b"1"))
        await asyncio.sleep(0.2)
        async with asyncio.timeout(10):
            await store.close()
            assert await asyncio.gather(*waiting) == [None, None]
            with pytest.raises(PlaneError) as caught:
                await putting
    assert caught.value.code is Code.UNAVAILABLE
    async with asyncio.timeout(10):
        while asyncio.all_tasks() - before:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
