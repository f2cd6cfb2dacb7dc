"""Compression of messages: Zstandard (RFC 8878), where both ends have it."""

from __future__ import annotations

from collections.abc import Iterable

import zstandard

from protoplane.v1.link_pb2 import COMPRESSION_ZSTD, Compression
from protoplane_base import Code, PlaneError

_LEVEL = 1
"""The fastest: a link wants its bytes now, and higher levels save little on protobuf."""


def offered() -> list[Compression]:
    """Compressions that this end can undo, as the hello lists them."""
    return [COMPRESSION_ZSTD]


def usable(theirs: Iterable[int]) -> bool:
    """Whether what this end compresses the other can undo."""
    return COMPRESSION_ZSTD in theirs


def compress(data: bytes) -> bytes:
    """The message compressed, its size stated in the Zstandard frame."""
    return zstandard.ZstdCompressor(level=_LEVEL).compress(data)


def decompress(data: bytes, max_bytes: int) -> bytes:
    """The message that was compressed.

    Args:
        data: One Zstandard frame that states the size of its content.
        max_bytes: Greatest content; the frame's own statement is believed before memory is spent,
            and it is an error if it is not true.

    Raises:
        PlaneError: RESOURCE_EXHAUSTED where the content is greater, INVALID_ARGUMENT where the
            bytes are no such frame.
    """
    try:
        size = zstandard.frame_content_size(data)
        if size > max_bytes:
            raise PlaneError(
                Code.RESOURCE_EXHAUSTED,
                f"a compressed message of {size} bytes came and max_message_bytes is {max_bytes}; "
                "send less at once or raise the limit of this end",
            )
        if size < 0:
            raise PlaneError(
                Code.INVALID_ARGUMENT, "a compressed message does not state its size, as it must"
            )
        return zstandard.ZstdDecompressor().decompress(data, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise PlaneError(
            Code.INVALID_ARGUMENT, f"a message cannot be decompressed: {error}"
        ) from error
