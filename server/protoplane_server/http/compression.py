"""Gzip for bodies and messages, with a bound on what comes out of it."""

from __future__ import annotations

import zlib

from protoplane_base import Code, PlaneError
from protoplane_server.http.faults import too_large

MIN_BYTES = 1024
"""Below this, compressing costs more than it saves."""

_GZIP = 16 + zlib.MAX_WBITS


def compress(data: bytes) -> bytes:
    """Gzip, fast rather than small."""
    packer = zlib.compressobj(1, zlib.DEFLATED, _GZIP)
    return packer.compress(data) + packer.flush()


def decompress(data: bytes, max_bytes: int) -> bytes:
    """Undo gzip.

    Raises:
        PlaneError: INVALID_ARGUMENT where the data is no gzip or is cut short; RESOURCE_EXHAUSTED
            where more than ``max_bytes`` come out of it. No more than that is ever in memory.
    """
    unpacker = zlib.decompressobj(_GZIP)
    try:
        out = unpacker.decompress(data, max_bytes + 1)
    except zlib.error as error:
        raise PlaneError(Code.INVALID_ARGUMENT, f"the data is not gzip: {error}") from None
    if len(out) > max_bytes:
        raise too_large("the message, uncompressed,", max_bytes)
    if not unpacker.eof:
        raise PlaneError(Code.INVALID_ARGUMENT, "the gzip data is cut short")
    return out


def encoding_of(header: bytes | None) -> bool:
    """Whether a ``content-encoding`` header means gzip.

    Raises:
        PlaneError: UNIMPLEMENTED for any compression but gzip.
    """
    if header is None or header in (b"identity", b""):
        return False
    if header.strip().lower() == b"gzip":
        return True
    raise PlaneError(
        Code.UNIMPLEMENTED,
        f"compression {header.decode('latin-1')!r} is not known here; use gzip or identity",
    )


def accepts_gzip(header: bytes | None) -> bool:
    """Whether an ``accept-encoding`` header allows gzip."""
    if header is None:
        return False
    for part in header.lower().split(b","):
        name, _, weight = part.partition(b";")
        if name.strip() in (b"gzip", b"*"):
            return weight.replace(b" ", b"") not in (b"q=0", b"q=0.0", b"q=0.00", b"q=0.000")
    return False
