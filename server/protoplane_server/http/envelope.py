"""The five-byte envelope that Connect streams and gRPC-Web put before each message.

One byte of flags, four bytes of length (big endian), then the payload. Pure: bytes to frames and
back. Source: https://connectrpc.com/docs/protocol#enveloped-message.
"""

from __future__ import annotations

import struct

from protoplane_base import Code, PlaneError
from protoplane_server.http.faults import too_large

COMPRESSED = 0x01
"""Flag of a payload that is compressed."""

_HEAD = struct.Struct(">BI")


def envelope(flags: int, payload: bytes) -> bytes:
    """One frame."""
    return _HEAD.pack(flags, len(payload)) + payload


class EnvelopeReader:
    """Cuts a byte stream into frames.

    Args:
        max_bytes: Largest payload that is taken.
    """

    def __init__(self, max_bytes: int) -> None:
        self._buffer = bytearray()
        self._max_bytes = max_bytes

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """Take the next piece of the stream, cut anywhere.

        Returns:
            Flags and payload of each frame that is now complete.

        Raises:
            PlaneError: RESOURCE_EXHAUSTED as soon as a frame announces too large a payload.
        """
        buffer = self._buffer
        buffer += data
        frames: list[tuple[int, bytes]] = []
        start = 0
        while len(buffer) - start >= _HEAD.size:
            flags, size = _HEAD.unpack_from(buffer, start)
            if size > self._max_bytes:
                raise too_large(f"a message of {size} bytes", self._max_bytes)
            end = start + _HEAD.size + size
            if end > len(buffer):
                break
            frames.append((flags, bytes(buffer[start + _HEAD.size : end])))
            start = end
        del buffer[:start]
        return frames

    def finish(self) -> None:
        """Say that the stream has ended.

        Raises:
            PlaneError: INVALID_ARGUMENT where it ended in the middle of a frame.
        """
        if self._buffer:
            raise PlaneError(
                Code.INVALID_ARGUMENT,
                f"the body ends in the middle of a frame, {len(self._buffer)} bytes into it",
            )
