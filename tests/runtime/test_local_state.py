"""The local engine keeps the suite of state stores, and its promises to the disk."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
import time
from asyncio.subprocess import PIPE, Process
from contextlib import closing
from pathlib import Path

import pytest
from tests.runtime.state_suite import Open, StateSuite, facts, told, watching

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.local.state import LocalState
from protoplane_runtime.engines.state import Deleted, Entry, Snapshot, StateStore

pytestmark = pytest.mark.anyio
ROOT = Path(__file__).parents[2]


class TestLocalState(StateSuite):
    @pytest.fixture
    async def open(self, tmp_path: Path) -> Open:
        async def another() -> StateStore:
            return await LocalState.open(tmp_path)

        return another


async def start(*arguments: object) -> Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.runtime.state_worker", *map(str, arguments),
        stdout=PIPE, cwd=ROOT,
    )  # fmt: skip


async def lines(process: Process) -> list[str]:
    """What it says until it ends; a line that was cut off is none."""
    assert process.stdout is not None
    async with asyncio.timeout(60):
        said = (await process.stdout.read()).decode().splitlines(keepends=True)
        await process.wait()
    return [line.strip() for line in said if line.endswith("\n")]


async def test_values_outlive_their_process(tmp_path: Path) -> None:
    store = await LocalState.open(tmp_path)
    revision = await store.put("a", b"1")
    await store.close()
    again = await LocalState.open(tmp_path)
    assert await again.get("a") == Entry("a", b"1", revision)
    assert await again.put("b", b"2") > revision
    await again.close()


async def test_what_was_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    store = await LocalState.open(tmp_path)
    acknowledged: dict[str, int] = {}
    seen: dict[str, int] = {}
    async with watching(store) as watch:
        await told(watch)
        for round_ in range(4):
            writers = [await start("put", tmp_path, f"w{round_}/{n}") for n in range(3)]
            for writer in writers:
                assert writer.stdout is not None
                await writer.stdout.readline()
            await asyncio.sleep(0.03 * round_)
            for writer in writers:
                writer.kill()
            for writer in writers:
                for line in await lines(writer):
                    key, revision = line.split()
                    acknowledged[key] = int(revision)
        end = await store.put("end", b"")
        last = 0
        while last < end:
            change = await told(watch)
            assert isinstance(change, Entry)
            assert change.revision > last
            last = change.revision
            seen[change.key] = change.revision
    await store.close()
    again = await LocalState.open(tmp_path)
    kept = {entry.key: entry.revision for entry in await again.list()}
    await again.close()
    assert len(acknowledged) > 20
    assert acknowledged.items() <= kept.items()
    assert seen == kept
    print(f"{len(acknowledged)} acknowledged, {len(kept)} kept")


async def test_processes_that_write_at_once(tmp_path: Path) -> None:
    store = await LocalState.open(tmp_path)
    counters = [await start("count", tmp_path, 50) for _ in range(4)]
    for counter in counters:
        await lines(counter)
        assert counter.returncode == 0
    entry = await store.get("count")
    assert entry is not None
    assert entry.value == b"200"
    await store.close()


async def test_a_change_rings_in_another_process(tmp_path: Path) -> None:
    store = await LocalState.open(tmp_path)
    watcher = await start("watch", tmp_path)
    assert watcher.stdout is not None
    await watcher.stdout.readline()
    times: list[float] = []
    for number in range(20):
        begun = time.perf_counter()
        await store.put("a", str(number).encode())
        async with asyncio.timeout(10):
            assert (await watcher.stdout.readline()).decode().split() == ["a", str(number)]
        times.append(time.perf_counter() - begun)
    watcher.kill()
    await watcher.wait()
    print(f"put here to seen there: {sorted(times)[10] * 1000:.1f} ms")
    await store.put("a", b"")  # Takes the bell of the dead down.
    assert not list((tmp_path / "state.bells").iterdir())
    await store.close()


async def test_a_watcher_that_fell_behind_gets_a_snapshot(tmp_path: Path) -> None:
    store = await LocalState.open(tmp_path, max_deleted=4)
    other = await LocalState.open(tmp_path)
    for number in range(20):
        await store.put(f"a/{number}", b"1")
        await store.delete(f"a/{number}")
    with closing(sqlite3.connect(tmp_path / "state.db")) as database:
        (left,) = database.execute("SELECT count(*) FROM entry").fetchone()
        floor, deleted = database.execute("SELECT floor, deleted FROM store").fetchone()
    assert left == deleted <= 8
    assert floor > 20
    async with watching(other) as watch:
        assert await told(watch) == Snapshot(40, ())
        revision = await store.put("a/1", b"2")
        assert await told(watch) == Entry("a/1", b"2", revision)
        await store.delete("a/1")
        assert await told(watch) == Deleted("a/1", revision + 1)
    await store.close()
    await other.close()


async def test_expiry_is_seen_over_processes(tmp_path: Path) -> None:
    store = await LocalState.open(tmp_path)
    watcher = await start("watch", tmp_path)
    assert watcher.stdout is not None
    await watcher.stdout.readline()
    await store.put("a", b"1", ttl_s=0.2)
    await store.close()
    async with asyncio.timeout(10):
        assert (await watcher.stdout.readline()).split() == [b"a", b"1"]
        assert (await watcher.stdout.readline()).split() == [b"a", b"expired"]
    watcher.kill()
    await watcher.wait()


async def test_a_newer_database(tmp_path: Path) -> None:
    store = await LocalState.open(tmp_path)
    await store.close()
    with closing(sqlite3.connect(tmp_path / "state.db")) as database:
        database.execute("PRAGMA user_version = 99")
    assert (await refused(tmp_path)).code is Code.FAILED_PRECONDITION


async def test_a_damaged_database(tmp_path: Path) -> None:
    (tmp_path / "state.db").write_bytes(b"no database" * 1000)
    assert (await refused(tmp_path)).code is Code.DATA_LOSS


async def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    await refused(tmp_path / "file")


async def test_a_file_that_was_removed(tmp_path: Path) -> None:
    store = await LocalState.open(tmp_path)
    (tmp_path / "state.db").unlink()
    with pytest.raises(PlaneError) as caught:
        await store.put("a", b"")
    assert caught.value.code is Code.UNAVAILABLE
    await store.close()


async def test_a_full_disk(tmp_path: Path) -> None:
    store = await LocalState.open(tmp_path)
    await store.put("a", b"1")
    # The limit stands for the disk: SQLite says FULL either way.
    connection: sqlite3.Connection = getattr(getattr(store, "_writing"), "_connection")  # noqa: B009
    connection.execute("PRAGMA max_page_count = 16")
    with pytest.raises(PlaneError) as caught:
        await store.put("b", b"x" * 200_000)
    assert caught.value.code is Code.RESOURCE_EXHAUSTED
    assert facts(await store.list()) == [("a", b"1")]
    await store.put("c", b"2")
    await store.close()


async def refused(folder: Path) -> PlaneError:
    with pytest.raises(PlaneError) as caught:
        await LocalState.open(folder)
    return caught.value
