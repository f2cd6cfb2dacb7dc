"""What a store takes: keys, metadata, digests and ranges that every store can keep."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import quote

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.keys import check_key
from protoplane_runtime.engines.objects.interface import ObjectInfo

MAX_KEY_BYTES = 1024
"""Most bytes of a key in UTF-8; the limit of S3 and of Google Cloud Storage."""

MAX_METADATA_BYTES = 1024
"""Most bytes of an object's metadata, percent-encoded; S3 keeps 2048, with the digest."""

MAX_EXPIRES_S = 7 * 24 * 3600
"""Longest life of a presigned URL; the limit of S3 and of Google Cloud Storage."""

RESERVED_NAMES = "protoplane_"
"""How the names of metadata start that belong to the store itself."""

# S3 takes no upper case, Azure nothing but identifiers.
_NAME = re.compile(r"[a-z][a-z0-9_]*\Z")
_DIGEST = re.compile(r"[0-9a-f]{64}\Z")


def check_object_key(key: str) -> None:
    """Make sure that a text is a key of an object.

    Raises:
        PlaneError: INVALID_ARGUMENT with what is wrong.
    """
    check_key(key)
    # Printable text has no lone surrogates, so it can be encoded.
    size = len(key.encode())
    if size > MAX_KEY_BYTES:
        raise PlaneError(
            Code.INVALID_ARGUMENT,
            f"{key[:40]!r}... has {size} bytes, and {MAX_KEY_BYTES} are the most that a key of an "
            "object may have",
        )
    if "\\" in key:
        raise PlaneError(
            Code.INVALID_ARGUMENT,
            f"{key!r} is no key of an object: Azure takes '\\' for '/'; use another character",
        )
    if not {".", ".."}.isdisjoint(key.split("/")):
        raise PlaneError(
            Code.INVALID_ARGUMENT, f"{key!r} is no key of an object: no segment is '.' or '..'"
        )


def check_metadata(metadata: Mapping[str, str]) -> None:
    """Make sure that every store can keep some metadata.

    Raises:
        PlaneError: INVALID_ARGUMENT with what is wrong.
    """
    size = 0
    for name, value in metadata.items():
        if not _NAME.match(name) or name.startswith(RESERVED_NAMES):
            raise PlaneError(
                Code.INVALID_ARGUMENT,
                f"{name[:80]!r} is no name of metadata; use a-z, 0-9 and _, a letter first, and "
                f"not {RESERVED_NAMES}",
            )
        try:
            size += len(name) + len(quote(value))
        except UnicodeEncodeError:
            raise PlaneError(
                Code.INVALID_ARGUMENT, f"the metadata {name} is no text that UTF-8 can carry"
            ) from None
    if size > MAX_METADATA_BYTES:
        raise PlaneError(
            Code.INVALID_ARGUMENT,
            f"the metadata has {size} bytes, and {MAX_METADATA_BYTES} are the most; write the rest "
            "into an object of its own",
        )


def check_digest(digest: str | None) -> None:
    """Make sure that a text is a digest, if there is one.

    Raises:
        PlaneError: INVALID_ARGUMENT with what is wrong.
    """
    if digest is not None and not _DIGEST.match(digest):
        raise PlaneError(
            Code.INVALID_ARGUMENT,
            f"{digest[:80]!r} is no digest; one is the BLAKE2b-256 in 64 lower-case hex digits",
        )


def check_range(start: int, end: int | None) -> None:
    """Make sure that two numbers can be a range of bytes.

    Raises:
        PlaneError: INVALID_ARGUMENT with what is wrong.
    """
    if start < 0 or (end is not None and end < start):
        raise PlaneError(
            Code.INVALID_ARGUMENT,
            f"there are no bytes from {start} to {end}; a range starts at 0 or later and does not "
            "end before it starts",
        )


def check_expiry(expires_s: float) -> None:
    """Make sure that a presigned URL can live so long.

    Raises:
        PlaneError: INVALID_ARGUMENT with what is wrong.
    """
    if not 1 <= expires_s <= MAX_EXPIRES_S:
        raise PlaneError(
            Code.INVALID_ARGUMENT,
            f"a presigned URL lives from 1 to {MAX_EXPIRES_S} seconds, not {expires_s}",
        )


def check_put(key: str, metadata: Mapping[str, str] | None, digest: str | None) -> dict[str, str]:
    """Make sure that an object can be written.

    Returns:
        Its metadata, which nobody changes meanwhile.

    Raises:
        PlaneError: INVALID_ARGUMENT with what is wrong.
    """
    kept = dict(metadata or {})
    check_object_key(key)
    check_metadata(kept)
    check_digest(digest)
    return kept


def check_get(key: str, start: int, end: int | None, digest: str | None) -> None:
    """Make sure that an object can be read.

    Raises:
        PlaneError: INVALID_ARGUMENT with what is wrong.
    """
    check_object_key(key)
    check_range(start, end)
    check_digest(digest)


def check_expected(info: ObjectInfo, etag: str | None, digest: str | None) -> None:
    """Make sure that an object is still the one that a reader means.

    Raises:
        PlaneError: FAILED_PRECONDITION; it is another.
    """
    if (etag is not None and etag != info.etag) or (digest is not None and digest != info.digest):
        raise changed(info.key)


def clipped(info: ObjectInfo, start: int, end: int | None) -> int:
    """Where a read of an object ends.

    Raises:
        PlaneError: OUT_OF_RANGE; it starts past the end.
    """
    if start > info.size:
        raise PlaneError(
            Code.OUT_OF_RANGE,
            f"{info.key} has {info.size} bytes, and the read starts at {start}",
        )
    return info.size if end is None else min(end, info.size)


def changed(key: str) -> PlaneError:
    """The error of a reader who means another object."""
    return PlaneError(
        Code.FAILED_PRECONDITION,
        f"{key} is not the object that was asked for: it was written anew; read it from its start",
    )


def absent(key: str) -> PlaneError:
    """The error of a key that has no object."""
    return PlaneError(Code.NOT_FOUND, f"there is no object {key}")


def mismatched(key: str, expected: str, digest: str) -> PlaneError:
    """The error of a writer whose bytes are not those it announced."""
    return PlaneError(
        Code.INVALID_ARGUMENT,
        f"{key} was to have the digest {expected}, and its bytes have {digest}; nothing was "
        "written",
    )
