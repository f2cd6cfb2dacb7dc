"""Finds the files of a model: in a folder of this machine, or in the object plane."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import quote

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.objects.interface import ObjectStore

OBJECT = "object:"
"""What a source begins with that is a key of the object plane."""


class ModelFiles:
    """Where models come from.

    Args:
        folder: Folder with model files; ``None`` for none.
        open_objects: Opens the object store; called when a source is an object.
        kept: Folder to keep objects in while they are used.
    """

    def __init__(
        self, folder: Path | None, open_objects: Callable[[], Awaitable[ObjectStore]], kept: Path
    ) -> None:
        self._folder = folder
        self._open_objects = open_objects
        self._kept = kept

    async def find(self, model: str, source: str) -> Path | None:
        """The file or folder of a model; ``None`` where the source is empty.

        Cancelling leaves nothing behind that counts.

        Args:
            model: Its name.
            source: ``object:<key>``, or a path in the folder.

        Raises:
            PlaneError: INVALID_ARGUMENT for a path that leaves the folder, FAILED_PRECONDITION
                where there is no folder, NOT_FOUND, and what the object store raises.
        """
        if not source:
            return None
        if source.startswith(OBJECT):
            return await self._fetch(model, source.removeprefix(OBJECT))
        if self._folder is None:
            raise PlaneError(
                Code.FAILED_PRECONDITION,
                f"there is no model folder to find {source!r} in; set PROTOPLANE_MODELS, or name "
                "an object by object:<key>",
            )
        return await asyncio.to_thread(_within, self._folder, source)

    async def _fetch(self, model: str, key: str) -> Path:
        store = await self._open_objects()
        path = self._kept / quote(model, safe="")
        partly = path.with_name(f"{path.name}.part")
        async with store.get(key) as body:
            await asyncio.to_thread(partly.write_bytes, b"")
            async for piece in body:
                await asyncio.to_thread(_append, partly, piece)
        return await asyncio.to_thread(partly.replace, path)


def _within(folder: Path, source: str) -> Path:
    whole = folder.resolve()
    path = (whole / source).resolve()
    if not path.is_relative_to(whole) or path == whole:
        raise PlaneError(
            Code.INVALID_ARGUMENT, f"{source!r} is no path in the model folder; name a file there"
        )
    if not path.exists():
        raise PlaneError(Code.NOT_FOUND, f"there is no {source!r} in the model folder")
    return path


def _append(path: Path, piece: bytes) -> None:
    with path.open("ab") as file:
        file.write(piece)
