"""``local:`` and ``file:``: objects as files of a folder that any number of processes share."""

from __future__ import annotations

import logging
import os
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from itertools import islice
from pathlib import Path
from types import MappingProxyType

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.local.faults import from_os
from protoplane_runtime.engines.objects import unfinished
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
from protoplane_runtime.engines.objects.object_file import (
    SUFFIX,
    file_of,
    folder_of,
    footer,
    is_absent,
    read_info,
)
from protoplane_runtime.engines.objects.pieces import PIECE_BYTES, Digest, in_thread, pieces_of

_logger = logging.getLogger(__name__)
_LISTED_AT_ONCE = 256
_ATTEMPTS = 100


class FolderObjects:
    """An `ObjectStore` in a folder; get one from `open`.

    Each object is one file: written and synced under a temporary name, then renamed, then the
    folders above it are synced.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    @classmethod
    async def open(cls, root: Path) -> FolderObjects:
        """Open a folder, which is made where it is not there.

        What killed writers left in it is deleted.

        Raises:
            PlaneError: PERMISSION_DENIED, RESOURCE_EXHAUSTED or UNAVAILABLE; it cannot be made or
                read.
        """
        await in_thread(_prepare, root)
        return cls(root)

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
        writing = _Writing(self._root, key)
        try:
            await in_thread(writing.open)
            async with aclosing(pieces_of(source)) as pieces:
                async for piece in pieces:
                    await in_thread(writing.add, piece)
            found = writing.digest.hex
            if digest is not None and digest != found:
                raise mismatched(key, digest, found)
            return await in_thread(writing.finish, metadata)
        finally:
            await in_thread(writing.close)

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
        reading = _Reading(self._root, key)
        try:
            info = await in_thread(reading.open)
            check_expected(info, etag, digest)
            end = clipped(info, start, end)
            async with aclosing(_pieces(reading, start, end)) as pieces:
                yield ObjectBody(info, pieces, start, end)
        finally:
            await in_thread(reading.close)

    async def head(self, key: str) -> ObjectInfo:
        """What is known of an object; see `ObjectStore.head`."""
        check_object_key(key)
        return await in_thread(self._head, key)

    async def list(self, prefix: str = "") -> AsyncIterator[ObjectInfo]:
        """The objects below a path; see `ObjectStore.list`."""
        if prefix:
            check_object_key(prefix)
        found = _walk(self._root / folder_of(prefix) if prefix else self._root)
        while some := await in_thread(_next_of, found, self._root):
            for info in some:
                yield info

    async def delete(self, key: str) -> None:
        """Delete an object; see `ObjectStore.delete`."""
        check_object_key(key)
        await in_thread(self._delete, key)

    async def presign(
        self, key: str, *, method: PresignedMethod = "GET", expires_s: float = 900
    ) -> str:
        """Refuse; see `ObjectStore.presign`."""
        check_object_key(key)
        check_expiry(expires_s)
        raise PlaneError(
            Code.UNIMPLEMENTED,
            f"a folder has no URL to {method} {key} by; use s3:, gs: or az: for that",
        )

    def _head(self, key: str) -> ObjectInfo:
        reading = _Reading(self._root, key)
        try:
            return reading.open()
        finally:
            reading.close()

    def _delete(self, key: str) -> None:
        path = self._root / file_of(key)
        with _translated(path):
            try:
                path.unlink()
            except OSError as error:
                if is_absent(error):
                    return
                raise
            _sync(path.parent)
            # Folders that became empty go too, unless somebody just put something there.
            with suppress(OSError):
                for folder in path.relative_to(self._root).parents[:-1]:
                    (self._root / folder).rmdir()


class _Writing:
    """An object on its way into the folder; all of it blocks."""

    def __init__(self, root: Path, key: str) -> None:
        self._root = root
        self._key = key
        self._open: tuple[int, Path] | None = None
        self.digest = Digest()

    def open(self) -> None:
        with _translated(self._root):
            self._open = unfinished.create(self._root)

    def add(self, piece: bytes) -> None:
        self._write(piece)
        self.digest.add(piece)

    def finish(self, metadata: Mapping[str, str]) -> ObjectInfo:
        info = ObjectInfo(
            self._key,
            self.digest.size,
            self.digest.hex,
            secrets.token_hex(16),
            time.time(),
            MappingProxyType(metadata),
        )
        self._write(footer(info))
        assert self._open is not None
        file, temporary = self._open
        path = self._root / file_of(self._key)
        with _translated(path):
            os.fsync(file)
            _move(temporary, path)
            self._open = None
            os.close(file)
            for folder in (path.parent, *path.parent.parents):
                _sync(folder)
                if folder == self._root:
                    break
        return info

    def close(self) -> None:
        """Give up what is not finished."""
        if self._open is not None:
            file, path = self._open
            self._open = None
            unfinished.discard(file, path)

    def _write(self, data: bytes) -> None:
        assert self._open is not None
        file, path = self._open
        rest = memoryview(data)
        with _translated(path):
            while rest:
                rest = rest[os.write(file, rest) :]


class _Reading:
    """An object that is read; all of it blocks."""

    def __init__(self, root: Path, key: str) -> None:
        self._key = key
        self._path = root / file_of(key)
        self._file = -1

    def open(self) -> ObjectInfo:
        try:
            self._file = os.open(self._path, os.O_RDONLY)
        except OSError as error:
            if is_absent(error):
                raise absent(self._key) from None
            raise from_os(error, self._path) from error
        with _translated(self._path):
            return read_info(self._file, self._path)

    def read(self, start: int, end: int) -> bytes:
        with _translated(self._path):
            return os.pread(self._file, min(PIECE_BYTES, end - start), start)

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


async def _pieces(reading: _Reading, start: int, end: int) -> AsyncGenerator[bytes, None]:
    while start < end and (piece := await in_thread(reading.read, start, end)):
        start += len(piece)
        yield piece


def _prepare(root: Path) -> None:
    with _translated(root):
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        unfinished.sweep(root)


def _move(temporary: Path, path: Path) -> None:
    for attempt in range(_ATTEMPTS):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.replace(path)
        except (FileNotFoundError, FileExistsError):
            # Who deletes the last object of a folder takes the folder along, at any moment.
            if attempt + 1 == _ATTEMPTS:
                raise
        else:
            return


def _sync(folder: Path) -> None:
    try:
        file = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        return  # Somebody deleted what was in it, and so the folder.
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _walk(folder: Path) -> Generator[Path]:
    try:
        with os.scandir(folder) as entries:
            found = list(entries)
    except OSError as error:
        if is_absent(error):
            return
        raise
    for entry in found:
        if entry.name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(Path(entry.path))
        elif entry.name.endswith(SUFFIX):
            yield Path(entry.path)


def _next_of(paths: Generator[Path], root: Path) -> Sequence[ObjectInfo]:
    """Some more objects of a listing; none at its end."""
    infos: list[ObjectInfo] = []
    with _translated(root):
        while not infos and (some := list(islice(paths, _LISTED_AT_ONCE))):
            for path in some:
                try:
                    file = os.open(path, os.O_RDONLY)
                except FileNotFoundError:
                    continue
                try:
                    infos.append(read_info(file, path))
                except PlaneError as error:
                    # One damaged file must not hide the others.
                    _logger.warning("%s", error.message)
                finally:
                    os.close(file)
    return infos


@contextmanager
def _translated(path: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise from_os(error, path) from error
