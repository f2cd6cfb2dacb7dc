"""The engine zenoh: keeps the suite of state stores; the next node goes on when the owner goes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from tests.runtime.state_suite import Open, StateSuite, told, watching
from tests.runtime.zenoh_network import Network, Worker, free_port

from protoplane_runtime.engines.state import Entry, Snapshot, StateStore
from protoplane_runtime.engines.zenoh.session import Session
from protoplane_runtime.engines.zenoh.settings import ZenohSettings
from protoplane_runtime.engines.zenoh.state import ZenohState

pytestmark = pytest.mark.anyio


@pytest.fixture
async def network(tmp_path: Path) -> AsyncIterator[Network]:
    async with Network(tmp_path) as network:
        yield network


class TestZenohState(StateSuite):
    # The first handle owns the state, the second asks it.
    @pytest.fixture
    async def open(self, network: Network) -> Open:
        sessions = [await network.session(), network.hub]

        async def another() -> StateStore:
            return await ZenohState.open(sessions.pop())

        return another


async def test_the_next_goes_on_when_the_owner_closes(network: Network) -> None:
    first = await ZenohState.open(network.hub)
    await first.put("a", b"1", ttl_s=600)
    revision = await first.put("b", b"1")
    second = await ZenohState.open(await network.session())
    third = await ZenohState.open(await network.session())
    async with watching(third) as watch:
        assert isinstance(await told(watch), Snapshot)
        await first.put("c", b"1")
        assert isinstance(await told(watch), Entry)
        await first.close()
        later = await third.put("b", b"2", expected=revision)
        assert later > revision
        values: dict[str, bytes] = {}
        while values.get("b") != b"2":
            change = await told(watch)
            for entry in change.entries if isinstance(change, Snapshot) else (change,):
                assert isinstance(entry, Entry)
                values[entry.key] = entry.value
    entries = await second.list()
    assert [(entry.key, entry.value) for entry in entries] == [
        ("a", b"1"),
        ("b", b"2"),
        ("c", b"1"),
    ]
    assert entries[0].expires_ns is not None
    await second.close()
    await third.close()


async def test_the_next_goes_on_when_the_owner_is_killed(network: Network) -> None:
    async with Worker("put", network.url_of("owner"), "a") as worker:
        assert await worker.said() == "ready"
        state = await ZenohState.open(network.hub)
        async with watching(state) as watch:
            await told(watch)
            worker.tell()
            seen, change = -1, await told(watch, 30)
            while seen < 100:
                assert isinstance(change, Entry)
                seen = int(change.value)
                change = await told(watch, 30)
            worker.process.kill()
            await worker.process.wait()
            async with asyncio.timeout(30):
                entry = await state.get("a")
            assert entry is not None
            assert int(entry.value) >= seen
            revision = await state.put("a", b"-1", expected=entry.revision)
            while not isinstance(change, Entry) or change.value != b"-1":
                change = await told(watch, 30)
                if isinstance(change, Snapshot) and change.revision == revision:
                    [change] = change.entries
        await state.close()


async def test_processes_count_together(network: Network) -> None:
    state = await ZenohState.open(network.hub)
    async with AsyncExitStack() as stack:
        workers = [
            await stack.enter_async_context(Worker("count", network.url_of(str(number)), "50"))
            for number in range(3)
        ]
        for worker in workers:
            assert await worker.said() == "ready"
        for worker in workers:
            worker.tell()
        for worker in workers:
            assert await worker.said() == "done"
    entry = await state.get("count")
    assert entry is not None
    assert entry.value == b"150"
    await state.close()


async def test_when_two_parts_meet_the_older_stays() -> None:
    hub = f"tcp/127.0.0.1:{free_port()}"
    older = await _alone(f"zenoh:{hub}?listen=tcp/127.0.0.1:0")
    await older.put("a", b"older")
    # Only now is there somebody where the first looks for the others.
    younger = await _alone(f"zenoh:?listen={hub}")
    for number in range(5):
        await younger.put("a", f"younger {number}".encode())
    async with watching(younger) as watch:
        change = await told(watch)
        before = -1
        async with asyncio.timeout(60):
            while not isinstance(change, Snapshot) or b"older" not in [
                entry.value for entry in change.entries
            ]:
                assert change.revision > before
                before = change.revision
                change = await told(watch, 60)
        assert change.revision > before
    entry = await younger.get("a")
    assert entry is not None
    assert entry.value == b"older"
    revision = await younger.put("a", b"both")
    assert revision > before
    assert (await older.get("a")) == Entry("a", b"both", revision)
    await younger.close()
    await older.close()


async def _alone(url: str) -> ZenohState:
    session = (await Session.open(ZenohSettings.parse(url))).hold()
    state = await ZenohState.open(session)
    await session.release()
    return state
