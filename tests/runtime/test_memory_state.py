"""The memory engine keeps the suite of state stores, and bounds what it remembers."""

from __future__ import annotations

import pytest
from tests.runtime.state_suite import Open, StateSuite, told, watching

from protoplane_runtime.engines.memory_state import MemoryState
from protoplane_runtime.engines.state import Entry, Snapshot, StateStore

pytestmark = pytest.mark.anyio


class TestMemoryState(StateSuite):
    @pytest.fixture
    async def open(self) -> Open:
        store = MemoryState()

        async def same() -> StateStore:
            return store

        return same


async def test_a_watcher_that_fell_behind_gets_a_snapshot() -> None:
    store = MemoryState(max_changes=8)
    async with watching(store, "a/*") as watch:
        await told(watch)
        for number in range(8):
            await store.put(f"a/{number}", b"1")
        entry = await told(watch)
        assert isinstance(entry, Entry)
        assert entry.key == "a/0"
        for number in range(8):
            await store.delete(f"a/{number}")
        await store.put("b/1", b"")
        last = await store.put("a/8", b"2")
        whole = await told(watch)
        assert whole == Snapshot(last, (Entry("a/8", b"2", last),))
    await store.close()
