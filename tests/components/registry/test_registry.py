"""What the registry keeps, on each database that it can stand on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection
from tests.components.registry.postgres import Postgres, postgres_or_skip
from tests.components.registry.running import (
    PART,
    add,
    digest_of,
    objects_in,
    parts,
    received,
    running,
    send,
)

from protoplane.registry.v1 import (
    DeleteAliasRequest,
    DeleteVersionRequest,
    DownloadRequest,
    GetModelRequest,
    GetUploadRequest,
    GetVersionRequest,
    ListModelsRequest,
    ListVersionsRequest,
    RegisterRequest,
    RegistryClient,
    SetAliasRequest,
    TagVersionRequest,
    UploadHeader,
    UploadRequest,
    VersionSpec,
)
from protoplane_base import Code, PlaneError
from protoplane_components.registry.addresses import database_url
from protoplane_components.registry.database import Database
from protoplane_components.registry.tables import Base
from protoplane_runtime.engines.objects.opening import open_object_store

pytestmark = pytest.mark.anyio

DATA = bytes(range(256)) * 20
UPLOAD = "an-upload-of-the-tests"


class RegistrySuite:
    """The cases; derive from it and define `url`."""

    pytestmark = pytest.mark.anyio

    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        raise NotImplementedError

    @pytest.fixture
    async def registry(self, url: str, tmp_path: Path) -> AsyncIterator[RegistryClient]:
        async with running(url, tmp_path) as client:
            yield client

    async def test_a_file_comes_back_as_it_was(self, registry: RegistryClient) -> None:
        spec = VersionSpec(
            model="small",
            version="1.0",
            format="npz",
            backend="embedded",
            settings={"threads": "2"},
            tags={"task": "chat"},
            description="a small one",
            aliases=["prod"],
        )
        answer = await send(registry, spec, DATA)
        assert answer.received == len(DATA)
        version = answer.version
        assert version is not None
        assert (version.model, version.version, version.size) == ("small", "1.0", len(DATA))
        assert version.digest == digest_of(DATA)
        assert (version.format, version.backend, version.settings) == (
            "npz",
            "embedded",
            {"threads": "2"},
        )
        assert (version.tags, version.aliases) == ({"task": "chat"}, ["prod"])
        for reference in ("1.0", "@prod", ""):
            asked = GetVersionRequest(model="small", version=reference)
            assert (await registry.get_version(asked)).version == version
            download = DownloadRequest(model="small", version=reference)
            assert await received(registry, download) == DATA
        part = DownloadRequest(model="small", start=300, end=1300, digest=version.digest)
        assert await received(registry, part) == DATA[300:1300]

    async def test_a_version_never_changes(self, registry: RegistryClient, tmp_path: Path) -> None:
        version = await add(registry, "small", "1", DATA)
        before = objects_in(tmp_path)
        assert await add(registry, "small", "1", DATA) == version
        with pytest.raises(PlaneError, match="a version never changes") as caught:
            await add(registry, "small", "1", b"others")
        assert caught.value.code is Code.ALREADY_EXISTS
        assert objects_in(tmp_path) == before

    async def test_a_file_that_is_not_what_was_said(
        self, registry: RegistryClient, tmp_path: Path
    ) -> None:
        for size, digest in ((len(DATA), digest_of(b"others")), (10, ""), (len(DATA) + 1, "")):
            header = UploadHeader(spec=VersionSpec(model="small"), size=size, digest=digest)
            with pytest.raises(PlaneError) as caught:
                await registry.upload(parts(header, DATA))
            assert caught.value.code is Code.INVALID_ARGUMENT
        assert objects_in(tmp_path) == []
        assert not (await registry.list_models(ListModelsRequest())).models

    async def test_versions_without_a_name_are_numbered(self, registry: RegistryClient) -> None:
        await add(registry, "small", "2", b"two")
        added = await asyncio.gather(
            *(add(registry, "small", data=f"{n}".encode()) for n in range(8))
        )
        names = {version.version for version in added}
        assert names == {"1", "3", "4", "5", "6", "7", "8", "9"}
        model = (await registry.get_model(GetModelRequest(model="small"))).model
        assert model is not None
        assert model.version_count == 9
        assert {version.version for version in model.versions} == names | {"2"}
        assert model.latest == model.versions[0]

    async def test_aliases(self, registry: RegistryClient) -> None:
        await add(registry, "small", "1", b"one", aliases=["prod", "old"])
        await add(registry, "small", "2", b"two")
        moved = await registry.set_alias(SetAliasRequest(model="small", alias="prod", version="2"))
        assert moved.version is not None
        assert (moved.version.version, moved.version.aliases) == ("2", ["prod"])
        other = SetAliasRequest(model="small", alias="canary", version="@prod")
        assert (await registry.set_alias(other)).version is not None
        for _ in range(2):
            await registry.delete_alias(DeleteAliasRequest(model="small", alias="old"))
        model = (await registry.get_model(GetModelRequest(model="small"))).model
        assert model is not None
        assert model.aliases == {"canary": "2", "prod": "2"}
        with pytest.raises(PlaneError, match="small has no alias old") as caught:
            await registry.get_version(GetVersionRequest(model="small", version="@old"))
        assert caught.value.code is Code.NOT_FOUND

    async def test_tags(self, registry: RegistryClient) -> None:
        await add(registry, "small", "1", tags={"task": "chat", "draft": ""})
        asked = TagVersionRequest(
            model="small", set={"task": "code", "by": "me"}, remove=["draft", "nothing"]
        )
        version = (await registry.tag_version(asked)).version
        assert version is not None
        assert version.tags == {"by": "me", "task": "code"}
        assert (await registry.get_version(GetVersionRequest(model="small"))).version == version

    async def test_lists(self, registry: RegistryClient) -> None:
        await add(registry, "large", "1", tags={"task": "chat"}, form="gguf")
        await add(registry, "small", "1", tags={"task": "code"}, aliases=["prod"])
        await add(registry, "SMALL_2", "1", tags={"draft": ""})

        async def names(**asked: Any) -> list[str]:
            answer = await registry.list_models(ListModelsRequest(**asked))
            assert not answer.next_page_token
            return [model.name for model in answer.models]

        assert sorted(await names()) == ["SMALL_2", "large", "small"]
        assert sorted(await names(text="Small")) == ["SMALL_2", "small"]
        assert await names(text="L_") == ["SMALL_2"]
        assert await names(tag="task=chat") == ["large"]
        assert sorted(await names(tag="task")) == ["large", "small"]
        assert await names(tag="task", alias="prod") == ["small"]
        assert await names(format="gguf") == ["large"]

    async def test_pages(self, registry: RegistryClient) -> None:
        for number in range(5):
            await add(registry, f"model-{number}", "1")
            await add(registry, "many", f"v{number}", f"{number}".encode())
        token, models = "", list[str]()
        while True:
            page = await registry.list_models(ListModelsRequest(page_size=2, page_token=token))
            models += [model.name for model in page.models]
            assert len(page.models) <= 2
            if not (token := page.next_page_token):
                break
        assert models == ["many", *(f"model-{number}" for number in range(5))]
        versions = list[str]()
        while True:
            asked = ListVersionsRequest(model="many", page_size=2, page_token=token)
            found = await registry.list_versions(asked)
            versions += [version.version for version in found.versions]
            if not (token := found.next_page_token):
                break
        assert versions == ["v4", "v3", "v2", "v1", "v0"]

    async def test_what_is_deleted_is_gone(self, registry: RegistryClient, tmp_path: Path) -> None:
        await add(registry, "small", "1", b"one", tags={"a": "b"}, aliases=["prod"])
        await add(registry, "small", "2", b"two")
        await registry.delete_version(DeleteVersionRequest(model="small", version="1"))
        model = (await registry.get_model(GetModelRequest(model="small"))).model
        assert model is not None
        assert (model.version_count, model.aliases) == (1, {})
        assert len(objects_in(tmp_path)) == 1
        await registry.delete_version(DeleteVersionRequest(model="small", version="2"))
        assert objects_in(tmp_path) == []
        with pytest.raises(PlaneError) as caught:
            await registry.get_model(GetModelRequest(model="small"))
        assert caught.value.code is Code.NOT_FOUND

    async def test_a_file_that_is_there_already(
        self, registry: RegistryClient, tmp_path: Path
    ) -> None:
        objects = await open_object_store(f"local:{tmp_path}")
        await objects.put("forge/models/small", DATA)
        spec = VersionSpec(model="small", version="1")
        asked = RegisterRequest(spec=spec, artifact="forge/models/small", digest=digest_of(DATA))
        for _ in range(2):
            version = (await registry.register(asked)).version
            assert version is not None
            assert (version.artifact, version.size) == ("forge/models/small", len(DATA))
        assert await received(registry, DownloadRequest(model="small")) == DATA
        for change, code in (
            ({"digest": digest_of(b"others")}, Code.FAILED_PRECONDITION),
            ({"artifact": "forge/nothing"}, Code.NOT_FOUND),
        ):
            with pytest.raises(PlaneError) as caught:
                await registry.register(asked.model_copy(update=change))
            assert caught.value.code is code
        # It was written anew, by somebody else.
        await objects.put("forge/models/small", b"others")
        with pytest.raises(PlaneError) as caught:
            await received(registry, DownloadRequest(model="small"))
        assert caught.value.code is Code.DATA_LOSS
        # What others wrote stays.
        await registry.delete_version(DeleteVersionRequest(model="small", version="1"))
        assert (await objects.head("forge/models/small")).size == len(b"others")

    async def test_an_upload_is_gone_on_with_after_a_restart(
        self, url: str, tmp_path: Path
    ) -> None:
        header = UploadHeader(
            spec=VersionSpec(model="small", version="1"),
            size=len(DATA),
            digest=digest_of(DATA),
            upload=UPLOAD,
        )
        async with running(url, tmp_path) as registry:
            answer = await registry.upload(parts(header, DATA[:2500]))
            assert (answer.version, answer.received) == (None, 2500)
            with pytest.raises(PlaneError, match=r"2500 bytes of .* are kept") as caught:
                await registry.upload(parts(header.model_copy(update={"offset": 3}), DATA[3:]))
            assert caught.value.code is Code.OUT_OF_RANGE
        async with running(url, tmp_path) as registry:
            far = await registry.get_upload(GetUploadRequest(upload=UPLOAD))
            assert (far.received, far.version) == (2500, None)
            rest = header.model_copy(update={"offset": far.received})
            answer = await registry.upload(parts(rest, DATA[2500:]))
            assert answer.version is not None
            assert await received(registry, DownloadRequest(model="small")) == DATA
            # Who missed the answer asks, or sends the end again.
            done = await registry.get_upload(GetUploadRequest(upload=UPLOAD))
            assert (done.received, done.version) == (len(DATA), answer.version)
            end = header.model_copy(update={"offset": len(DATA)})
            assert (await registry.upload(parts(end, b""))).version == answer.version
        assert len(objects_in(tmp_path)) == 1

    async def test_an_upload_that_its_caller_leaves_keeps_whole_parts(
        self, registry: RegistryClient
    ) -> None:
        header = UploadHeader(
            spec=VersionSpec(model="small"), size=len(DATA), digest=digest_of(DATA), upload=UPLOAD
        )

        async def unending() -> AsyncIterator[UploadRequest]:
            async for part in parts(header, DATA[: PART + 300]):
                yield part
            await asyncio.Event().wait()

        uploading = asyncio.ensure_future(registry.upload(unending()))
        async with asyncio.timeout(30):
            while await self.kept(registry) < PART:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        uploading.cancel()
        await asyncio.wait([uploading])
        assert await self.kept(registry) == PART
        # Another name is another upload, and the same name with another file is refused.
        other = header.model_copy(update={"digest": digest_of(b"others")})
        with pytest.raises(PlaneError) as caught:
            await registry.upload(parts(other, b""))
        assert caught.value.code is Code.ALREADY_EXISTS
        # It begins again where it is told to.
        answer = await registry.upload(parts(header, DATA))
        assert answer.version is not None

    async def kept(self, registry: RegistryClient) -> int:
        try:
            return (await registry.get_upload(GetUploadRequest(upload=UPLOAD))).received
        except PlaneError as error:
            if error.code is not Code.NOT_FOUND:
                raise
            return 0

    async def test_of_two_who_upload_the_same_the_later_goes_on(
        self, registry: RegistryClient
    ) -> None:
        header = UploadHeader(
            spec=VersionSpec(model="small"), size=len(DATA), digest=digest_of(DATA), upload=UPLOAD
        )
        go_on = asyncio.Event()

        async def slow() -> AsyncIterator[UploadRequest]:
            async for part in parts(header, DATA[:PART]):
                yield part
            await go_on.wait()
            yield UploadRequest(data=DATA[PART:])

        earlier = asyncio.ensure_future(registry.upload(slow()))
        async with asyncio.timeout(30):
            while await self.kept(registry) < PART:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        later = header.model_copy(update={"offset": PART})
        half = await registry.upload(parts(later, DATA[PART : 2 * PART]))
        assert half.received == 2 * PART
        go_on.set()
        with pytest.raises(PlaneError) as caught:
            await earlier
        assert caught.value.code is Code.ABORTED
        rest = header.model_copy(update={"offset": 2 * PART})
        answer = await registry.upload(parts(rest, DATA[2 * PART :]))
        assert answer.version is not None
        assert answer.version.digest == digest_of(DATA)

    async def test_an_upload_with_another_digest_is_forgotten(
        self, registry: RegistryClient, tmp_path: Path
    ) -> None:
        header = UploadHeader(
            spec=VersionSpec(model="small"), size=len(DATA), digest=digest_of(b"o"), upload=UPLOAD
        )
        with pytest.raises(PlaneError) as caught:
            await registry.upload(parts(header, DATA))
        assert caught.value.code is Code.INVALID_ARGUMENT
        with pytest.raises(PlaneError) as caught:
            await registry.get_upload(GetUploadRequest(upload=UPLOAD))
        assert caught.value.code is Code.NOT_FOUND
        assert objects_in(tmp_path) == []

    async def test_two_processes_that_add_at_the_same_time(self, url: str, tmp_path: Path) -> None:
        async with (
            running(url, tmp_path) as one,
            running(url, tmp_path, name="two") as two,
        ):
            added = await asyncio.gather(
                *(
                    add(each, "small", data=f"{n}".encode())
                    for n in range(6)
                    for each in (one, two)
                ),
                *(add(each, "other", "1") for each in (one, two)),
            )
        assert {version.version for version in added[:12]} == {str(n) for n in range(1, 13)}
        assert added[12] == added[13]
        assert len(objects_in(tmp_path)) == 13

    async def test_the_steps_lead_to_the_tables(self, url: str) -> None:
        def differences(connection: Connection) -> list[Any]:
            options = {"compare_type": True, "version_table": "registry_version"}
            context = MigrationContext.configure(connection, opts=options)
            return list(compare_metadata(context, Base.metadata))

        # All open it at once, and again.
        databases = await asyncio.gather(*(Database.open(database_url(url)) for _ in range(4)))
        try:
            async with databases[0].engine.begin() as connection:
                assert await connection.run_sync(differences) == []
        finally:
            await asyncio.gather(*(database.close() for database in databases))


class TestSqlite(RegistrySuite):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite:{tmp_path / 'registry.sqlite'}"


class TestPostgres(RegistrySuite):
    @pytest.fixture
    def url(self, postgres: Postgres) -> str:
        return postgres.database()


@pytest.mark.parametrize("door", ["grpc", "http", "link"])
async def test_every_door_carries_files(tmp_path: Path, door: str) -> None:
    async with running("sqlite::memory:", tmp_path, door=door) as registry:
        await add(registry, "small", "1", DATA)
        assert await received(registry, DownloadRequest(model="small")) == DATA


async def test_a_database_that_is_away(tmp_path: Path) -> None:
    with pytest.raises(PlaneError, match="database does not answer") as caught:
        async with running(f"postgresql://me@/nothing?host={tmp_path}", tmp_path):
            pass
    assert caught.value.code is Code.UNAVAILABLE


async def test_a_database_that_goes_away(tmp_path: Path) -> None:
    with postgres_or_skip() as server:
        async with running(server.database(), tmp_path) as registry:
            await add(registry, "small", "1")
            await asyncio.to_thread(server.kill)
            for _ in range(2):
                with pytest.raises(PlaneError) as caught:
                    await registry.get_model(GetModelRequest(model="small"))
                assert caught.value.code is Code.UNAVAILABLE
            with pytest.raises(PlaneError) as caught:
                await add(registry, "small", "2")
            assert caught.value.code is Code.UNAVAILABLE


async def test_a_database_that_a_newer_version_changed(tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path / 'registry.sqlite'}"
    database = await Database.open(database_url(url))
    async with database.engine.begin() as connection:
        await connection.exec_driver_sql("UPDATE registry_version SET version_num = '9999'")
    await database.close()
    with pytest.raises(PlaneError, match="newer version") as caught:
        await Database.open(database_url(url))
    assert caught.value.code is Code.FAILED_PRECONDITION


@pytest.mark.parametrize(
    ("request_", "fault"),
    [
        (UploadRequest(data=b"x"), "the first message of an upload is its header"),
        (UploadRequest(header=UploadHeader()), "spec is missing"),
        (
            UploadRequest(header=UploadHeader(spec=VersionSpec(model="a/b"))),
            "no name of a model",
        ),
        (
            UploadRequest(header=UploadHeader(spec=VersionSpec(model="a"), offset=1)),
            "only an upload with a name",
        ),
        (
            UploadRequest(header=UploadHeader(spec=VersionSpec(model="a"), upload="x")),
            "no name of an upload",
        ),
    ],
)
async def test_uploads_that_cannot_be(tmp_path: Path, request_: UploadRequest, fault: str) -> None:
    async def one() -> AsyncIterator[UploadRequest]:
        yield request_

    async with running("sqlite::memory:", tmp_path) as registry:
        with pytest.raises(PlaneError, match=fault) as caught:
            await registry.upload(one())
        assert caught.value.code is Code.INVALID_ARGUMENT
