"""What killed processes and callers who never came back leave is deleted in time."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.components.registry.running import add, digest_of, objects_in, parts, running

from protoplane.registry.v1 import (
    GetUploadRequest,
    ListModelsRequest,
    UploadHeader,
    VersionSpec,
)
from protoplane_base import Code, PlaneError
from protoplane_components.registry.addresses import database_url
from protoplane_components.registry.artifacts import Artifacts
from protoplane_components.registry.database import Database
from protoplane_runtime.engines.objects.opening import open_object_store

pytestmark = pytest.mark.anyio

DATA = bytes(5000)
UPLOAD = "an-upload-of-the-tests"
DAYS_NS = 2 * 24 * 3600 * 1_000_000_000


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:{tmp_path / 'registry.sqlite'}"


def pass_time(patch: pytest.MonkeyPatch) -> None:
    for module in ("artifacts", "uploads"):
        name = f"protoplane_components.registry.{module}.now_ns"
        patch.setattr(name, lambda: time.time_ns() + DAYS_NS)


async def test_a_file_whose_writer_died_before_its_version_was_added(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield DATA

    database = await Database.open(database_url(url))
    artifacts = Artifacts(database, await open_object_store(f"local:{tmp_path}"))
    await artifacts.write(VersionSpec(model="small"), pieces(), len(DATA), "")
    await database.close()
    async with running(url, tmp_path) as registry:
        assert len(objects_in(tmp_path)) == 1
        await add(registry, "other", "1")
    pass_time(monkeypatch)
    async with running(url, tmp_path) as registry:
        [model] = (await registry.list_models(ListModelsRequest())).models
        assert model.name == "other"
        [left] = objects_in(tmp_path)
        assert "other" in left


async def test_an_upload_that_nobody_goes_on_with(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    header = UploadHeader(
        spec=VersionSpec(model="small"), size=len(DATA), digest=digest_of(DATA), upload=UPLOAD
    )
    async with running(url, tmp_path) as registry:
        await registry.upload(parts(header, DATA[:2500]))
        assert len(objects_in(tmp_path)) == 3
    pass_time(monkeypatch)
    async with running(url, tmp_path) as registry:
        with pytest.raises(PlaneError) as caught:
            await registry.get_upload(GetUploadRequest(upload=UPLOAD))
        assert caught.value.code is Code.NOT_FOUND
        assert objects_in(tmp_path) == []
