"""The local engine keeps the suite of discoveries; processes that are killed are gone at once."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path

import pytest
from tests.runtime.discovery_suite import ONE, TWO, DiscoverySuite, Watch

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.discovery import Discovery, Joined, Left
from protoplane_runtime.engines.local import follower
from protoplane_runtime.engines.local.discovery import LocalDiscovery

pytestmark = pytest.mark.anyio
ROOT = Path(__file__).parents[2]


class TestLocalDiscovery(DiscoverySuite):
    @pytest.fixture
    def open(self, tmp_path: Path) -> Callable[[], Discovery]:
        return lambda: LocalDiscovery(tmp_path)


async def start(folder: Path, *names: str) -> Process:
    """A process in which these instances live."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.runtime.discovery_worker",
        str(folder),
        *names,
        stdin=PIPE,
        stdout=PIPE,
        cwd=ROOT,
    )


async def said(process: Process) -> float:
    """When the process said that its instances are registered, as it has it."""
    assert process.stdout is not None
    async with asyncio.timeout(60):
        return float(await process.stdout.readline())


async def end(*processes: Process) -> None:
    for process in processes:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest.fixture
async def watch(tmp_path: Path) -> AsyncIterator[Watch]:
    discovery = LocalDiscovery(tmp_path)
    async with aclosing(discovery.watch()) as changes:
        watch = Watch(changes)
        assert await watch.next() == []
        yield watch
    await discovery.close()


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in (folder / "instances").iterdir() if path.is_file()]


async def test_join_and_kill_are_seen(tmp_path: Path, watch: Watch) -> None:
    joined: list[float] = []
    left: list[float] = []
    for number in range(5):
        name = f"forge/captioner/{number}"
        process = await start(tmp_path, name)
        await watch.names(name)
        seen = time.time()
        joined.append(seen - await said(process))
        assert watch.there[name].pid == process.pid
        begun = time.perf_counter()
        process.send_signal(signal.SIGKILL)
        await watch.names()
        left.append(time.perf_counter() - begun)
        await end(process)
    assert leftovers(tmp_path) == []
    print(f"join: {_ms(joined)}; SIGKILL to gone: {_ms(left)}")


async def test_many_processes_at_once(tmp_path: Path, watch: Watch) -> None:
    groups = [[f"forge/c{group}/{number}" for number in range(5)] for group in range(8)]
    processes = [await start(tmp_path, *names) for names in groups]
    everybody = [name for names in groups for name in names]
    await watch.names(*everybody)
    begun = time.perf_counter()
    for process in processes[::2]:
        process.kill()
    await watch.names(*[name for names in groups[1::2] for name in names])
    print(f"20 of 40 instances gone after {_ms([time.perf_counter() - begun])}")
    assert len([each for each in watch.told if isinstance(each, Joined)]) == 40
    assert len([each for each in watch.told if isinstance(each, Left)]) == 20
    for process in processes[1::2]:
        process.terminate()  # These leave as one should.
    await watch.names()
    await end(*processes)
    assert leftovers(tmp_path) == []


async def test_who_died_unseen_is_not_there(tmp_path: Path) -> None:
    process = await start(tmp_path, "forge/captioner/one")
    await said(process)
    await end(process)
    assert leftovers(tmp_path)
    discovery = LocalDiscovery(tmp_path)
    assert list(await discovery.instances()) == []
    assert leftovers(tmp_path) == []
    async with discovery.register(ONE):
        assert list(await discovery.instances()) == [ONE]
    await discovery.close()


async def test_a_name_of_the_dead_is_free(tmp_path: Path) -> None:
    process = await start(tmp_path, ONE.name)
    await said(process)
    await end(process)
    discovery = LocalDiscovery(tmp_path)
    async with discovery.register(ONE):
        assert list(await discovery.instances()) == [ONE]
    await discovery.close()


async def test_who_is_stopped_lives(tmp_path: Path, watch: Watch) -> None:
    process = await start(tmp_path, ONE.name)
    await watch.names(ONE.name)
    process.send_signal(signal.SIGSTOP)
    await asyncio.sleep(0.1)
    discovery = LocalDiscovery(tmp_path)
    assert len(await discovery.instances()) == 1
    await discovery.close()
    assert len(watch.told) == 1
    await end(process)


async def test_locks_tell_where_processes_cannot_be_watched(
    tmp_path: Path, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unwatchable(_: int) -> None:
        return None

    monkeypatch.setattr(follower, "watch_process", unwatchable)
    process = await start(tmp_path, ONE.name)
    await watch.names(ONE.name)
    begun = time.perf_counter()
    process.kill()
    await watch.names()
    print(f"gone by its lock after {_ms([time.perf_counter() - begun])}")
    await end(process)


async def test_a_fork_does_not_keep_its_parent_alive(tmp_path: Path, watch: Watch) -> None:
    process = await start(tmp_path, ONE.name, "--fork")
    await watch.names(ONE.name)
    assert process.stdout is not None
    await said(process)
    child = int(await process.stdout.readline())
    process.kill()
    await watch.names()
    os.kill(child, signal.SIGKILL)
    await end(process)


async def test_what_others_left_in_the_folder(tmp_path: Path, watch: Watch) -> None:
    folder = tmp_path / "instances"
    (folder / "damaged.json").write_text("{")
    (folder / "newer.json").write_text(json.dumps({"at": "x", "instance": {"id": 3}}))
    (folder / "note.txt").write_text("")
    discovery = LocalDiscovery(tmp_path)
    async with discovery.register(ONE):
        await watch.names(ONE.name)
    await discovery.close()


async def test_a_bell_that_somebody_removed_is_hung_up_again(tmp_path: Path) -> None:
    discovery = LocalDiscovery(tmp_path)
    async with aclosing(discovery.watch()) as changes:
        watch = Watch(changes)
        await watch.next()
        async with discovery.register(ONE):
            [bell] = (tmp_path / "instances/bells").iterdir()
            bell.unlink()
            async with discovery.register(TWO):
                await watch.names(ONE.name, TWO.name)
    await discovery.close()
    assert not list((tmp_path / "instances/bells").iterdir())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
async def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)  # noqa: ASYNC240
    discovery = LocalDiscovery(tmp_path)
    for use in (discovery.register(ONE).__aenter__(), anext(discovery.watch())):
        with pytest.raises(PlaneError) as caught:
            await use
        assert caught.value.code is Code.PERMISSION_DENIED
    assert list(await discovery.instances()) == []
    await discovery.close()


async def test_nothing_is_touched_before_it_is_used(tmp_path: Path) -> None:
    discovery = LocalDiscovery(tmp_path / "engine")
    assert list(await discovery.instances()) == []
    await discovery.close()
    assert not (tmp_path / "engine").exists()


def _ms(times_s: list[float]) -> str:
    return ", ".join(f"{each * 1000:.1f} ms" for each in times_s)
