"""Frames as bytes: what both ends of a link put on the wire. Pure; see docs/link.md.

A prefix of 16 bytes, a header (an encoded protobuf message, or nothing) and a payload. The prefix
is fixed so that a frame is cut out of what came with one call of `struct`, and the header stands
apart from the payload because it is the same in most calls of a method: who reads it can remember
what it said.
"""

from __future__ import annotations

import struct
from typing import Final

from protoplane_base import Code
from protoplane_runtime.link.errors import LinkError

Frame = tuple[int, int, int, bytes, bytes]
"""Type, flags, call, header, payload."""

PREFIX: Final = struct.Struct(">BBHIQ")
"""Type, flags, header length, payload length, call."""

HELLO: Final = 1
OPEN: Final = 2
MESSAGE: Final = 3
HALF_CLOSE: Final = 4
CLOSE: Final = 5
CANCEL: Final = 6
CREDIT: Final = 7
PING: Final = 8
PONG: Final = 9
GO_AWAY: Final = 10

END: Final = 1
MORE: Final = 2
COMPRESSED: Final = 4

MAX_HEADER_BYTES: Final = 0xFFFF


def encode(type_: int, flags: int, call: int, header: bytes = b"", payload: bytes = b"") -> bytes:
    """One frame as bytes.

    Args:
        type_: Type of the frame.
        flags: Its flags, added up.
        call: The call it belongs to; 0 for the link.
        header: Encoded header.
        payload: What it carries.

    Raises:
        LinkError: INVALID_ARGUMENT where the header is longer than a frame can say.
    """
    if len(header) > MAX_HEADER_BYTES:
        raise LinkError(
            Code.INVALID_ARGUMENT,
            f"the header has {len(header)} bytes and a frame takes {MAX_HEADER_BYTES}; "
            "send less metadata",
        )
    return PREFIX.pack(type_, flags, len(header), len(payload), call) + header + payload


class Decoder:
    """Cuts frames out of the bytes that come; whatever is incomplete waits for the rest.

    Args:
        max_payload_bytes: Greatest payload that is taken; more is refused by its prefix, before
            any memory is spent on it.
    """

    def __init__(self, max_payload_bytes: int) -> None:
        self.max_payload_bytes = max_payload_bytes
        self._rest = bytearray()
        self._needed = PREFIX.size

    @property
    def pending(self) -> int:
        """Bytes of a frame that is not whole yet."""
        return len(self._rest)

    def feed(self, data: bytes) -> list[Frame]:
        """Take bytes as they came and give the frames that are whole now, in order.

        Raises:
            LinkError: INVALID_ARGUMENT where a frame is larger than is taken; nothing that comes
                after it can be understood.
        """
        rest = self._rest
        if rest:
            rest += data
            # Nothing is cut before a whole frame is there, or many small pieces would cost their
            # square.
            if len(rest) < self._needed:
                return []
            data = bytes(rest)
            rest.clear()
        frames: list[Frame] = []
        unpack = PREFIX.unpack_from
        start, total = 0, len(data)
        self._needed = PREFIX.size
        while total - start >= 16:
            type_, flags, header_length, payload_length, call = unpack(data, start)
            if payload_length > self.max_payload_bytes:
                raise LinkError(
                    Code.INVALID_ARGUMENT,
                    f"a frame of {payload_length} bytes came and max_frame_bytes is "
                    f"{self.max_payload_bytes}; the other end must split its messages",
                )
            body = start + 16
            payload = body + header_length
            end = payload + payload_length
            if end > total:
                self._needed = end - start
                break
            frames.append((type_, flags, call, data[body:payload], data[payload:end]))
            start = end
        if start < total:
            rest += data[start:] if start else data
        return frames
