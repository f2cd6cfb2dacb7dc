"""Files of models in the object plane: written, described and, in the end, deleted."""

from __future__ import annotations

import logging
import secrets
from collections.abc import AsyncIterator

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncSession

from protoplane.registry.v1 import VersionSpec
from protoplane_base import Code, PlaneError
from protoplane_components.registry.catalog import StoredFile
from protoplane_components.registry.conversion import now_ns
from protoplane_components.registry.database import Database
from protoplane_components.registry.tables import DiscardedRow
from protoplane_runtime.engines.objects.interface import ObjectStore
from protoplane_runtime.engines.objects.pieces import Digest

ROOT = "protoplane/registry"
"""Path of what the registry writes."""

_WRITING_NS = 24 * 3600 * 1_000_000_000
_log = logging.getLogger("protoplane.registry")


class Artifacts:
    """The files of a registry.

    A file is put on a list of those to be deleted before its first byte is written, and is taken
    off with the transaction that adds its version. So one whose writer was killed goes after a day.

    Args:
        database: Has the list.
        objects: Holds the files.
    """

    def __init__(self, database: Database, objects: ObjectStore) -> None:
        self._database = database
        self._objects = objects

    async def write(
        self, spec: VersionSpec, pieces: AsyncIterator[bytes], size: int, digest: str
    ) -> StoredFile:
        """Write a file that is to become a version.

        Cancelling, and failing, leaves no file.

        Args:
            spec: The version; its model is part of the key.
            pieces: Its bytes.
            size: How many there must be.
            digest: The digest that they must have; anything where empty.

        Raises:
            PlaneError: INVALID_ARGUMENT for another size or digest, and what the object store
                raises.
        """
        key = f"{ROOT}/models/{spec.model}/{secrets.token_hex(16)}"
        due = now_ns() + _WRITING_NS

        async def note(session: AsyncSession) -> None:
            session.add(DiscardedRow(key=key, due_ns=due))

        await self._database.change(note)
        try:
            info = await self._objects.put(
                key,
                _sized(pieces, size),
                metadata={"model": spec.model},
                digest=digest or None,
            )
        except PlaneError:
            await self.discard(key)
            raise
        assert info.digest is not None
        return StoredFile(key, info.size, info.digest, owned=True)

    async def describe(self, key: str, digest: str) -> StoredFile:
        """A file that others wrote.

        Raises:
            PlaneError: NOT_FOUND, FAILED_PRECONDITION for another digest than expected, and what
                the object store raises.
        """
        info = await self._objects.head(key)
        found = info.digest
        if found is None:
            hashed = Digest()
            async with self._objects.get(key, etag=info.etag) as body:
                async for piece in body:
                    await hashed.add_aside(piece)
            found = hashed.hex
        if digest and digest != found:
            raise PlaneError(
                Code.FAILED_PRECONDITION,
                f"{key} was to have the digest {digest}, and it has {found}; see that it is the "
                "file that you mean",
            )
        return StoredFile(key, info.size, found, owned=False)

    async def discard(self, *keys: str) -> None:
        """Delete files that no version has, now or, where the store is away, later."""

        async def note(session: AsyncSession) -> None:
            for key in keys:
                session.add(DiscardedRow(key=key, due_ns=0))

        await self._database.change(note)
        await self.sweep()

    async def sweep(self) -> None:
        """Delete what is due; what cannot be deleted now is tried again the next time."""

        async def due(session: AsyncSession) -> list[str]:
            asked = select(DiscardedRow.key).where(DiscardedRow.due_ns <= now_ns()).distinct()
            return list(await session.scalars(asked.limit(_AT_ONCE)))

        while keys := await self._database.read(due):
            for key in keys:
                try:
                    await self._objects.delete(key)
                except PlaneError as error:
                    _log.warning("%s is deleted later: %s", key, error.message)
                    return

            async def done(session: AsyncSession, keys: list[str] = keys) -> None:
                await session.execute(delete(DiscardedRow).where(DiscardedRow.key.in_(keys)))

            await self._database.change(done)


_AT_ONCE = 100


async def _sized(pieces: AsyncIterator[bytes], size: int) -> AsyncIterator[bytes]:
    came = 0
    async for piece in pieces:
        came += len(piece)
        if came > size:
            break
        yield piece
    if came != size:
        some = "more" if came > size else f"{came} of them"
        raise PlaneError(
            Code.INVALID_ARGUMENT, f"the file was to have {size} bytes, and {some} came"
        )
