"""Pushes files of this machine to a registry, and pulls them, whatever breaks off meanwhile."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from hashlib import blake2b
from pathlib import Path

from protoplane.registry.v1 import (
    DownloadRequest,
    GetUploadRequest,
    GetVersionRequest,
    RegistryClient,
    UploadHeader,
    UploadRequest,
    Version,
    VersionSpec,
)
from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.objects.pieces import Digest, in_thread

DATA_BYTES = 256 * 1024
"""Bytes of a file in one message."""

ATTEMPTS = 6
"""How often in a row a transfer may break off before it is given up."""

_PAUSE_S = 0.2
_READ_BYTES = 1 << 20

Told = Callable[[int, int], None]
"""Is told how many bytes have come, and how many there are."""


async def push(
    registry: RegistryClient,
    path: Path,
    spec: VersionSpec,
    *,
    told: Told = lambda _done, _size: None,
) -> Version:
    """Add a file as a version, and go on where an upload of it broke off, also an earlier one.

    Cancelling leaves what has come; pushing again goes on there.

    Args:
        registry: The registry.
        path: The file.
        spec: The version; one that has the same bytes already is left as it is.
        told: Is told how far it is.

    Raises:
        PlaneError: ALREADY_EXISTS where the version has other bytes; UNAVAILABLE where the
            registry is away for longer; and what it answers.
        OSError: The file cannot be read.
    """
    size = (await in_thread(path.stat)).st_size
    digest = await digest_of(path)
    if spec.version and (known := await _known(registry, spec)) is not None:
        if known.digest == digest:
            told(size, size)
            return known
        raise PlaneError(
            Code.ALREADY_EXISTS,
            f"{spec.model}:{spec.version} has the digest {known.digest}, and {path} has {digest}; "
            "a version never changes, so give it another name",
        )
    # The same file for the same version is the same upload, also from another process.
    name = blake2b(f"{spec.model}\n{spec.version}\n{digest}".encode(), digest_size=16).hexdigest()
    broken = at = 0
    while True:
        try:
            offset = await _received(registry, name)
            broken, at = (0, offset) if offset > at else (broken, at)
            header = UploadHeader(spec=spec, size=size, digest=digest, upload=name, offset=offset)
            answer = await registry.upload(_parts(path, header, told))
            if answer.version is not None:
                told(size, size)
                return answer.version
        except PlaneError as error:
            if error.code not in _PASSING or broken >= ATTEMPTS:
                raise
        broken += 1
        if broken > ATTEMPTS:
            raise PlaneError(Code.UNAVAILABLE, f"{path} broke off {broken} times; push it again")
        await asyncio.sleep(_PAUSE_S * 2**broken)


async def pull(
    registry: RegistryClient,
    model: str,
    version: str,
    path: Path,
    *,
    told: Told = lambda _done, _size: None,
) -> Version:
    """Write the file of a version to this machine, and go on where an earlier pull broke off.

    The file is there once it is whole and its digest is right; until then it is ``<path>.<start of
    the digest>.part``. Cancelling leaves that, and pulling again goes on there.

    Args:
        registry: The registry.
        model: The model.
        version: The version, ``@alias``, or nothing for the latest.
        path: Where to write it, over what is there.
        told: Is told how far it is.

    Raises:
        PlaneError: NOT_FOUND, DATA_LOSS where what came has another digest, and what the registry
            answers.
        OSError: It cannot be written.
    """
    found = (await registry.get_version(GetVersionRequest(model=model, version=version))).version
    assert found is not None
    partly = path.with_name(f"{path.name}.{found.digest[:12]}.part")
    broken = at = 0
    while (have := await in_thread(_size, partly)) < found.size:
        broken, at = (0, have) if have > at else (broken, at)
        told(have, found.size)
        try:
            await _fetch(registry, found, have, partly, told)
        except PlaneError as error:
            if error.code not in _PASSING or broken >= ATTEMPTS:
                raise
            broken += 1
            await asyncio.sleep(_PAUSE_S * 2**broken)
    if found.size == 0:
        await in_thread(partly.write_bytes, b"")
    if (digest := await digest_of(partly)) != found.digest:
        await in_thread(partly.unlink)
        raise PlaneError(
            Code.DATA_LOSS,
            f"{model}:{found.version} has the digest {found.digest}, and what came has {digest}; "
            "it was thrown away, pull it again",
        )
    await in_thread(partly.replace, path)
    told(found.size, found.size)
    return found


async def digest_of(path: Path) -> str:
    """BLAKE2b-256 of a file in hex.

    Raises:
        OSError: It cannot be read.
    """
    digest = Digest()
    async with aclosing(_pieces(path, 0, _READ_BYTES)) as pieces:
        async for piece in pieces:
            await digest.add_aside(piece)
    return digest.hex


_PASSING = (Code.UNAVAILABLE, Code.ABORTED, Code.OUT_OF_RANGE, Code.DEADLINE_EXCEEDED)


async def _known(registry: RegistryClient, spec: VersionSpec) -> Version | None:
    asked = GetVersionRequest(model=spec.model, version=spec.version)
    try:
        return (await registry.get_version(asked)).version
    except PlaneError as error:
        if error.code is not Code.NOT_FOUND:
            raise
        return None


async def _received(registry: RegistryClient, name: str) -> int:
    try:
        answer = await registry.get_upload(GetUploadRequest(upload=name))
    except PlaneError as error:
        if error.code is not Code.NOT_FOUND:
            raise
        return 0
    return answer.received


async def _parts(
    path: Path, header: UploadHeader, told: Told
) -> AsyncGenerator[UploadRequest, None]:
    yield UploadRequest(header=header)
    done = header.offset
    async with aclosing(_pieces(path, done, DATA_BYTES)) as pieces:
        async for piece in pieces:
            told(done, header.size)
            yield UploadRequest(data=piece)
            done += len(piece)


async def _fetch(
    registry: RegistryClient, version: Version, start: int, path: Path, told: Told
) -> None:
    asked = DownloadRequest(
        model=version.model, version=version.version, start=start, digest=version.digest
    )
    file = await in_thread(path.open, "ab")
    try:
        async for answer in registry.download(asked):
            if answer.data:
                await in_thread(file.write, answer.data)
                told(answer.offset + len(answer.data), version.size)
        await in_thread(file.flush)
        await in_thread(os.fsync, file.fileno())
    finally:
        await in_thread(file.close)


async def _pieces(path: Path, start: int, most: int) -> AsyncGenerator[bytes, None]:
    file = await in_thread(path.open, "rb")
    try:
        await in_thread(file.seek, start)
        while piece := await in_thread(file.read, most):
            yield piece
    finally:
        await in_thread(file.close)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
