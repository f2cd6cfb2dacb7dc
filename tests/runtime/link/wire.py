"""The link's wire, read and written by nothing of ours: `struct` and protobuf's own messages.

It follows docs/link.md, not the code, so that the two cannot be wrong in the same way.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message import Message as PbMessage

from protoplane.v1 import link_pb2

HEADERS: dict[str, type[PbMessage]] = {
    "HELLO": link_pb2.Hello,
    "OPEN": link_pb2.Open,
    "CLOSE": link_pb2.Close,
    "CREDIT": link_pb2.Credit,
    "GO_AWAY": link_pb2.GoAway,
}
FLAGS = {"END": 1, "MORE": 2, "COMPRESSED": 4}
OVERHEAD_BYTES = 64


class WireFrame(NamedTuple):
    """One frame."""

    type: int
    flags: int = 0
    call: int = 0
    header: bytes = b""
    payload: bytes = b""

    def encode(self) -> bytes:
        sizes = (len(self.header), len(self.payload))
        return struct.pack("!BBHIQ", self.type, self.flags, *sizes, self.call) + (
            self.header + self.payload
        )

    @property
    def cost(self) -> int:
        """What it takes of the windows."""
        return len(self.payload) + OVERHEAD_BYTES if self.type == link_pb2.FRAME_TYPE_MESSAGE else 0


def frame(
    name: str, /, call: int = 0, flags: str = "", payload: bytes = b"", **header: Any
) -> bytes:
    """A frame by the names of its type and flags, and by the fields of its header."""
    bits = sum(FLAGS[flag] for flag in flags.split())
    encoded = b""
    if header:
        encoded = ParseDict(header, HEADERS[name]()).SerializeToString()
    return WireFrame(type_number(name), bits, call, encoded, payload).encode()


def hello(**fields: Any) -> bytes:
    """A HELLO of version 1."""
    header: dict[str, Any] = {"version_min": 1, "version_max": 1, **fields}
    return frame("HELLO", **header)


def split(data: bytes) -> tuple[list[WireFrame], bytes]:
    """All whole frames at the start of some bytes, and what is left."""
    frames: list[WireFrame] = []
    while len(data) >= 16:
        type_, flags, header_size, payload_size, call = struct.unpack("!BBHIQ", data[:16])
        end = 16 + header_size + payload_size
        if len(data) < end:
            break
        body = data[16:end]
        frames.append(WireFrame(type_, flags, call, body[:header_size], body[header_size:]))
        data = data[end:]
    return frames, data


def described(one: WireFrame) -> dict[str, Any]:
    """A frame as the vectors' files say it."""
    name = type_name(one.type)
    said: dict[str, Any] = {"type": name or one.type}
    flags = [flag for flag, bit in FLAGS.items() if one.flags & bit]
    if flags:
        said["flags"] = flags
    if one.call:
        said["call"] = one.call
    if one.header and name in HEADERS:
        message = HEADERS[name].FromString(one.header)
        said["header"] = MessageToDict(message, preserving_proto_field_name=True)
    elif one.header:
        said["header_hex"] = one.header.hex()
    if one.payload:
        said["payload"] = one.payload.hex()
    return said


def type_number(name: str) -> int:
    return link_pb2.FrameType.Value(f"FRAME_TYPE_{name}")


def type_name(number: int) -> str:
    """The name of a type; empty where it has none."""
    if number not in link_pb2.FrameType.values():
        return ""
    return link_pb2.FrameType.Name(link_pb2.FrameType.ValueType(number)).removeprefix("FRAME_TYPE_")
