"""Uploads that can be gone on with: what has come of them waits in files without names."""

from __future__ import annotations

import asyncio
import os
import re
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import IO, Self

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.local.faults import from_os
from protoplane_runtime.engines.objects.pieces import in_thread

MAX_UPLOADS = 64
"""Most uploads that wait at once; past it the one that waits longest is forgotten."""

WAIT_S = 3600.0
"""How long an upload waits for somebody to go on with it."""

_PIECE_BYTES = 1 << 20
_NAME = re.compile(r"[A-Za-z0-9._-]{8,128}")


@dataclass(slots=True, eq=False)
class Upload:
    """What has come of one object.

    Attributes:
        name: Its name.
        key: Key that the object is for.
        received: Bytes that have come.
        turn: Number of the call that may write; an earlier one may not any more.
        touched: When something came last, by ``time.monotonic``.
    """

    name: str
    key: str
    file: IO[bytes]
    received: int = 0
    turn: int = 0
    touched: float = field(default_factory=monotonic)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Uploads:
    """The uploads of one process; use it with ``async with``, which forgets them at the end.

    Of two calls that write the same upload the later one goes on: the earlier is one whose
    connection broke, and nobody noticed yet.
    """

    def __init__(self) -> None:
        self._uploads: dict[str, Upload] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for upload in tuple(self._uploads.values()):
            await self.forget(upload)

    async def find(self, name: str) -> Upload:
        """The upload of a name.

        Raises:
            PlaneError: NOT_FOUND; there is none, any more or yet.
        """
        await self._sweep()
        upload = self._uploads.get(name)
        if upload is None:
            raise PlaneError(
                Code.NOT_FOUND,
                f"there is no upload {name[:128]!r}; begin it, with the offset 0",
            )
        return upload

    async def resume(self, name: str, key: str, offset: int) -> tuple[Upload, int]:
        """Begin an upload, or go on with it; what other calls write of it is refused from now on.

        Args:
            name: Its name.
            key: Key that the object is for.
            offset: Bytes that are there already; what came after them is dropped.

        Returns:
            The upload, and the caller's turn at it.

        Raises:
            PlaneError: INVALID_ARGUMENT for what is no name, or another key than before; NOT_FOUND
                where there is no such upload to go on with; OUT_OF_RANGE where fewer bytes have
                come; RESOURCE_EXHAUSTED or UNAVAILABLE, the disk of temporary files is full or
                away.
        """
        if not _NAME.fullmatch(name):
            raise PlaneError(
                Code.INVALID_ARGUMENT,
                f"{name[:128]!r} is no name of an upload; it has 8 to 128 of A-Z a-z 0-9 . _ -",
            )
        if offset or name in self._uploads:
            upload = await self.find(name)
        else:
            upload = await self._begin(name, key)
        if upload.key != key:
            raise PlaneError(
                Code.INVALID_ARGUMENT,
                f"the upload {name} is for {upload.key}, not for {key}; take another name",
            )
        async with upload.lock:
            if not 0 <= offset <= upload.received:
                raise PlaneError(
                    Code.OUT_OF_RANGE,
                    f"{upload.received} bytes of the upload {name} have come, so it cannot go on "
                    f"at {offset}; ask for it with Upload",
                )
            upload.turn += 1
            upload.received = offset
            upload.touched = monotonic()
            return upload, upload.turn

    async def append(self, upload: Upload, turn: int, data: bytes) -> None:
        """Add bytes; cancelling it leaves them there, or not, and ``received`` says which.

        Raises:
            PlaneError: ABORTED where a later call goes on with it, RESOURCE_EXHAUSTED or
                UNAVAILABLE where the disk is full or away.
        """
        async with upload.lock:
            check_turn(upload, turn)
            await in_thread(_write, upload.file, data, upload.received)
            upload.received += len(data)
            upload.touched = monotonic()

    async def content(self, upload: Upload, turn: int) -> AsyncGenerator[bytes, None]:
        """All that has come, in pieces of about a megabyte.

        Raises:
            PlaneError: As `append`.
        """
        at = 0
        while at < upload.received:
            async with upload.lock:
                check_turn(upload, turn)
                size = min(_PIECE_BYTES, upload.received - at)
                piece = await in_thread(_read, upload.file, at, size)
                upload.touched = monotonic()
            at += len(piece)
            yield piece

    async def forget(self, upload: Upload) -> None:
        """Give its file back; calls that still write it are refused."""
        if self._uploads.get(upload.name) is upload:
            del self._uploads[upload.name]
        async with upload.lock:
            upload.turn += 1
            upload.file.close()

    async def _begin(self, name: str, key: str) -> Upload:
        await self._sweep()
        file = await in_thread(_open)
        there = self._uploads.get(name)
        if there is not None:
            file.close()
            return there
        while len(self._uploads) >= MAX_UPLOADS:
            await self.forget(min(self._uploads.values(), key=lambda each: each.touched))
        upload = self._uploads[name] = Upload(name, key, file)
        return upload

    async def _sweep(self) -> None:
        until = monotonic() - WAIT_S
        for upload in tuple(self._uploads.values()):
            if upload.touched < until:
                await self.forget(upload)


def check_turn(upload: Upload, turn: int) -> None:
    """Make sure that a call may still write an upload.

    Raises:
        PlaneError: ABORTED; a later call does, or it was forgotten.
    """
    if upload.turn != turn:
        raise PlaneError(
            Code.ABORTED, f"another call went on with the upload {upload.name}; ask how far it is"
        )


async def sized(
    pieces: AsyncIterator[bytes], key: str, size: int | None
) -> AsyncGenerator[bytes, None]:
    """Pieces, all of them together of the size that was said.

    Raises:
        PlaneError: INVALID_ARGUMENT; there are more or fewer bytes.
    """
    held = 0
    async for piece in pieces:
        held += len(piece)
        check_size(key, held, size, whole=False)
        yield piece
    check_size(key, held, size, whole=True)


def check_size(key: str, held: int, size: int | None, *, whole: bool) -> None:
    """Make sure that an object has the size that was said.

    Raises:
        PlaneError: INVALID_ARGUMENT; there are more bytes, or, of a whole one, fewer.
    """
    if size is not None and (held > size or (whole and held < size)):
        raise PlaneError(
            Code.INVALID_ARGUMENT,
            f"{key} was to have {size} bytes, and {held} came; nothing was written",
        )


def _open() -> IO[bytes]:
    try:
        return tempfile.TemporaryFile(buffering=0)
    except OSError as error:
        raise _fault(error) from error


def _write(file: IO[bytes], data: bytes, at: int) -> None:
    rest = memoryview(data)
    try:
        while rest:
            written = os.pwrite(file.fileno(), rest, at)
            rest, at = rest[written:], at + written
    except OSError as error:
        raise _fault(error) from error


def _read(file: IO[bytes], at: int, size: int) -> bytes:
    piece = os.pread(file.fileno(), size, at)
    if not piece:
        raise PlaneError(Code.DATA_LOSS, "a temporary file lost its end; send the object again")
    return piece


def _fault(error: OSError) -> PlaneError:
    return from_os(error, Path(tempfile.gettempdir()))
