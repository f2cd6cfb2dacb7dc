"""The object plane as a service."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from heapq import nsmallest

from protoplane.v1 import (
    ObjectHeader,
    ObjectInfo,
    Objects,
    ObjectsDeleteRequest,
    ObjectsDeleteResponse,
    ObjectsGetRequest,
    ObjectsGetResponse,
    ObjectsHeadRequest,
    ObjectsHeadResponse,
    ObjectsListRequest,
    ObjectsListResponse,
    ObjectsPresignRequest,
    ObjectsPresignResponse,
    ObjectsPutRequest,
    ObjectsPutResponse,
    ObjectsUploadRequest,
    ObjectsUploadResponse,
    PresignedMethod,
)
from protoplane_base import Code, Context, PlaneError, Timestamp
from protoplane_runtime.engines.objects.checks import (
    check_digest,
    check_metadata,
    check_object_key,
)
from protoplane_runtime.engines.objects.interface import ObjectInfo as Found
from protoplane_runtime.engines.objects.interface import ObjectStore
from protoplane_server.planes.ground import Ground
from protoplane_server.planes.paging import MAX_PAGE, behind, page_size, page_token
from protoplane_server.planes.uploads import Upload, check_size, check_turn, sized

DATA_BYTES = 256 * 1024
"""Most bytes of an object in one message."""

_EXPIRES_S = 900.0


class ObjectsPlane(Objects):
    """Gives callers of any language an object store; see `ObjectStore`."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground

    @property
    def _store(self) -> ObjectStore:
        return self._ground.floor.objects

    async def put(
        self, requests: AsyncIterator[ObjectsPutRequest], ctx: Context
    ) -> ObjectsPutResponse:
        """Write an object, in one go or as an upload that can be gone on with."""
        first = await anext(requests, None)
        header = None if first is None else first.header
        if header is None:
            raise PlaneError(
                Code.INVALID_ARGUMENT, "the first message of an upload is its header, not data"
            )
        # What would be refused at the end is refused before the bytes come.
        check_object_key(header.key)
        check_metadata(header.metadata)
        check_digest(header.digest or None)
        if header.upload:
            return await self._resumable(header, _data(requests))
        if header.offset:
            raise PlaneError(
                Code.INVALID_ARGUMENT,
                f"only an upload with a name goes on at {header.offset}; give it one",
            )
        async with aclosing(sized(_data(requests), header.key, header.size)) as pieces:
            return await self._keep(header, pieces)

    async def upload(self, request: ObjectsUploadRequest, ctx: Context) -> ObjectsUploadResponse:
        """How far an upload is."""
        upload = await self._ground.floor.uploads.find(request.upload)
        return ObjectsUploadResponse(key=upload.key, received=upload.received)

    async def get(
        self, request: ObjectsGetRequest, ctx: Context
    ) -> AsyncIterator[ObjectsGetResponse]:
        """Read an object, or a part of it."""
        reading = self._store.get(
            request.key,
            start=request.start,
            end=request.end,
            etag=request.etag or None,
            digest=request.digest or None,
        )
        async with reading as body:
            at = body.start
            yield ObjectsGetResponse(info=_info(body.info), offset=at)
            async for piece in body:
                for cut in range(0, len(piece), DATA_BYTES):
                    data = piece[cut : cut + DATA_BYTES]
                    yield ObjectsGetResponse(offset=at, data=data)
                    at += len(data)

    async def head(self, request: ObjectsHeadRequest, ctx: Context) -> ObjectsHeadResponse:
        """What is known of an object."""
        return ObjectsHeadResponse(info=_info(await self._store.head(request.key)))

    async def list(self, request: ObjectsListRequest, ctx: Context) -> ObjectsListResponse:
        """A page of the objects below a path."""
        after = behind(request.page_token)
        most = page_size(request.page_size)
        # A store tells them in no order, and they may be more than memory holds.
        found: list[Found] = []
        async for each in self._store.list(request.prefix):
            if each.key > after:
                found.append(each)
            if len(found) > 4 * MAX_PAGE:
                found = _first(most + 1, found)
        page = _first(most + 1, found)
        more = len(page) > most
        del page[most:]
        return ObjectsListResponse(
            objects=[_info(each) for each in page],
            next_page_token=page_token(page[-1].key) if more else "",
        )

    async def delete(self, request: ObjectsDeleteRequest, ctx: Context) -> ObjectsDeleteResponse:
        """Delete an object."""
        await self._store.delete(request.key)
        return ObjectsDeleteResponse()

    async def presign(self, request: ObjectsPresignRequest, ctx: Context) -> ObjectsPresignResponse:
        """A URL for an object."""
        put = request.method == PresignedMethod.PRESIGNED_METHOD_PUT
        expires = request.expires_in
        url = await self._store.presign(
            request.key,
            method="PUT" if put else "GET",
            expires_s=_EXPIRES_S if expires is None else expires.total_seconds,
        )
        return ObjectsPresignResponse(url=url)

    async def _resumable(
        self, header: ObjectHeader, pieces: AsyncGenerator[bytes, None]
    ) -> ObjectsPutResponse:
        uploads = self._ground.floor.uploads
        key, size = header.key, header.size
        upload, turn = await uploads.resume(header.upload, key, header.offset)
        async with aclosing(pieces):
            async for piece in pieces:
                check_size(key, upload.received + len(piece), size, whole=False)
                await uploads.append(upload, turn, piece)
        check_turn(upload, turn)
        if size is not None and upload.received < size:
            return ObjectsPutResponse(received=upload.received)
        try:
            async with aclosing(uploads.content(upload, turn)) as content:
                kept = await self._keep(header, content)
        except PlaneError as error:
            # These bytes will never do.
            if error.code is Code.INVALID_ARGUMENT:
                await uploads.forget(upload)
            raise
        await self._done(upload, turn)
        return kept

    async def _done(self, upload: Upload, turn: int) -> None:
        if upload.turn == turn:
            await self._ground.floor.uploads.forget(upload)

    async def _keep(
        self, header: ObjectHeader, pieces: AsyncGenerator[bytes, None]
    ) -> ObjectsPutResponse:
        info = await self._store.put(
            header.key, pieces, metadata=header.metadata, digest=header.digest or None
        )
        return ObjectsPutResponse(info=_info(info), received=info.size)


async def _data(requests: AsyncIterator[ObjectsPutRequest]) -> AsyncGenerator[bytes, None]:
    async for request in requests:
        if request.data is None:
            raise PlaneError(
                Code.INVALID_ARGUMENT, "after the header of an upload comes data, nothing else"
            )
        yield request.data


def _first(count: int, found: list[Found]) -> list[Found]:
    return nsmallest(count, found, key=lambda each: each.key)


def _info(found: Found) -> ObjectInfo:
    return ObjectInfo(
        key=found.key,
        size=found.size,
        digest=found.digest or "",
        etag=found.etag,
        modified_at=Timestamp(*divmod(round(found.modified_s * 1e9), 1_000_000_000)),
        metadata=dict(found.metadata),
    )
