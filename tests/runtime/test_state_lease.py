"""Entries under a lease stay for as long as their process, and no longer."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE
from contextlib import aclosing
from pathlib import Path

import pytest

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.memory_state import MemoryState
from protoplane_runtime.engines.opening import open_engine
from protoplane_runtime.engines.state import MAX_VALUE_BYTES, Deleted, Entry, Snapshot
from protoplane_runtime.engines.state_lease import StateLease

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]
_HOLDER = """
import asyncio, sys
from protoplane_runtime.engines.opening import open_engine
from protoplane_runtime.engines.state_lease import StateLease

async def main():
    engine = await open_engine(sys.argv[1])
    await StateLease(engine.state, ttl_s=1.0).put("a/b", b"mine")
    print("there", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_an_entry_is_renewed_until_it_is_deleted() -> None:
    state = MemoryState()
    lease = StateLease(state, ttl_s=3)
    async with aclosing(state.watch("a")) as changes, asyncio.timeout(30):
        assert isinstance(await anext(changes), Snapshot)
        await lease.put("a", b"1")
        for _ in range(2):
            change = await anext(changes)
            assert isinstance(change, Entry)
            assert (change.value, change.expires_ns is not None) == (b"1", True)
        assert await lease.delete("a")
        while isinstance(change := await anext(changes), Entry):
            pass
        assert isinstance(change, Deleted)
        assert not change.expired
    await lease.close()
    await state.close()


async def test_closing_deletes_what_is_there() -> None:
    state = MemoryState()
    lease = StateLease(state)
    await lease.put("a", b"1")
    await state.put("b", b"2")
    await lease.close()
    await lease.close()
    assert [entry.key for entry in await state.list()] == ["b"]
    await state.close()


class _Away(MemoryState):
    """Is away when it is asked to be."""

    away = False

    async def put(
        self, key: str, value: bytes, *, expected: int | None = None, ttl_s: float | None = None
    ) -> int:
        if self.away:
            raise PlaneError(Code.UNAVAILABLE, "away")
        return await super().put(key, value, expected=expected, ttl_s=ttl_s)


async def test_an_entry_comes_again_with_its_store(caplog: pytest.LogCaptureFixture) -> None:
    state = _Away()
    lease = StateLease(state, ttl_s=0.2)
    async with aclosing(state.watch("a")) as changes, asyncio.timeout(30):
        assert isinstance(await anext(changes), Snapshot)
        await lease.put("a", b"1")
        state.away = True
        while isinstance(change := await anext(changes), Entry):
            pass
        assert isinstance(change, Deleted)
        assert change.expired
        state.away = False
        change = await anext(changes)
        assert isinstance(change, Entry)
        assert change.value == b"1"
    assert "not renewed" in caplog.text
    await lease.close()
    await state.close()


class _Picky(MemoryState):
    """Has no room for ``a``."""

    async def put(
        self, key: str, value: bytes, *, expected: int | None = None, ttl_s: float | None = None
    ) -> int:
        if key == "a":
            raise PlaneError(Code.RESOURCE_EXHAUSTED, "full")
        return await super().put(key, value, expected=expected, ttl_s=ttl_s)


async def test_one_that_is_refused_holds_up_no_other(caplog: pytest.LogCaptureFixture) -> None:
    state = _Picky()
    lease = StateLease(state, ttl_s=3)
    with pytest.raises(PlaneError, match="full"):
        await lease.put("a", b"1")
    async with aclosing(state.watch("b")) as changes, asyncio.timeout(30):
        assert isinstance(await anext(changes), Snapshot)
        await lease.put("b", b"2")
        for _ in range(2):
            assert isinstance(await anext(changes), Entry)
    assert "a is not renewed" in caplog.text
    await lease.close()
    await state.close()


@pytest.mark.parametrize(("key", "size"), [("a", MAX_VALUE_BYTES + 1), ("a//b", 1)])
async def test_what_no_store_takes_is_not_tried_again(key: str, size: int) -> None:
    state = MemoryState()
    lease = StateLease(state, ttl_s=0.1)
    with pytest.raises(PlaneError):
        await lease.put(key, bytes(size))
    assert [task.get_name() for task in asyncio.all_tasks() if "lease" in task.get_name()] == []
    await lease.close()
    await state.close()


async def test_the_entries_of_a_killed_process_go(tmp_path: Path) -> None:
    url = f"local:{tmp_path}"
    engine = await open_engine(url)
    holder = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _HOLDER, url, stdout=PIPE, cwd=ROOT
    )
    try:
        async with aclosing(engine.state.watch("a/*")) as changes, asyncio.timeout(60):
            assert holder.stdout is not None
            assert (await holder.stdout.readline()).strip() == b"there"
            holder.kill()
            while not isinstance(change := await anext(changes), Deleted):
                pass
            assert (change.key, change.expired) == ("a/b", True)
    finally:
        if holder.returncode is None:
            holder.kill()
        await holder.communicate()
        await engine.close()
