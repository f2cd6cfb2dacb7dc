"""How an object lies in a folder: its bytes, then what is known of it, in one file.

The bytes come first, so they are written as they come and read without counting anything off. What
is known of them follows as JSON, then the JSON's length and a mark. One file is renamed into its
place in one step, so bytes, digest and metadata can never belong to different writes.
"""

from __future__ import annotations

import errno
import os
import string
import struct
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from types import MappingProxyType

from pydantic import BaseModel, ConfigDict, ValidationError

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.objects.interface import ObjectInfo

SUFFIX = "="
"""Ends the name of each object's file, so that ``a`` and ``a/b`` can both be there."""

_MARK = b"\nplaneobj1"
_TAIL = struct.Struct(f">I{len(_MARK)}s")
_MAX_FOOTER_BYTES = 64 * 1024
_PLAIN = frozenset(string.ascii_lowercase + string.digits + "._-")
_MAX_NAME_BYTES = 200
_KEPT_NAME_BYTES = 150


class _Footer(BaseModel):
    """What follows the bytes."""

    model_config = ConfigDict(frozen=True, strict=True)

    key: str
    size: int
    digest: str
    etag: str
    modified_s: float
    metadata: Mapping[str, str]


def footer(info: ObjectInfo) -> bytes:
    """What to write after the bytes of an object."""
    text = _Footer.model_construct(
        key=info.key,
        size=info.size,
        digest=info.digest or "",
        etag=info.etag,
        modified_s=info.modified_s,
        metadata=dict(info.metadata),
    ).model_dump_json()
    data = b"\n" + text.encode()
    return data + _TAIL.pack(len(data), _MARK)


def read_info(file: int, path: Path) -> ObjectInfo:
    """What is known of the object in an open file.

    Raises:
        PlaneError: DATA_LOSS; the file is damaged.
        OSError: It cannot be read.
    """
    length = os.fstat(file).st_size
    tail = os.pread(file, _TAIL.size, max(0, length - _TAIL.size))
    if len(tail) != _TAIL.size:
        raise _damaged(path)
    size, mark = _TAIL.unpack(tail)
    at = length - _TAIL.size - size
    if mark != _MARK or size > _MAX_FOOTER_BYTES or at < 0:
        raise _damaged(path)
    try:
        known = _Footer.model_validate_json(os.pread(file, size, at))
    except ValidationError:
        raise _damaged(path) from None
    if known.size != at:
        raise _damaged(path)
    return ObjectInfo(
        known.key,
        known.size,
        known.digest,
        known.etag,
        known.modified_s,
        MappingProxyType(dict(known.metadata)),
    )


def folder_of(prefix: str) -> Path:
    """Where the objects below a path lie."""
    return Path(*(_name(segment) for segment in prefix.split("/")))


def file_of(key: str) -> Path:
    """Where an object lies."""
    above, _, last = key.rpartition("/")
    name = _name(last) + SUFFIX
    return folder_of(above) / name if above else Path(name)


def _name(segment: str) -> str:
    """The name of a segment on any file system, also one that ignores case or composes accents."""
    name = "".join(
        character
        if character in _PLAIN
        else "!" + character.lower()
        if character in string.ascii_uppercase
        else "".join(f"%{byte:02x}" for byte in character.encode())
        for character in segment
    )
    if name.startswith("."):
        # Hidden files are not ours, and the folder of unfinished ones starts so.
        name = "%2e" + name[1:]
    if len(name) > _MAX_NAME_BYTES:
        name = f"{name[:_KEPT_NAME_BYTES]}~{blake2b(segment.encode(), digest_size=16).hexdigest()}"
    return name


def _damaged(path: Path) -> PlaneError:
    return PlaneError(
        Code.DATA_LOSS,
        f"{path} is damaged: what is known of its object is missing; delete it, and write the "
        "object anew",
    )


def is_absent(error: OSError) -> bool:
    """Whether an error says that there is no such file."""
    return error.errno in (errno.ENOENT, errno.ENOTDIR)
