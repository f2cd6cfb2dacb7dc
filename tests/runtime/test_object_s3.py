"""Objects in S3, as moto's server plays it: a process of its own, on the loopback.

`make moto` installs it into an environment of its own, for it needs older packages than we do. One
on the PATH will do too.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from urllib.error import URLError

import pytest
from tests.runtime.object_store_suite import (
    ObjectStoreSuite,
    fails,
    listed,
    megabytes,
    read,
)

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.objects.interface import ObjectStore
from protoplane_runtime.engines.objects.opening import open_object_store

obstore = pytest.importorskip("obstore", reason="needs the extra objects")

_SERVER = shutil.which(
    "moto_server", path=str(Path(__file__).parents[2] / ".venv-moto" / "bin")
) or shutil.which("moto_server")
_WAIT_S = 30.0
_LARGE = """
import asyncio, sys
from protoplane_runtime.engines.objects.opening import open_object_store
from tests.runtime.object_store_suite import megabytes, megabytes_digest

def peak():
    # What a process that forked this one held counts in ru_maxrss, not in VmHWM.
    [line] = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
    return int(line.split()[1]) // 1024

async def main():
    store = await open_object_store(sys.argv[1])
    await store.put("warm", megabytes(4))
    before = peak()
    for digest in (None, megabytes_digest(200)):
        info = await store.put("large", megabytes(200), digest=digest)
        assert info.digest == megabytes_digest(200)
    async with store.get("large") as body:
        assert sum([len(piece) async for piece in body]) == 200 << 20
    print(peak() - before)

asyncio.run(main())
"""
_WRITER = """
import asyncio, sys
from protoplane_runtime.engines.objects.opening import open_object_store
from tests.runtime.object_store_suite import megabytes

async def source():
    async for piece in megabytes(40):
        yield piece
    print("written", flush=True)
    await asyncio.Event().wait()

async def main():
    store = await open_object_store(sys.argv[1])
    await store.put("a", source(), digest="0" * 64)

asyncio.run(main())
"""

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(not _SERVER, reason="moto_server is missing; make moto"),
]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}


def writer(url: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", _WRITER, url], stdout=subprocess.PIPE, env=environment()
    )


def ask(url: str, method: str = "GET", data: bytes | None = None) -> bytes:
    # Without a type, urllib calls it a form.
    headers = {"Content-Type": "application/octet-stream"}
    request = urllib.request.Request(url, data, headers, method=method)
    with urllib.request.urlopen(request, timeout=_WAIT_S) as answer:
        body: bytes = answer.read()
    return body


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a server."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    assert _SERVER
    log = tmp_path_factory.mktemp("moto") / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [_SERVER, "-H", "127.0.0.1", "-p", str(port)], stdout=output, stderr=output
        )
    try:
        until = time.monotonic() + _WAIT_S
        while True:
            try:
                ask(f"{url}/moto-api/")
                break
            except (URLError, ConnectionError):
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < until
                time.sleep(0.05)
        yield url
    finally:
        process.terminate()
        process.wait(_WAIT_S)


@pytest.fixture
def url(server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """URL of an empty bucket's folder."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "something")
    ask(f"{server}/moto-api/reset", "POST", b"")
    ask(f"{server}/bucket", "PUT")
    return f"s3://bucket/some/prefix?endpoint={server}&region=us-east-1"


@pytest.fixture
async def store(url: str) -> ObjectStore:
    return await open_object_store(url)


class TestS3Objects(ObjectStoreSuite):
    large = 40

    @pytest.fixture
    async def store(self, url: str) -> ObjectStore:
        return await open_object_store(url)

    async def test_presign(self, store: ObjectStore) -> None:
        address = await store.presign("a/b c", method="PUT", expires_s=60)
        await asyncio.to_thread(ask, address, "PUT", b"from afar")
        assert await read(store, "a/b c") == b"from afar"
        assert (await store.head("a/b c")).digest is None
        address = await store.presign("a/b c")
        assert await asyncio.to_thread(ask, address) == b"from afar"


async def unfinished_uploads(server: str) -> int:
    return (await asyncio.to_thread(ask, f"{server}/bucket?uploads")).count(b"<Upload>")


async def test_nothing_is_left_of_a_failed_upload(store: ObjectStore, server: str) -> None:
    async def source() -> AsyncGenerator[bytes, None]:
        async for piece in megabytes(40):
            yield piece
        assert await unfinished_uploads(server) == 1
        raise LookupError

    with pytest.raises(LookupError):
        await store.put("a", source(), digest="0" * 64)
    assert await unfinished_uploads(server) == 0


async def test_nothing_is_left_of_a_cancelled_upload(store: ObjectStore, server: str) -> None:
    waits = asyncio.Event()

    async def source() -> AsyncGenerator[bytes, None]:
        async for piece in megabytes(40):
            yield piece
        waits.set()
        await asyncio.Event().wait()

    before = asyncio.all_tasks()
    putting = asyncio.create_task(store.put("a", source(), digest="0" * 64))
    await waits.wait()
    assert await unfinished_uploads(server) == 1
    putting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await putting
    assert await unfinished_uploads(server) == 0
    async with asyncio.timeout(30):
        while asyncio.all_tasks() - before:  # noqa: ASYNC110  # nothing sets an event
            await asyncio.sleep(0.005)


async def test_bytes_that_changed_in_the_store_are_seen(store: ObjectStore, server: str) -> None:
    info = await store.put("a", b"data")
    bucket = obstore.store.S3Store(
        "bucket", endpoint=server, region="us-east-1", client_options={"allow_http": True}
    )
    told = {"protoplane-blake2b": info.digest or ""}
    await obstore.put_async(bucket, "some/prefix/a", b"dada", attributes=told)
    with fails(Code.DATA_LOSS):
        await read(store, "a")


async def test_other_objects_have_no_digest(store: ObjectStore, server: str) -> None:
    await asyncio.to_thread(ask, f"{server}/bucket/some/prefix/x/y", "PUT", b"foreign")
    await asyncio.to_thread(ask, f"{server}/bucket/elsewhere", "PUT", b"foreign")
    assert await listed(store) == ["x/y"]
    assert (await store.head("x/y")).digest is None
    assert await read(store, "x/y") == b"foreign"


async def test_killed_writer_leaves_what_was_there(url: str, store: ObjectStore) -> None:
    await store.put("a", b"kept")
    with writer(url) as process:
        assert process.stdout is not None
        assert await asyncio.to_thread(process.stdout.readline) == b"written\n"
        process.kill()
    assert await read(store, "a") == b"kept"
    assert await listed(store) == ["a"]


async def test_store_that_goes_away_in_the_middle(url: str, tmp_path: Path) -> None:
    async def drop(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.close()

    before = asyncio.all_tasks()
    gate = await asyncio.start_server(drop, "127.0.0.1", 0)
    async with gate:
        port = gate.sockets[0].getsockname()[1]
        store = await open_object_store(f"s3://bucket?endpoint=http://127.0.0.1:{port}&region=x")
        putting = asyncio.create_task(store.put("a", megabytes(40), digest="0" * 64))
        await asyncio.sleep(0.5)
        putting.cancel()
        async with asyncio.timeout(30):
            with pytest.raises(asyncio.CancelledError):
                await putting
    async with asyncio.timeout(30):
        while asyncio.all_tasks() - before:  # noqa: ASYNC110  # nothing sets an event
            await asyncio.sleep(0.005)


async def test_absent_bucket(url: str) -> None:
    store = await open_object_store(url.replace("//bucket", "//elsewhere"))
    with fails(Code.NOT_FOUND):
        await listed(store)
    for source in (b"", megabytes(40)):
        with pytest.raises(PlaneError, match="make the bucket") as caught:
            await store.put("a", source)
        assert caught.value.code is Code.NOT_FOUND


async def test_wrong_credentials(server: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # moto asks who it is after so many requests; the first makes the policy that refuses all.
    limit = "/moto-api/reset-auth"
    await asyncio.to_thread(ask, server + limit, "POST", b"0")
    try:
        store = await open_object_store(url)
        with pytest.raises(PlaneError) as caught:
            await store.put("a", b"")
    finally:
        await asyncio.to_thread(ask, server + limit, "POST", b"inf")
    assert caught.value.code in (Code.PERMISSION_DENIED, Code.UNAUTHENTICATED)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
async def test_memory_is_bounded(url: str) -> None:
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", _LARGE, url],
        check=True,
        capture_output=True,
        env=environment(),
    )
    assert int(done.stdout) < 100
