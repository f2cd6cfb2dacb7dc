"""Objects in a folder."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.runtime.object_store_suite import (
    ObjectStoreSuite,
    digest_of,
    fails,
    listed,
    megabytes,
    megabytes_digest,
    read,
)

from protoplane_base import Code
from protoplane_runtime.engines.objects.folder import FolderObjects
from protoplane_runtime.engines.objects.interface import ObjectStore

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL and no os.pread"),
]

_WRITER = """
import asyncio, sys
from pathlib import Path
from protoplane_runtime.engines.objects.folder import FolderObjects

async def source():
    yield bytes(3_000_000)
    print("written", flush=True)
    await asyncio.Event().wait()

async def main():
    store = await FolderObjects.open(Path(sys.argv[1]))
    await asyncio.gather(*(store.put(key, source()) for key in ("old", "new")))

asyncio.run(main())
"""

_LARGE = """
import asyncio, sys
from pathlib import Path
from protoplane_runtime.engines.objects.folder import FolderObjects
from tests.runtime.object_store_suite import megabytes, megabytes_digest

def peak():
    # What a process that forked this one held counts in ru_maxrss, not in VmHWM.
    [line] = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
    return int(line.split()[1]) // 1024

async def main():
    store = await FolderObjects.open(Path(sys.argv[1]))
    await store.put("warm", megabytes(4))
    before = peak()
    info = await store.put("large", megabytes(200))
    assert info.digest == megabytes_digest(200)
    async with store.get("large") as body:
        assert sum([len(piece) async for piece in body]) == 200 << 20
    print(peak() - before)

asyncio.run(main())
"""


def flip(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        [byte] = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 1]))


def allow(root: Path, mode: int) -> None:
    root.chmod(mode)
    (root / ".unfinished").chmod(mode)


def files(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]


class TestFolderObjects(ObjectStoreSuite):
    @pytest.fixture
    async def store(self, tmp_path: Path) -> ObjectStore:
        return await FolderObjects.open(tmp_path)


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process in the middle of writing ``old`` and ``new``."""
    with subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(tmp_path)], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        try:
            assert [process.stdout.readline() for _ in range(2)] == [b"written\n"] * 2
            yield process
        finally:
            process.kill()


async def test_killed_writer_leaves_nothing(
    tmp_path: Path, writer: subprocess.Popen[bytes]
) -> None:
    before = await FolderObjects.open(tmp_path)
    await before.put("old", b"kept")
    assert len(files(tmp_path)) == 3, "opening takes nothing from a writer that lives"
    writer.send_signal(signal.SIGKILL)
    await asyncio.to_thread(writer.wait)
    assert await listed(before) == ["old"]
    assert await read(before, "old") == b"kept"
    with fails(Code.NOT_FOUND):
        await before.head("new")
    after = await FolderObjects.open(tmp_path)
    assert len(files(tmp_path)) == 1, "the next to open the folder clears it"
    assert await read(after, "old") == b"kept"


async def test_failed_writer_leaves_no_file(tmp_path: Path) -> None:
    store = await FolderObjects.open(tmp_path)
    with fails(Code.INVALID_ARGUMENT):
        await store.put("a", megabytes(2), digest="0" * 64)
    assert files(tmp_path) == []


async def test_deleting_all_leaves_no_folder(tmp_path: Path) -> None:
    store = await FolderObjects.open(tmp_path)
    await store.put("a/b/c", b"")
    await store.put("a/d", b"")
    await store.delete("a/b/c")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["d="]
    await store.delete("a/d")
    assert not (tmp_path / "a").exists()


async def test_writing_and_deleting_at_once(tmp_path: Path) -> None:
    store = await FolderObjects.open(tmp_path)

    async def churn(key: str) -> None:
        for _ in range(20):
            await store.put(key, b"x")
            await store.delete(key)

    await asyncio.gather(*(churn(f"a/b/{number}") for number in range(6)))
    assert await listed(store) == []


async def test_another_process_sees_it(tmp_path: Path) -> None:
    one, other = [await FolderObjects.open(tmp_path) for _ in range(2)]
    info = await one.put("a/b", b"data", metadata={"n": "1"})
    assert await other.head("a/b") == info


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
async def test_memory_is_bounded(tmp_path: Path) -> None:
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", _LARGE, str(tmp_path)],
        check=True,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert int(done.stdout) < 32


@pytest.mark.parametrize("at", [0, 1_500_000])
async def test_flipped_bit_is_seen(tmp_path: Path, at: int) -> None:
    store = await FolderObjects.open(tmp_path)
    await store.put("a", megabytes(2))
    flip(tmp_path / "a=", at)
    with fails(Code.DATA_LOSS):
        await read(store, "a")
    assert len(await read(store, "a", 1)) == 2 * 1024 * 1024 - 1


@pytest.mark.parametrize("length", [0, 5, 1000, 1_048_576 + 40])
async def test_cut_file_is_damaged(
    tmp_path: Path, length: int, caplog: pytest.LogCaptureFixture
) -> None:
    store = await FolderObjects.open(tmp_path)
    await store.put("a", megabytes(1))
    await store.put("b", b"")
    os.truncate(tmp_path / "a=", length)
    with fails(Code.DATA_LOSS):
        await store.head("a")
    with fails(Code.DATA_LOSS):
        await read(store, "a")
    assert await listed(store) == ["b"]
    assert "damaged" in caplog.text
    await store.put("a", b"anew")
    assert await read(store, "a") == b"anew"


async def test_other_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / ".git").mkdir()
    store = await FolderObjects.open(tmp_path)
    await store.put("a", b"")
    assert await listed(store) == ["a"]
    assert (tmp_path / "notes.txt").read_text() == "mine"


async def test_file_begins_with_the_bytes(tmp_path: Path) -> None:
    store = await FolderObjects.open(tmp_path)
    await store.put("Models/a b", b"raw bytes")
    [file] = files(tmp_path)
    assert file == tmp_path / "!models" / "a%20b="
    assert file.read_bytes().startswith(b"raw bytes\n{")


async def test_full_disk(tmp_path: Path) -> None:
    store = await FolderObjects.open(tmp_path)
    await store.put("a", b"before")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, limit[1]))
    try:
        with fails(Code.RESOURCE_EXHAUSTED):
            await store.put("a", megabytes(4))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)
    assert await read(store, "a") == b"before"
    assert len(files(tmp_path)) == 1


async def test_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with fails(Code.UNAVAILABLE):
        await FolderObjects.open(tmp_path / "file" / "folder")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
async def test_read_only_folder(tmp_path: Path) -> None:
    store = await FolderObjects.open(tmp_path)
    await store.put("a", b"kept")
    allow(tmp_path, 0o500)
    try:
        assert await read(await FolderObjects.open(tmp_path), "a") == b"kept"
        with fails(Code.PERMISSION_DENIED):
            await store.put("b", b"")
    finally:
        allow(tmp_path, 0o700)


async def test_digest_is_what_b2sum_prints(tmp_path: Path) -> None:
    store = await FolderObjects.open(tmp_path)
    info = await store.put("a", b"abc")
    assert info.digest == digest_of(b"abc")
    # RFC 7693 with an output of 32 bytes.
    assert info.digest == "bddd813c634239723171ef3fee98579b94964e3bb1cb3e427262c8c068d52319"
    assert megabytes_digest(0) == digest_of(b"")
