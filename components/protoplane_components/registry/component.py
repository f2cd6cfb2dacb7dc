"""The component, as a user would write it."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Any, Self

from protoplane.registry.v1 import (
    DeleteAliasRequest,
    DeleteAliasResponse,
    DeleteVersionRequest,
    DeleteVersionResponse,
    DownloadRequest,
    DownloadResponse,
    GetModelRequest,
    GetModelResponse,
    GetUploadRequest,
    GetUploadResponse,
    GetVersionRequest,
    GetVersionResponse,
    ListModelsRequest,
    ListModelsResponse,
    ListPlacementsRequest,
    ListPlacementsResponse,
    ListVersionsRequest,
    ListVersionsResponse,
    ModelChange,
    ModelChanged,
    Placement,
    RegisterRequest,
    RegisterResponse,
    RegistryService,
    SetAliasRequest,
    SetAliasResponse,
    TagVersionRequest,
    TagVersionResponse,
    UploadHeader,
    UploadRequest,
    UploadResponse,
    Version,
    VersionSpec,
    WatchRequest,
    WatchResponse,
)
from protoplane_base import Code, PlaneError, Timestamp
from protoplane_components.registry.addresses import VARIABLE, beside, database_url
from protoplane_components.registry.artifacts import Artifacts
from protoplane_components.registry.catalog import Catalog, StoredFile
from protoplane_components.registry.database import Database
from protoplane_components.registry.names import (
    check_model,
    check_name,
    check_pairs,
    check_spec,
    check_upload,
)
from protoplane_components.registry.placements import Placements
from protoplane_components.registry.uploads import PART_BYTES, Uploads
from protoplane_components.registry.watching import Bell, watch
from protoplane_runtime.engines.objects.checks import check_digest, check_object_key
from protoplane_runtime.engines.objects.interface import ObjectStore
from protoplane_server import Context, Host
from protoplane_server.planes.paging import behind, page_size, page_token

DATA_BYTES = 256 * 1024
"""Most bytes of a file in one message."""

_CHANGES = "protoplane/registry/models/*"
_KNOWN_S = 2.0
_PAUSE_S = 1.0
_log = logging.getLogger("protoplane.registry")


class Registry(RegistryService):
    """Keeps models, their files, and who has them.

    Any number of processes serve one registry, where they share the database, the engine and the
    object store.

    Args:
        database: URL of the database: ``sqlite:/a/file``, ``sqlite::memory:`` or
            ``postgresql://…``; by default ``$PROTOPLANE_REGISTRY``, else a file beside the engine.
        part_bytes: Bytes that an upload keeps at a time.
    """

    endless_methods = ("Watch",)

    def __init__(self, database: str | None = None, *, part_bytes: int = PART_BYTES) -> None:
        self._url = database or os.environ.get(VARIABLE)
        self._part_bytes = part_bytes
        self._host: Host | None = None
        self._stack = AsyncExitStack()
        self._bell = Bell()
        self._placements: Placements | None = None
        self._opened: tuple[ObjectStore, Catalog, Artifacts, Uploads] | None = None

    def hosted(self, host: Host) -> None:
        """Remember the server, for its planes."""
        self._host = host

    async def __aenter__(self) -> Self:
        if self._host is None:
            raise PlaneError(Code.FAILED_PRECONDITION, "Registry runs in a Server; give it to one")
        async with AsyncExitStack() as stack:
            database = await Database.open(database_url(self._url or beside(self._host.engine_url)))
            stack.push_async_callback(database.close)
            objects = await self._host.open_objects()
            artifacts = Artifacts(database, objects)
            uploads = Uploads(database, objects, artifacts, self._part_bytes)
            self._opened = objects, Catalog(database), artifacts, uploads
            await artifacts.sweep()
            await uploads.forget_old()
            await stack.enter_async_context(_beside(self._follow_changes()))
            if self._host.state is not None and self._host.discovery is not None:
                self._placements = Placements(
                    self._host.state, self._host.discovery, self._host.namespace, self._bell.ring
                )
                await stack.enter_async_context(_beside(self._placements.run()))
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def register(self, request: RegisterRequest, ctx: Context) -> RegisterResponse:
        """Add a version whose file is there."""
        spec = check_spec(request.spec)
        check_object_key(request.artifact)
        check_digest(request.digest or None)
        file = await self._artifacts.describe(request.artifact, request.digest)
        return RegisterResponse(version=await self._add(spec, file))

    async def upload(self, requests: AsyncIterator[UploadRequest], ctx: Context) -> UploadResponse:
        """Add a version with its file."""
        first = await anext(requests, None)
        header = None if first is None else first.header
        if header is None:
            raise PlaneError(
                Code.INVALID_ARGUMENT, "the first message of an upload is its header, not data"
            )
        spec = check_spec(header.spec)
        check_digest(header.digest or None)
        if header.size < 0 or header.offset < 0:
            raise PlaneError(Code.INVALID_ARGUMENT, "size and offset are 0 or more")
        if header.upload:
            return await self._resumed(header, spec, _data(requests))
        if header.offset:
            raise PlaneError(
                Code.INVALID_ARGUMENT,
                f"only an upload with a name goes on at {header.offset}; give it one",
            )
        file = await self._artifacts.write(spec, _data(requests), header.size, header.digest)
        return UploadResponse(version=await self._add(spec, file), received=file.size)

    async def get_upload(self, request: GetUploadRequest, ctx: Context) -> GetUploadResponse:
        """How far an upload is."""
        found = await self._uploads.find(request.upload)
        if found is None:
            raise PlaneError(
                Code.NOT_FOUND, f"nothing of the upload {request.upload} is kept; begin with it"
            )
        version = None
        if found.version:
            version = await self._catalog.version(found.model, found.version)
        return GetUploadResponse(received=found.received, version=version)

    async def download(
        self, request: DownloadRequest, ctx: Context
    ) -> AsyncIterator[DownloadResponse]:
        """Read a file, or a part of it."""
        version = await self._catalog.version(check_model(request.model), request.version)
        if request.digest and request.digest != version.digest:
            raise PlaneError(
                Code.FAILED_PRECONDITION,
                f"{version.model}:{version.version} has the digest {version.digest}, not "
                f"{request.digest}; read it from its start",
            )
        reading = self._objects.get(version.artifact, start=request.start, end=request.end)
        async with reading as body:
            if (body.info.digest or version.digest) != version.digest:
                raise PlaneError(
                    Code.DATA_LOSS,
                    f"{version.artifact} was written anew, and is the file of "
                    f"{version.model}:{version.version} no more; delete the version",
                )
            at = body.start
            yield DownloadResponse(version=version, offset=at)
            async for piece in body:
                for cut in range(0, len(piece), DATA_BYTES):
                    data = piece[cut : cut + DATA_BYTES]
                    yield DownloadResponse(offset=at, data=data)
                    at += len(data)

    async def get_model(self, request: GetModelRequest, ctx: Context) -> GetModelResponse:
        """Tell all about one model."""
        model = await self._catalog.model(check_model(request.model))
        placed = [each for each in await self._placed() if each.model == model.name]
        return GetModelResponse(model=model, placements=placed)

    async def list_models(self, request: ListModelsRequest, ctx: Context) -> ListModelsResponse:
        """A page of the models."""
        most = page_size(request.page_size)
        found = await self._catalog.models(request, behind(request.page_token), most + 1)
        page = list(found[:most])
        return ListModelsResponse(
            models=page, next_page_token=page_token(page[-1].name) if len(found) > most else ""
        )

    async def get_version(self, request: GetVersionRequest, ctx: Context) -> GetVersionResponse:
        """Tell all about one version."""
        version = await self._catalog.version(check_model(request.model), request.version)
        return GetVersionResponse(version=version)

    async def list_versions(
        self, request: ListVersionsRequest, ctx: Context
    ) -> ListVersionsResponse:
        """A page of the versions of a model."""
        most, after = page_size(request.page_size), behind(request.page_token)
        before = int(after) if after.isdecimal() else 0
        found = await self._catalog.versions(check_model(request.model), before, most + 1)
        page = found[:most]
        return ListVersionsResponse(
            versions=[version for _, version in page],
            next_page_token=page_token(str(page[-1][0])) if len(found) > most else "",
        )

    async def tag_version(self, request: TagVersionRequest, ctx: Context) -> TagVersionResponse:
        """Change the tags of a version."""
        check_pairs(request.set, "a tag")
        version = await self._catalog.tag(
            check_model(request.model), request.version, request.set, request.remove
        )
        await self._tell(ModelChange.MODEL_CHANGE_VERSION_UPDATED, version.model, version.version)
        return TagVersionResponse(version=version)

    async def delete_version(
        self, request: DeleteVersionRequest, ctx: Context
    ) -> DeleteVersionResponse:
        """Delete a version and its file."""
        name = check_name(request.version, "a version")
        version = await self._catalog.delete(check_model(request.model), name)
        await self._tell(ModelChange.MODEL_CHANGE_VERSION_DELETED, version.model, version.version)
        await self._artifacts.sweep()
        return DeleteVersionResponse()

    async def set_alias(self, request: SetAliasRequest, ctx: Context) -> SetAliasResponse:
        """Let an alias stand for a version."""
        alias = check_name(request.alias, "an alias")
        version = await self._catalog.set_alias(check_model(request.model), alias, request.version)
        await self._tell(ModelChange.MODEL_CHANGE_ALIAS_SET, version.model, version.version, alias)
        return SetAliasResponse(version=version)

    async def delete_alias(self, request: DeleteAliasRequest, ctx: Context) -> DeleteAliasResponse:
        """Delete an alias."""
        alias = check_name(request.alias, "an alias")
        model = check_model(request.model)
        if await self._catalog.delete_alias(model, alias):
            await self._tell(ModelChange.MODEL_CHANGE_ALIAS_DELETED, model, "", alias)
        return DeleteAliasResponse()

    async def list_placements(
        self, request: ListPlacementsRequest, ctx: Context
    ) -> ListPlacementsResponse:
        """Tell where models are."""
        below = f"{request.instance}/" if request.instance else ""
        return ListPlacementsResponse(
            placements=[
                each
                for each in await self._placed()
                if (not request.model or each.model == request.model)
                and f"{each.instance}/".startswith(below)
            ]
        )

    async def watch(self, request: WatchRequest, ctx: Context) -> AsyncIterator[WatchResponse]:
        """Follow models and where they are."""
        model = check_model(request.model) if request.model else ""
        await self._placed()
        placements = self._placements
        following = watch(
            model,
            self._catalog,
            lambda: {} if placements is None else placements.current,
            self._bell,
        )
        async with aclosing(following):
            async for change in following:
                yield change

    async def _resumed(
        self, header: UploadHeader, spec: VersionSpec, data: AsyncIterator[bytes]
    ) -> UploadResponse:
        name = check_upload(header.upload)
        known = await self._uploads.find(name)
        if known is not None and known.version and header.offset == known.received:
            # Its answer got lost.
            version = await self._catalog.version(known.model, known.version)
            return UploadResponse(version=version, received=known.received)
        turn = await self._uploads.resume(header, spec.model)
        received = await self._uploads.receive(name, turn, header.size, data)
        if received < header.size:
            return UploadResponse(received=received)
        try:
            content = self._uploads.content(name)
            file = await self._artifacts.write(spec, content, header.size, header.digest)
            version = await self._add(spec, file)
        except PlaneError as error:
            # These bytes will never do.
            if error.code in (Code.INVALID_ARGUMENT, Code.ALREADY_EXISTS):
                await self._uploads.forget(name)
            raise
        await self._uploads.finish(name, version.version)
        return UploadResponse(version=version, received=received)

    async def _add(self, spec: VersionSpec, file: StoredFile) -> Version:
        try:
            version, new = await self._catalog.add(spec, file)
        except PlaneError:
            if file.owned:
                await self._artifacts.discard(file.key)
            raise
        if new:
            await self._tell(ModelChange.MODEL_CHANGE_VERSION_ADDED, spec.model, version.version)
        elif file.owned:
            await self._artifacts.discard(file.key)
        return version

    async def _tell(self, change: ModelChange, model: str, version: str, alias: str = "") -> None:
        self._bell.ring()
        assert self._host is not None
        event = ModelChanged(
            model=model, change=change, version=version, alias=alias, at=Timestamp.now()
        )
        try:
            await self._host.publish(event)
        except PlaneError as error:
            _log.warning("nobody was told that %s changed: %s", model, error.message)

    async def _follow_changes(self) -> None:
        """Hear of what other processes of the registry change."""
        assert self._host is not None
        while True:
            try:
                async for _ in self._host.events.read([_CHANGES]):
                    self._bell.ring()
            except PlaneError as error:
                _log.warning("changes are not followed for a moment: %s", error.message)
                await asyncio.sleep(_PAUSE_S)
            else:
                return

    async def _placed(self) -> list[Placement]:
        if self._placements is None:
            return []
        try:
            async with asyncio.timeout(_KNOWN_S):
                await self._placements.known()
        except TimeoutError:
            raise PlaneError(
                Code.UNAVAILABLE, "the engine has not said yet who is there; try again"
            ) from None
        return list(self._placements.current.values())

    @property
    def _objects(self) -> ObjectStore:
        assert self._opened is not None
        return self._opened[0]

    @property
    def _catalog(self) -> Catalog:
        assert self._opened is not None
        return self._opened[1]

    @property
    def _artifacts(self) -> Artifacts:
        assert self._opened is not None
        return self._opened[2]

    @property
    def _uploads(self) -> Uploads:
        assert self._opened is not None
        return self._opened[3]


@asynccontextmanager
async def _beside(work: Coroutine[Any, Any, None]) -> AsyncGenerator[None]:
    """Run something for as long as the block runs."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error


async def _data(requests: AsyncIterator[UploadRequest]) -> AsyncIterator[bytes]:
    async for request in requests:
        if request.data is None:
            raise PlaneError(
                Code.INVALID_ARGUMENT, "after the header of an upload comes data, nothing else"
            )
        yield request.data
