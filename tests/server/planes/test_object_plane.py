"""The object plane through every door, by its generated client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any, cast

import pytest
from tests.parts import Parts
from tests.server.planes.conftest import Offered, address, options

from protoplane.v1 import (
    ObjectHeader,
    ObjectInfo,
    ObjectsClient,
    ObjectsDeleteRequest,
    ObjectsGetRequest,
    ObjectsHeadRequest,
    ObjectsListRequest,
    ObjectsPresignRequest,
    ObjectsPutRequest,
    ObjectsPutResponse,
    ObjectsUploadRequest,
)
from protoplane_base import Code, PlaneError
from protoplane_client import connect
from protoplane_server import Server

pytestmark = pytest.mark.anyio

KEY = "forge/models/small"
BYTES = bytes(range(256)) * 4096  # A megabyte.
UPLOAD = "an-upload-of-the-tests"


def digest(data: bytes) -> str:
    return blake2b(data, digest_size=32).hexdigest()


@pytest.fixture
async def offered(door: str, tmp_path: Path) -> AsyncIterator[Offered]:
    served = options(door, objects=f"file://{tmp_path / 'objects'}")
    async with Server(Parts(), served) as server, connect(address(server, door)) as plane:
        yield Offered(plane, server)


@pytest.fixture
def client(offered: Offered) -> ObjectsClient:
    return ObjectsClient(offered.plane)


async def sent(header: ObjectHeader | None, *data: bytes) -> AsyncIterator[ObjectsPutRequest]:
    if header is not None:
        yield ObjectsPutRequest(header=header)
    for piece in data:
        for at in range(0, len(piece), 100_000) or [0]:
            yield ObjectsPutRequest(data=piece[at : at + 100_000])


async def put(client: ObjectsClient, header: ObjectHeader, *data: bytes) -> ObjectsPutResponse:
    return await client.put(sent(header, *data), timeout_s=30)


async def get(client: ObjectsClient, **asked: Any) -> tuple[ObjectInfo, bytes]:
    info: ObjectInfo | None = None
    data = b""
    start = asked.get("start", 0)
    async for answer in client.get(ObjectsGetRequest(**asked), timeout_s=30):
        info = info or answer.info
        assert answer.offset == start + len(data)
        data += answer.data
    assert info is not None
    return info, data


async def refused(calling: Any) -> Code:
    with pytest.raises(PlaneError) as caught:
        await calling
    return caught.value.code


async def test_there_and_back(client: ObjectsClient) -> None:
    said = {"version": "3 🐘"}
    header = ObjectHeader(key=KEY, metadata=said, digest=digest(BYTES), size=len(BYTES))
    kept = (await put(client, header, BYTES)).info
    assert kept is not None
    assert (kept.key, kept.size, kept.digest) == (KEY, len(BYTES), digest(BYTES))
    info, data = await get(client, key=KEY)
    assert data == BYTES
    assert (info.etag, info.metadata, info.digest) == (kept.etag, said, kept.digest)
    head = (await client.head(ObjectsHeadRequest(key=KEY), timeout_s=20)).info
    assert head == info
    await client.delete(ObjectsDeleteRequest(key=KEY), timeout_s=20)
    await client.delete(ObjectsDeleteRequest(key=KEY), timeout_s=20)
    assert await refused(client.head(ObjectsHeadRequest(key=KEY), timeout_s=20)) is Code.NOT_FOUND
    assert await refused(get(client, key=KEY)) is Code.NOT_FOUND


async def test_a_read_goes_on_where_it_broke_off(client: ObjectsClient) -> None:
    await put(client, ObjectHeader(key=KEY), BYTES)
    answers = client.get(ObjectsGetRequest(key=KEY), timeout_s=30)
    came, etag = b"", ""
    async with aclosing(cast("Any", answers)) as reading:
        async for answer in reading:
            etag = etag or answer.info.etag
            came += answer.data
            if came:
                break
    assert 0 < len(came) < len(BYTES)
    _, rest = await get(client, key=KEY, start=len(came), etag=etag)
    assert came + rest == BYTES
    assert (await get(client, key=KEY, start=10, end=20))[1] == BYTES[10:20]
    await put(client, ObjectHeader(key=KEY), b"another")
    again = get(client, key=KEY, start=len(came), etag=etag)
    assert await refused(again) is Code.FAILED_PRECONDITION
    assert await refused(get(client, key=KEY, start=1_000)) is Code.OUT_OF_RANGE


async def test_what_is_not_kept(client: ObjectsClient) -> None:
    await put(client, ObjectHeader(key=KEY), b"before")
    wrong = [
        put(client, ObjectHeader(key=KEY, digest=digest(b"other")), b"bytes"),
        put(client, ObjectHeader(key=KEY, size=6), b"bytes"),
        put(client, ObjectHeader(key=KEY, size=4), b"bytes"),
        put(client, ObjectHeader(key=KEY, digest="abc"), b"bytes"),
        put(client, ObjectHeader(key=KEY, metadata={"Name": "x"}), b"bytes"),
        put(client, ObjectHeader(key=KEY, offset=3), b"bytes"),
        put(client, ObjectHeader(key="a/../b"), b"bytes"),
        client.put(sent(None, b"bytes"), timeout_s=20),
        client.put(sent(None), timeout_s=20),
        put(client, ObjectHeader(key=KEY, upload="short"), b"bytes"),
    ]
    for number, each in enumerate(wrong):
        assert await refused(each) is Code.INVALID_ARGUMENT, number
    assert (await get(client, key=KEY))[1] == b"before"


async def test_an_upload_goes_on_where_it_broke_off(client: ObjectsClient) -> None:
    header = ObjectHeader(key=KEY, upload=UPLOAD, size=len(BYTES), digest=digest(BYTES))
    asked = ObjectsUploadRequest(upload=UPLOAD)
    assert await refused(client.upload(asked, timeout_s=20)) is Code.NOT_FOUND
    part = await put(client, header, BYTES[:300_000])
    assert (part.info, part.received) == (None, 300_000)
    assert await refused(client.head(ObjectsHeadRequest(key=KEY), timeout_s=20)) is Code.NOT_FOUND
    far = await client.upload(asked, timeout_s=20)
    assert (far.key, far.received) == (KEY, 300_000)
    too_far = header.model_copy(update={"offset": 300_001})
    assert await refused(put(client, too_far, b"")) is Code.OUT_OF_RANGE
    elsewhere = header.model_copy(update={"key": "forge/models/other", "offset": 10})
    assert await refused(put(client, elsewhere, b"")) is Code.INVALID_ARGUMENT
    # From before the end of what came, so that some of it is written again.
    rest = header.model_copy(update={"offset": 200_000})
    kept = (await put(client, rest, BYTES[200_000:])).info
    assert kept is not None
    assert (kept.size, kept.digest) == (len(BYTES), digest(BYTES))
    assert (await get(client, key=KEY))[1] == BYTES
    assert await refused(client.upload(asked, timeout_s=20)) is Code.NOT_FOUND
    assert await refused(put(client, rest, b"")) is Code.NOT_FOUND


async def test_a_broken_connection_leaves_what_came(client: ObjectsClient, door: str) -> None:
    if door == "http":
        pytest.skip("a request over HTTP/1.1 is whole before it is answered, or not there")
    header = ObjectHeader(key=KEY, upload=UPLOAD, size=len(BYTES), digest=digest(BYTES))
    stuck = asyncio.Event()

    async def broken() -> AsyncIterator[ObjectsPutRequest]:
        async for request in sent(header, BYTES[:400_000]):
            yield request
        await stuck.wait()

    call = asyncio.ensure_future(client.put(broken(), timeout_s=60))
    received = 0
    async with asyncio.timeout(30):
        while received < 400_000:
            await asyncio.sleep(0.01)
            with suppress(PlaneError):
                asked = ObjectsUploadRequest(upload=UPLOAD)
                received = (await client.upload(asked, timeout_s=20)).received
    # The connection still looks open; who comes later goes on all the same.
    rest = header.model_copy(update={"offset": received})
    kept = (await put(client, rest, BYTES[received:])).info
    assert kept is not None
    assert kept.digest == digest(BYTES)
    stuck.set()
    assert await refused(call) is Code.ABORTED
    assert (await get(client, key=KEY))[1] == BYTES


async def test_bytes_that_are_not_those_announced_end_their_upload(client: ObjectsClient) -> None:
    header = ObjectHeader(key=KEY, upload=UPLOAD, digest=digest(b"other"))
    assert await refused(put(client, header, b"bytes")) is Code.INVALID_ARGUMENT
    gone = client.upload(ObjectsUploadRequest(upload=UPLOAD), timeout_s=20)
    assert await refused(gone) is Code.NOT_FOUND
    empty = header.model_copy(update={"digest": digest(b"")})
    kept = (await put(client, empty)).info
    assert kept is not None
    assert kept.size == 0


async def test_a_list_comes_in_pages(client: ObjectsClient) -> None:
    keys = [f"forge/{name}" for name in "edcab"]
    for key in [*keys, "forgery"]:
        await put(client, ObjectHeader(key=key), key.encode())
    seen: list[str] = []
    token = ""
    while True:
        request = ObjectsListRequest(prefix="forge", page_size=2, page_token=token)
        page = await client.list(request, timeout_s=20)
        assert len(page.objects) <= 2
        seen += [each.key for each in page.objects]
        token = page.next_page_token
        if not token:
            break
    assert seen == sorted(keys)
    everything = await client.list(ObjectsListRequest(), timeout_s=20)
    assert [each.key for each in everything.objects] == [*sorted(keys), "forgery"]


async def test_a_folder_has_no_urls(client: ObjectsClient) -> None:
    calling = client.presign(ObjectsPresignRequest(key=KEY), timeout_s=20)
    assert await refused(calling) is Code.UNIMPLEMENTED


def test_digests_are_those_that_b2sum_prints() -> None:
    # RFC 7693 with a digest of 32 bytes: `printf abc | b2sum --length 256`.
    assert digest(b"abc") == "bddd813c634239723171ef3fee98579b94964e3bb1cb3e427262c8c068d52319"
