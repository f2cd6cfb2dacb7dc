"""Disks that are full, read-only or broken: one clear error each, and it says what to do."""

from __future__ import annotations

import asyncio
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from tests.runtime.event_log_suite import publish, take

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.interface import Start
from protoplane_runtime.engines.local.log import LocalLog
from protoplane_runtime.engines.local.ring import Ring
from protoplane_runtime.engines.local.schema import VERSION

pytestmark = pytest.mark.anyio


async def refusal(folder: Path) -> PlaneError:
    with pytest.raises(PlaneError) as caught:
        await LocalLog.open(folder)
    return caught.value


async def filled(folder: Path) -> None:
    log = await LocalLog.open(folder)
    await asyncio.gather(*(publish(log, "a", "x" * 500, durable=True) for _ in range(200)))
    await log.close()


async def test_a_newer_schema(tmp_path: Path) -> None:
    await filled(tmp_path)
    with closing(sqlite3.connect(tmp_path / "events.db")) as database:
        assert database.execute("SELECT version FROM migration").fetchall() == [(VERSION,)]
        database.execute(f"PRAGMA user_version = {VERSION + 1}")
    error = await refusal(tmp_path)
    assert error.code is Code.FAILED_PRECONDITION
    assert re.search(rf"version {VERSION + 1}, .* knows {VERSION}; upgrade", error.message)


@pytest.mark.parametrize("start", [0, 4096])
async def test_a_corrupt_file(tmp_path: Path, start: int) -> None:
    await filled(tmp_path)
    path = tmp_path / "events.db"
    content = bytearray(path.read_bytes())
    content[start:] = b"\xa5" * (len(content) - start)
    path.write_bytes(content)
    error = await refusal(tmp_path)
    assert error.code is Code.DATA_LOSS
    assert "move it away" in error.message


async def test_a_file_in_the_folders_place(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("")
    error = await refusal(path)
    assert str(path) in error.message


async def test_a_database_that_somebody_holds(tmp_path: Path) -> None:
    await filled(tmp_path)
    ring = Ring(tmp_path / "events.ring")
    log = await LocalLog.open(tmp_path)
    with ring.turn():
        waiting = asyncio.create_task(publish(log, "a", durable=True))
        await asyncio.sleep(0.05)
        assert not waiting.done()
    await waiting
    ring.close()
    await log.close()


PROGRAM = """
import asyncio, os, sys
from pathlib import Path
from protoplane_base import PlaneError
from protoplane_runtime.engines.local.log import LocalLog
if os.getuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
async def main():
    try:
        await LocalLog.open(Path(sys.argv[1]))
    except PlaneError as error:
        print(error.code.name, error.message)
asyncio.run(main())
"""


@pytest.mark.parametrize("made", [False, True])
async def test_a_folder_that_cannot_be_written(tmp_path: Path, made: bool) -> None:
    folder = tmp_path / "engine"
    if made:
        await filled(folder)
    else:
        folder.mkdir()
    for path in (folder, *folder.iterdir()):
        path.chmod(0o555 if path.is_dir() else 0o444)
    for path in folder.parents[:3]:
        path.chmod(path.stat().st_mode | 0o755)
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", PROGRAM, str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if "Permission denied" in done.stderr and "ModuleNotFoundError" in done.stderr:
        pytest.skip("another user cannot read this checkout")
    assert done.stdout.startswith("PERMISSION_DENIED "), done.stderr
    assert "cannot be written; give this user the right" in done.stdout


FILES = """
import asyncio, os, resource, sys
from contextlib import suppress
from protoplane_base import PlaneError
from protoplane_runtime.engines.discovery import Instance
from protoplane_runtime.engines.interface import Start
from protoplane_runtime.engines.opening import open_engine

def is_open(fd):
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True

async def main():
    url = f"local:{sys.argv[1]}"
    await (await open_engine(url)).close()
    before = [fd for fd in range(100) if is_open(fd)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
    held = []
    with suppress(OSError):
        while True:
            held.append(os.open("/dev/null", os.O_RDONLY))
    for _ in range(60):
        os.close(held.pop())
        try:
            engine = await open_engine(url)
            try:
                await engine.events.publish("a", "test.v1.Text", b"", "1", durable=True)
                await anext(engine.events.read(["**"], after=Start.EARLIEST))
                await engine.state.put("a", b"")
                await anext(engine.state.watch())
                async with engine.discovery.register(Instance("a/b")):
                    await anext(engine.discovery.watch())
            finally:
                await engine.close()
        except PlaneError as error:
            print(error.code.name, error.message)
        else:
            print("OK")
            break
    # What was refused holds nothing: all but what was held is free again.
    for fd in held:
        os.close(fd)
    print([fd for fd in range(100) if is_open(fd)] == before)

asyncio.run(main())
"""


async def test_too_many_open_files(tmp_path: Path) -> None:
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", FILES, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    *refused, last, clean = done.stdout.splitlines()
    assert (last, clean) == ("OK", "True")
    assert len(refused) > 3
    for line in refused:
        assert line.startswith("RESOURCE_EXHAUSTED ")
        assert "ulimit -n" in line


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(folder)]
    if os.getuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("making a small disk needs the right to mount one")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


async def test_a_full_disk(small_disk: Path) -> None:
    log = await LocalLog.open(small_disk)
    accepted = [await publish(log, "a", "x" * 1000, durable=True)]

    async def fill() -> None:
        for _ in range(100):
            event_id = await publish(log, "a", "x" * 100_000, durable=True)
            accepted.append(event_id)

    with pytest.raises(PlaneError) as caught:
        await fill()
    assert caught.value.code is Code.RESOURCE_EXHAUSTED
    assert "is full; make room" in caught.value.message
    # What needs no disk goes on.
    ephemeral = await publish(log, "b")
    events = await take(log.read(["**"], after=Start.EARLIEST), len(accepted) + 1)
    assert [event.id for event in events] == [*accepted, ephemeral]
    await log.close()
    again = await LocalLog.open(small_disk)
    events = await take(again.read(["**"], after=Start.EARLIEST), len(accepted) + 1)
    assert [event.id for event in events] == [*accepted, ephemeral]
    await again.close()


async def test_no_room_for_the_ring(small_disk: Path) -> None:
    with pytest.raises(PlaneError) as caught:
        await LocalLog.open(small_disk, ring_bytes=64 * 1024 * 1024)
    assert caught.value.code is Code.RESOURCE_EXHAUSTED
    log = await LocalLog.open(small_disk)
    await publish(log, "a", durable=True)
    await log.close()
