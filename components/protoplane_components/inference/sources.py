"""Finds the files of a model: in a folder of this machine, or in the object plane."""

from __future__ import annotations

import asyncio
import errno
import shutil
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import mkdtemp

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.objects.interface import ObjectInfo, ObjectStore

OBJECT = "object:"
"""What a source begins with that is a key of the object plane."""

MAX_FILES = 1000
"""Most objects of a model that is a folder."""

MAX_BYTES = 1 << 40
"""Most bytes of a model from the object plane."""


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
        self._fetched: dict[str, Path] = {}

    @asynccontextmanager
    async def found(self, model: str, source: str) -> AsyncGenerator[Path | None]:
        """The file or folder of a model; ``None`` where the source is empty.

        What came from the object plane stays, as backends load a model anew from there, until the
        model is found elsewhere. It is removed where the block fails or is cancelled.

        Args:
            model: Its name.
            source: ``object:<key>`` for an object, ``object:<key>/`` for a folder of all that are
                below the key, or a path in the folder.

        Raises:
            PlaneError: INVALID_ARGUMENT for a path that leaves the folder, or objects that are no
                folder, FAILED_PRECONDITION where there is no folder, NOT_FOUND,
                RESOURCE_EXHAUSTED for too many or too large objects or a full disk, and what the
                object store raises.
        """
        if not source:
            yield None
            return
        if not source.startswith(OBJECT):
            yield await asyncio.to_thread(self._local, source)
            await self._replace(model, None)
            return
        place = Path(await asyncio.to_thread(mkdtemp, dir=self._kept))
        try:
            yield await self._fetch(source.removeprefix(OBJECT), place)
        except BaseException:
            await asyncio.to_thread(shutil.rmtree, place, ignore_errors=True)
            raise
        await self._replace(model, place)

    async def _replace(self, model: str, place: Path | None) -> None:
        before = self._fetched.pop(model, None)
        if place is not None:
            self._fetched[model] = place
        if before is not None:
            await asyncio.to_thread(shutil.rmtree, before, ignore_errors=True)

    def _local(self, source: str) -> Path:
        if self._folder is None:
            raise PlaneError(
                Code.FAILED_PRECONDITION,
                f"there is no model folder to find {source!r} in; set PROTOPLANE_MODELS, or name "
                "an object by object:<key>",
            )
        return _within(self._folder, source)

    async def _fetch(self, key: str, place: Path) -> Path:
        prefix = key.rstrip("/")
        if not prefix:
            raise PlaneError(
                Code.INVALID_ARGUMENT,
                f"{OBJECT + key!r} names no object; it looks like object:models/add or, for all "
                "below a key, object:models/add/",
            )
        store = await self._open_objects()
        path = _place_of(prefix, prefix.rpartition("/")[0], place)
        if prefix == key:
            await _copy(store, key, path, MAX_BYTES)
            return path
        left = MAX_BYTES
        for info in await _below(store, prefix):
            left -= await _copy(store, info.key, _place_of(info.key, prefix, path), left)
        return path


async def _below(store: ObjectStore, prefix: str) -> list[ObjectInfo]:
    found: list[ObjectInfo] = []
    async for info in store.list(prefix):
        found.append(info)
        if len(found) > MAX_FILES:
            raise PlaneError(
                Code.RESOURCE_EXHAUSTED,
                f"there are more than {MAX_FILES} objects below {prefix!r}; name the key of one "
                "model alone",
            )
    if not found:
        raise PlaneError(Code.NOT_FOUND, f"there is no object below {prefix!r}")
    return sorted(found, key=lambda info: info.key)


def _place_of(key: str, prefix: str, folder: Path) -> Path:
    """Where an object goes in the folder, which it cannot leave whatever it is called."""
    segments = key.removeprefix(f"{prefix}/").split("/")
    if any(each in ("", ".", "..") or "\0" in each for each in segments):
        raise PlaneError(Code.INVALID_ARGUMENT, f"the object {key!r} has no name for a file")
    return folder.joinpath(*segments)


async def _copy(store: ObjectStore, key: str, path: Path, most: int) -> int:
    """Write an object to a file; gives its size."""
    size = 0
    try:
        await asyncio.to_thread(_begin, path)
        async with store.get(key) as body:
            async for piece in body:
                size += len(piece)
                if size > most:
                    raise PlaneError(
                        Code.RESOURCE_EXHAUSTED,
                        f"with {key!r} the model has more than {MAX_BYTES} bytes; name the key of "
                        "one model alone",
                    )
                await asyncio.to_thread(_append, path, piece)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise PlaneError(
                Code.RESOURCE_EXHAUSTED, f"there is no room on the disk to load {key!r} from"
            ) from error
        raise PlaneError(
            Code.INVALID_ARGUMENT,
            f"the object {key!r} cannot be a file of a folder: its name is too long, or another "
            "object is called as its folder is",
        ) from error
    return size


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


def _begin(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(exist_ok=False)


def _append(path: Path, piece: bytes) -> None:
    with path.open("ab") as file:
        file.write(piece)
