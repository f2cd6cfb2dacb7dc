"""A temporary file that pieces wait in."""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncGenerator
from contextlib import ExitStack, aclosing, asynccontextmanager
from pathlib import Path
from typing import IO

from protoplane_runtime.engines.local.faults import from_os
from protoplane_runtime.engines.objects.pieces import PIECE_BYTES, in_thread


@asynccontextmanager
async def spooled(
    pieces: AsyncGenerator[bytes, None],
) -> AsyncGenerator[AsyncGenerator[bytes, None], None]:
    """Write all pieces to a temporary file, then give them again; the file has no name.

    Raises:
        PlaneError: RESOURCE_EXHAUSTED or UNAVAILABLE; the disk of temporary files is full or away.
    """
    # Cancelled while it is opened, it is closed all the same.
    opened = ExitStack()
    try:
        file = await in_thread(lambda: opened.enter_context(_open()))
        async for piece in pieces:
            await in_thread(_write, file, piece)
        await in_thread(file.seek, 0, os.SEEK_SET)
        async with aclosing(_read(file)) as again:
            yield again
    finally:
        await in_thread(opened.close)


async def _read(file: IO[bytes]) -> AsyncGenerator[bytes, None]:
    while piece := await in_thread(file.read, PIECE_BYTES):
        yield piece


def _open() -> IO[bytes]:
    try:
        return tempfile.TemporaryFile(buffering=0)
    except OSError as error:
        raise _translated(error) from error


def _write(file: IO[bytes], piece: bytes) -> None:
    rest = memoryview(piece)
    try:
        while rest:
            rest = rest[file.write(rest) :]
    except OSError as error:
        raise _translated(error) from error


def _translated(error: OSError) -> Exception:
    return from_os(error, Path(tempfile.gettempdir()))
