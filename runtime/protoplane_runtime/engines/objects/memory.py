"""``memory:``: objects that live in this process and are gone with it."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from types import MappingProxyType

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.objects.body import ObjectBody
from protoplane_runtime.engines.objects.checks import (
    absent,
    check_expected,
    check_expiry,
    check_get,
    check_object_key,
    check_put,
    clipped,
    mismatched,
)
from protoplane_runtime.engines.objects.interface import (
    ObjectInfo,
    ObjectSource,
    PresignedMethod,
)
from protoplane_runtime.engines.objects.pieces import PIECE_BYTES, Digest, pieces_of


class MemoryObjects:
    """An `ObjectStore` in memory."""

    def __init__(self) -> None:
        self._objects: dict[str, tuple[ObjectInfo, Sequence[bytes]]] = {}

    async def put(
        self,
        key: str,
        source: ObjectSource,
        *,
        metadata: Mapping[str, str] | None = None,
        digest: str | None = None,
    ) -> ObjectInfo:
        """Write an object; see `ObjectStore.put`."""
        metadata = check_put(key, metadata, digest)
        found = Digest()
        kept: list[bytes] = []
        async with aclosing(pieces_of(source)) as pieces:
            async for piece in pieces:
                await found.add_aside(piece)
                kept.append(piece)
        if digest is not None and digest != found.hex:
            raise mismatched(key, digest, found.hex)
        info = ObjectInfo(
            key,
            found.size,
            found.hex,
            secrets.token_hex(16),
            time.time(),
            MappingProxyType(metadata),
        )
        self._objects[key] = info, kept
        return info

    @asynccontextmanager
    async def get(
        self,
        key: str,
        *,
        start: int = 0,
        end: int | None = None,
        etag: str | None = None,
        digest: str | None = None,
    ) -> AsyncGenerator[ObjectBody, None]:
        """Read an object; see `ObjectStore.get`."""
        check_get(key, start, end, digest)
        info, kept = self._found(key)
        check_expected(info, etag, digest)
        end = clipped(info, start, end)
        async with aclosing(_cut(kept, start, end)) as pieces:
            yield ObjectBody(info, pieces, start, end)

    async def head(self, key: str) -> ObjectInfo:
        """What is known of an object; see `ObjectStore.head`."""
        return self._found(key)[0]

    async def list(self, prefix: str = "") -> AsyncIterator[ObjectInfo]:
        """The objects below a path; see `ObjectStore.list`."""
        if prefix:
            check_object_key(prefix)
        below = f"{prefix}/" if prefix else ""
        for key, (info, _) in list(self._objects.items()):
            if key.startswith(below):
                yield info

    async def delete(self, key: str) -> None:
        """Delete an object; see `ObjectStore.delete`."""
        check_object_key(key)
        self._objects.pop(key, None)

    async def presign(
        self, key: str, *, method: PresignedMethod = "GET", expires_s: float = 900
    ) -> str:
        """Refuse; see `ObjectStore.presign`."""
        check_object_key(key)
        check_expiry(expires_s)
        raise PlaneError(
            Code.UNIMPLEMENTED,
            f"memory: has no URL to {method} {key} by; use s3:, gs: or az: for that",
        )

    def _found(self, key: str) -> tuple[ObjectInfo, Sequence[bytes]]:
        check_object_key(key)
        found = self._objects.get(key)
        if found is None:
            raise absent(key)
        return found


async def _cut(kept: Sequence[bytes], start: int, end: int) -> AsyncGenerator[bytes, None]:
    while start < end:
        piece = kept[start // PIECE_BYTES]
        at = start % PIECE_BYTES
        some = piece[at : at + end - start]
        start += len(some)
        yield some
