"""Uploads that can be gone on with, by any process of the registry and after any of them died.

What has come waits in the object plane, in parts; the tables say which they are. At the end the
parts are joined to the file.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass

from sqlalchemy import delete, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from protoplane.registry.v1 import UploadHeader
from protoplane_base import Code, PlaneError
from protoplane_components.registry.artifacts import ROOT, Artifacts
from protoplane_components.registry.conversion import now_ns
from protoplane_components.registry.database import Database
from protoplane_components.registry.names import check_upload
from protoplane_components.registry.tables import DiscardedRow, PartRow, UploadRow
from protoplane_runtime.engines.objects.interface import ObjectStore

PART_BYTES = 8 << 20
"""Bytes of a part; what came of an unfinished one is lost when the connection breaks."""

WAIT_NS = 24 * 3600 * 1_000_000_000
"""How long an upload waits for somebody to go on with it."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an upload is.

    Attributes:
        model: The model that it is for.
        received: Bytes that are kept.
        version: The version that it became; empty where bytes are missing.
    """

    model: str
    received: int
    version: str


class Uploads:
    """The uploads of a registry.

    Of two calls that write the same upload the later one goes on; the earlier is ABORTED.

    Args:
        database: Says which parts there are.
        objects: Holds them.
        artifacts: Deletes them.
        part_bytes: Bytes of a part.
    """

    def __init__(
        self,
        database: Database,
        objects: ObjectStore,
        artifacts: Artifacts,
        part_bytes: int = PART_BYTES,
    ) -> None:
        self._database = database
        self._objects = objects
        self._artifacts = artifacts
        self._part_bytes = part_bytes

    async def find(self, name: str) -> Progress | None:
        """How far an upload is; ``None`` where there is none.

        Raises:
            PlaneError: INVALID_ARGUMENT for what is no name, UNAVAILABLE where the database is
                away; so do all others.
        """
        check_upload(name)

        async def do(session: AsyncSession) -> Progress | None:
            row = await session.get(UploadRow, name)
            return None if row is None else Progress(row.model, row.received, row.version)

        return await self._database.read(do)

    async def resume(self, header: UploadHeader, model: str) -> str:
        """Begin, or go on where it is; what says that it is this call's turn.

        Raises:
            PlaneError: OUT_OF_RANGE for another place than that which it has come to,
                ALREADY_EXISTS where the name is that of another file's upload.
        """
        await self.forget_old()
        name, turn = check_upload(header.upload), secrets.token_hex(16)

        async def do(session: AsyncSession) -> None:
            row = await session.scalar(
                select(UploadRow).where(UploadRow.name == name).with_for_update()
            )
            if row is None:
                row = UploadRow(
                    name=name,
                    model=model,
                    digest=header.digest,
                    size=header.size,
                    received=0,
                    turn=turn,
                    version="",
                    touched_ns=now_ns(),
                )
                session.add(row)
            elif (row.model, row.digest, row.size) != (model, header.digest, header.size):
                raise PlaneError(
                    Code.ALREADY_EXISTS,
                    f"{name} is the upload of another file; give this one a name of its own",
                )
            elif not header.offset:
                await _drop_parts(session, name)
                row.received, row.version = 0, ""
            row.turn, row.touched_ns = turn, now_ns()
            if header.offset != row.received:
                raise PlaneError(
                    Code.OUT_OF_RANGE,
                    f"{row.received} bytes of {name} are kept, and the upload goes on at "
                    f"{header.offset}; ask GetUpload first",
                )

        await self._database.change(do)
        return turn

    async def receive(self, name: str, turn: str, size: int, data: AsyncIterator[bytes]) -> int:
        """Keep what comes; how many bytes are kept in the end.

        Cancelling loses at most the last part.

        Raises:
            PlaneError: ABORTED where another call goes on with it, INVALID_ARGUMENT for more bytes
                than the file has.
        """
        progress = await self.find(name)
        received = 0 if progress is None else progress.received
        gathered = bytearray()
        async for piece in data:
            gathered += piece
            if received + len(gathered) > size:
                raise PlaneError(
                    Code.INVALID_ARGUMENT, f"the file was to have {size} bytes, and more came"
                )
            while len(gathered) >= self._part_bytes:
                part = bytes(gathered[: self._part_bytes])
                del gathered[: self._part_bytes]
                received = await self._keep(name, turn, received, part)
        if gathered:
            received = await self._keep(name, turn, received, bytes(gathered))
        return received

    async def content(self, name: str) -> AsyncIterator[bytes]:
        """All bytes that are kept, in their order.

        Raises:
            PlaneError: What the object store raises.
        """

        async def do(session: AsyncSession) -> list[str]:
            asked = select(PartRow.key).where(PartRow.upload == name).order_by(PartRow.start)
            return list(await session.scalars(asked))

        for key in await self._database.read(do):
            async with self._objects.get(key) as body:
                async for piece in body:
                    yield piece

    async def finish(self, name: str, version: str) -> None:
        """Drop its parts, and remember what it became for whoever missed the answer."""

        async def do(session: AsyncSession) -> None:
            await _drop_parts(session, name)
            done = update(UploadRow).where(UploadRow.name == name)
            await session.execute(done.values(version=version, touched_ns=now_ns()))

        await self._database.change(do)
        await self._artifacts.sweep()

    async def forget(self, name: str) -> None:
        """Drop it and its parts."""

        async def do(session: AsyncSession) -> None:
            await _drop_parts(session, name)
            await session.execute(delete(UploadRow).where(UploadRow.name == name))

        await self._database.change(do)
        await self._artifacts.sweep()

    async def forget_old(self) -> None:
        """Drop those that nobody went on with for a day."""

        async def do(session: AsyncSession) -> list[str]:
            asked = select(UploadRow.name).where(UploadRow.touched_ns < now_ns() - WAIT_NS)
            return list(await session.scalars(asked.limit(100)))

        for name in await self._database.read(do):
            await self.forget(name)

    async def _keep(self, name: str, turn: str, start: int, part: bytes) -> int:
        key = f"{ROOT}/uploads/{name}/{start}-{secrets.token_hex(8)}"
        await self._objects.put(key, part)

        async def do(session: AsyncSession) -> bool:
            # Nobody else may write any more: the row is this call's until the transaction ends.
            row = await session.scalar(
                select(UploadRow).where(UploadRow.name == name).with_for_update()
            )
            if row is None or row.turn != turn or row.received != start:
                return False
            row.received = start + len(part)
            row.touched_ns = now_ns()
            session.add(PartRow(upload=name, start=start, size=len(part), key=key))
            return True

        if await self._database.change(do):
            return start + len(part)
        await self._artifacts.discard(key)
        raise PlaneError(
            Code.ABORTED, f"another call goes on with the upload {name}; leave it to that"
        )


async def _drop_parts(session: AsyncSession, name: str) -> None:
    for key in await session.scalars(select(PartRow.key).where(PartRow.upload == name)):
        session.add(DiscardedRow(key=key, due_ns=0))
    await session.execute(delete(PartRow).where(PartRow.upload == name))
