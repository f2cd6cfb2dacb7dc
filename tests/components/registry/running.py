"""A registry that runs, and a client of it."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from hashlib import blake2b
from pathlib import Path

from tests.component_suite import component_options

from protoplane.registry.v1 import (
    DownloadRequest,
    RegistryClient,
    UploadHeader,
    UploadRequest,
    UploadResponse,
    Version,
    VersionSpec,
)
from protoplane_client import connect
from protoplane_components.registry import Registry
from protoplane_server import Server

PART = 1000


@asynccontextmanager
async def running(
    database: str,
    folder: Path,
    *,
    door: str = "inproc",
    name: str = "one",
    part_bytes: int = PART,
) -> AsyncGenerator[RegistryClient]:
    """A registry over a database, with its engine and its objects in a folder."""
    inproc = f"registry-{os.urandom(4).hex()}"
    options = component_options(
        grpc="127.0.0.1:0" if door == "grpc" else None,
        http="127.0.0.1:0" if door == "http" else None,
        link=("link+tcp://127.0.0.1:0",) if door == "link" else (),
        inproc=inproc,
        engine=f"local:{folder}",
        name=f"protoplane/registry/{name}",
    )
    async with Server(Registry(database, part_bytes=part_bytes), options) as server:
        target = {
            "grpc": f"grpc://{server.grpc_address}",
            "http": str(server.http_url),
            "link": next(iter(server.link_addresses), ""),
            "inproc": f"inproc:{inproc}",
        }[door]
        async with connect(target) as plane:
            yield RegistryClient(plane)


def digest_of(data: bytes) -> str:
    return blake2b(data, digest_size=32).hexdigest()


def objects_in(folder: Path) -> list[str]:
    """The files of the object store."""
    root = folder / "objects"
    return sorted(
        path.relative_to(root).as_posix()
        for path in root.rglob("*")
        if path.is_file() and ".unfinished" not in path.parts
    )


async def parts(header: UploadHeader, data: bytes, size: int = 300) -> AsyncIterator[UploadRequest]:
    yield UploadRequest(header=header)
    for at in range(0, len(data), size):
        yield UploadRequest(data=data[at : at + size])


async def send(registry: RegistryClient, spec: VersionSpec, data: bytes) -> UploadResponse:
    header = UploadHeader(spec=spec, size=len(data), digest=digest_of(data))
    return await registry.upload(parts(header, data), timeout_s=30)


async def add(
    registry: RegistryClient,
    model: str,
    version: str = "",
    data: bytes = b"weights",
    *,
    tags: dict[str, str] | None = None,
    aliases: Sequence[str] = (),
    form: str = "npz",
) -> Version:
    spec = VersionSpec(
        model=model, version=version, format=form, tags=tags or {}, aliases=list(aliases)
    )
    added = (await send(registry, spec, data)).version
    assert added is not None
    return added


async def received(registry: RegistryClient, asked: DownloadRequest) -> bytes:
    return b"".join([answer.data async for answer in registry.download(asked, timeout_s=30)])
