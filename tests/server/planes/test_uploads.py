"""Uploads that wait, and pages of long lists: what the services do not show at once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protoplane_base import Code, PlaneError
from protoplane_server.planes import uploads as module
from protoplane_server.planes.paging import behind, page_token, parts
from protoplane_server.planes.uploads import MAX_UPLOADS, Uploads

pytestmark = pytest.mark.anyio


async def test_a_later_call_takes_over() -> None:
    async with Uploads() as uploads:
        upload, first = await uploads.resume("upload-1", "a/b", 0)
        await uploads.append(upload, first, b"one ")
        same, second = await uploads.resume("upload-1", "a/b", 4)
        assert same is upload
        with pytest.raises(PlaneError) as caught:
            await uploads.append(upload, first, b"late")
        assert caught.value.code is Code.ABORTED
        await uploads.append(upload, second, b"two")
        assert b"".join([piece async for piece in uploads.content(upload, second)]) == b"one two"
        with pytest.raises(PlaneError):
            await anext(uploads.content(upload, first))
    assert upload.file.closed


async def test_what_came_after_the_offset_is_dropped() -> None:
    async with Uploads() as uploads:
        upload, turn = await uploads.resume("upload-1", "a/b", 0)
        await uploads.append(upload, turn, b"0123456789")
        upload, turn = await uploads.resume("upload-1", "a/b", 3)
        await uploads.append(upload, turn, b"xy")
        assert b"".join([piece async for piece in uploads.content(upload, turn)]) == b"012xy"


async def test_those_that_wait_longest_make_room() -> None:
    async with Uploads() as uploads:
        for number in range(MAX_UPLOADS + 2):
            await uploads.resume(f"upload-{number:03}", "a/b", 0)
        for number in (0, 1):
            with pytest.raises(PlaneError) as caught:
                await uploads.find(f"upload-{number:03}")
            assert caught.value.code is Code.NOT_FOUND
        assert (await uploads.find("upload-002")).received == 0


async def test_nobody_waits_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Uploads() as uploads:
        upload, _ = await uploads.resume("upload-1", "a/b", 0)
        monkeypatch.setattr(module, "WAIT_S", -1.0)
        with pytest.raises(PlaneError) as caught:
            await uploads.find("upload-1")
        assert caught.value.code is Code.NOT_FOUND
        assert upload.file.closed


@given(st.text())
def test_page_tokens(name: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError:
        return
    assert behind(page_token(name)) == name


@pytest.mark.parametrize("token", ["ä", "a", "_w"])
def test_what_is_no_page_token_is_refused(token: str) -> None:
    with pytest.raises(PlaneError) as caught:
        behind(token)
    assert caught.value.code is Code.INVALID_ARGUMENT


@given(st.lists(st.integers(0, 50)), st.integers(1, 100), st.integers(1, 10))
def test_parts_are_bounded_and_whole(sizes: list[int], max_bytes: int, max_items: int) -> None:
    found = [*parts(sizes, lambda size: size, max_bytes, max_items)]
    assert [size for part in found for size in part] == sizes
    for part in found:
        assert 0 < len(part) <= max_items
        assert len(part) == 1 or sum(part) <= max_bytes
