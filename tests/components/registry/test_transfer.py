"""Files go to a registry and come back, whatever breaks off meanwhile."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterable, AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.components.registry.running import add, digest_of, running

from protoplane.registry.v1 import (
    DownloadRequest,
    DownloadResponse,
    GetUploadRequest,
    RegistryClient,
    UploadRequest,
    UploadResponse,
    VersionSpec,
)
from protoplane_base import Code, PlaneError
from protoplane_components.registry.transfer import ATTEMPTS, pull, push

pytestmark = pytest.mark.anyio
DATA = os.urandom(900_000)


class Breaking(RegistryClient):
    """A client whose transfers break off."""

    def __init__(self, whole: RegistryClient, *, breaks: int, messages: int) -> None:
        self.whole = whole
        self.breaks = breaks
        self.messages = messages
        self.calls = 0
        self.moved = 0

    def __getattribute__(self, name: str) -> Any:
        if name in ("get_upload", "get_version"):
            return getattr(self.whole, name)
        return super().__getattribute__(name)

    async def upload(  # type: ignore[override]
        self, requests: AsyncIterable[UploadRequest]
    ) -> UploadResponse:
        self.calls += 1
        breaks = self.calls <= self.breaks

        async def some() -> AsyncIterator[UploadRequest]:
            count = 0
            async for request in requests:
                if breaks and count > self.messages:
                    return
                count += 1
                self.moved += len(request.data or b"")
                yield request

        answer = await self.whole.upload(some())
        if breaks:
            raise PlaneError(Code.UNAVAILABLE, "broken off")
        return answer

    async def download(self, request: DownloadRequest) -> AsyncIterator[DownloadResponse]:  # type: ignore[override]
        self.calls += 1
        count = 0
        async for answer in self.whole.download(request):
            if self.calls <= self.breaks and count > self.messages:
                raise PlaneError(Code.UNAVAILABLE, "broken off")
            count += 1
            self.moved += len(answer.data)
            yield answer


@pytest.fixture
async def registry(tmp_path: Path) -> AsyncIterator[RegistryClient]:
    database = f"sqlite:{tmp_path / 'registry.sqlite'}"
    async with running(database, tmp_path, part_bytes=200_000) as client:
        yield client


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "small.npz"
    path.write_bytes(DATA)
    return path


async def test_there_and_back(registry: RegistryClient, file: Path, tmp_path: Path) -> None:
    far: list[tuple[int, int]] = []
    spec = VersionSpec(model="small", version="1", aliases=["prod"])
    version = await push(registry, file, spec, told=lambda done, size: far.append((done, size)))
    assert (version.digest, version.size) == (digest_of(DATA), len(DATA))
    assert far[-1] == (len(DATA), len(DATA))
    assert await push(registry, file, spec) == version
    back = tmp_path / "back"
    assert await pull(registry, "small", "@prod", back) == version
    assert back.read_bytes() == DATA
    other = tmp_path / "other"
    await asyncio.to_thread(other.write_bytes, b"others")
    with pytest.raises(PlaneError) as caught:
        await push(registry, other, spec)
    assert caught.value.code is Code.ALREADY_EXISTS


async def test_an_empty_file(registry: RegistryClient, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    await push(registry, tmp_path / "empty", VersionSpec(model="empty"))
    await pull(registry, "empty", "", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == b""


async def test_what_breaks_off_is_gone_on_with(
    registry: RegistryClient, file: Path, tmp_path: Path
) -> None:
    breaking = Breaking(registry, breaks=2, messages=1)
    await push(breaking, file, VersionSpec(model="small"))
    assert (breaking.calls, breaking.moved) == (3, len(DATA))
    breaking = Breaking(registry, breaks=2, messages=1)
    await pull(breaking, "small", "", tmp_path / "back")
    assert (breaking.calls, breaking.moved) == (3, len(DATA))
    assert (tmp_path / "back").read_bytes() == DATA


async def test_what_never_gets_further_is_given_up(
    registry: RegistryClient, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("protoplane_components.registry.transfer._PAUSE_S", 0.0)
    breaking = Breaking(registry, breaks=100, messages=0)
    with pytest.raises(PlaneError, match="broken off"):
        await push(breaking, file, VersionSpec(model="small"))
    assert breaking.calls == ATTEMPTS + 1


async def test_what_came_wrong_is_thrown_away(registry: RegistryClient, tmp_path: Path) -> None:
    version = await add(registry, "small", "1", DATA)
    partly = tmp_path / f"back.{version.digest[:12]}.part"
    partly.write_bytes(b"others")
    with pytest.raises(PlaneError) as caught:
        await pull(registry, "small", "1", tmp_path / "back")
    assert caught.value.code is Code.DATA_LOSS
    assert not partly.exists()
    assert not (tmp_path / "back").exists()
    await pull(registry, "small", "1", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == DATA


async def test_uploads_of_the_same_file_are_the_same(registry: RegistryClient, file: Path) -> None:
    class Stopped(Exception):
        pass

    def stop(done: int, _size: int) -> None:
        if done > 500_000:
            raise Stopped

    spec = VersionSpec(model="small")
    with pytest.raises(Stopped):
        await push(registry, file, spec, told=stop)
    breaking = Breaking(registry, breaks=0, messages=0)
    await push(breaking, file, spec)
    assert 0 < breaking.moved < len(DATA)
    with pytest.raises(PlaneError):
        await registry.get_upload(GetUploadRequest(upload="nobody-began-this"))
