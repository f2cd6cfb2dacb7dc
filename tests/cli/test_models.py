"""``protoplane models``, with a registry in a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterator
from hashlib import blake2b
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.cli.conftest import Served

from protoplane.registry.v1 import (
    GetUploadRequest,
    RegistryClient,
    UploadHeader,
    UploadRequest,
    VersionSpec,
)
from protoplane_base import Code, PlaneError
from protoplane_client import connect
from protoplane_components.commands.models import models as group

pytest.importorskip("sqlalchemy")

REGISTRY = "protoplane_components.registry:Registry"
PART = 8 << 20
UPLOAD = "an-upload-of-the-tests"


@pytest.fixture
def engine(tmp_path: Path) -> str:
    return f"local:{tmp_path / 'engine'}"


def serve(environment: dict[str, str], engine: str, name: str) -> Served:
    place = ["--grpc", "0", "--http", "0", "--engine", engine]
    return Served(environment, REGISTRY, *place, "--name", f"protoplane/registry/{name}")


@pytest.fixture
def served(environment: dict[str, str], engine: str) -> Iterator[Served]:
    served = serve(environment, engine, "one")
    yield served
    if served.process.poll() is None:
        assert served.stop() == 0


@pytest.mark.usefixtures("served")
def test_push_list_tag_alias_pull_and_watch(
    engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def models(*arguments: str, code: int = 0) -> str:
        # In this process: starting another for each would take most of the time.
        done = CliRunner().invoke(group, [*arguments, "--engine", engine])
        assert done.exit_code == code, done.output
        return done.stdout if code == 0 else done.stderr

    data = os.urandom(300_000)
    (tmp_path / "small.npz").write_bytes(data)
    pushed = json.loads(
        models("push", "small.npz", "small", "--alias", "prod", "--tag", "task=chat", "--json")
    )
    assert (pushed["version"], pushed["format"], pushed["size"]) == ("1", "npz", "300000")
    assert pushed["digest"] == blake2b(data, digest_size=32).hexdigest()
    assert models("tag", "small@prod", "by=me", "--remove", "task") == "small:1 by=me\n"
    assert models("alias", "small", "canary", "1") == "small@canary is small:1\n"
    [listed] = models("list", "--tag", "by=me", "--json").splitlines()
    assert json.loads(listed)["aliases"] == {"canary": "1", "prod": "1"}
    assert "small" in models("list")
    assert models("pull", "small@prod") == "small-1.npz\n"
    assert (tmp_path / "small-1.npz").read_bytes() == data
    [told] = models("watch", "--once").splitlines()
    assert json.loads(told)["model"]["name"] == "small"
    assert models("alias", "small", "canary", "--delete") == ""
    assert models("pull", "small@canary", code=1).startswith("error: NOT_FOUND")
    assert "is no name of a version" in models("pull", "small:", code=2)
    (tmp_path / "small.npz").write_bytes(b"others")
    assert "a version never changes" in models("push", "small.npz", "small:1", code=1)


def test_an_upload_outlives_a_registry_that_is_killed(
    environment: dict[str, str], engine: str, served: Served
) -> None:
    data = os.urandom(PART + 1_000_000)
    header = UploadHeader(
        spec=VersionSpec(model="small", version="1"),
        size=len(data),
        digest=blake2b(data, digest_size=32).hexdigest(),
        upload=UPLOAD,
    )

    async def parts(start: int, *, ends: bool) -> AsyncIterator[UploadRequest]:
        yield UploadRequest(header=header.model_copy(update={"offset": start}))
        for at in range(start, len(data), 250_000):
            yield UploadRequest(data=data[at : at + 250_000])
            if not ends and at > PART:
                await asyncio.Event().wait()

    async def killed() -> None:
        async with connect(f"grpc://{served.grpc}") as plane:
            registry = RegistryClient(plane)
            uploading = asyncio.ensure_future(registry.upload(parts(0, ends=False)))
            async with asyncio.timeout(30):
                while await kept(registry) < PART:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            served.process.kill()
            with pytest.raises(PlaneError):
                await uploading

    async def finished(address: str) -> None:
        async with connect(f"grpc://{address}") as plane:
            registry = RegistryClient(plane)
            assert await kept(registry) == PART
            version = (await registry.upload(parts(PART, ends=True))).version
            assert version is not None
            assert version.digest == header.digest

    asyncio.run(killed())
    served.process.wait(15)
    assert served.process.stderr is not None
    served.process.stderr.close()
    other = serve(environment, engine, "two")
    try:
        asyncio.run(finished(other.grpc))
    finally:
        assert other.stop() == 0


async def kept(registry: RegistryClient) -> int:
    try:
        return (await registry.get_upload(GetUploadRequest(upload=UPLOAD))).received
    except PlaneError as error:
        if error.code is not Code.NOT_FOUND:
            raise
        return 0
