"""What a message of the engine holds; bytes to events and back.

A message is a version (1 byte), the lengths of the type (2) and the data (4), both big-endian, and
then type, data and JSON. Before that, an ephemeral event has the id that its publisher gave it
(epoch 8, durable part 8, ephemeral part 4) and its time in nanoseconds (8). The key is in the
subject.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

_VERSION = 1
_BODY = struct.Struct(">BHI")
_HEAD = struct.Struct(">QQIQ")

EPHEMERAL_BITS = 32
"""Low bits of a sequence, which number the ephemeral events after one durable event."""

_EPHEMERAL_MASK = (1 << EPHEMERAL_BITS) - 1


class Body(NamedTuple):
    """What an event says.

    Attributes:
        type: Full name of its message.
        data: The message in the protobuf wire format.
        json: The message as ProtoJSON.
    """

    type: str
    data: bytes
    json: str


class Passing(NamedTuple):
    """An ephemeral event on its way.

    Attributes:
        epoch: Epoch that the publisher knew.
        sequence: Sequence that it gave the event.
        time_ns: When it was published, by its clock.
    """

    epoch: int
    sequence: int
    time_ns: int


def encode(type_: str, data: bytes, json: str) -> bytes:
    """A durable event's message."""
    name = type_.encode()
    return b"".join((_BODY.pack(_VERSION, len(name), len(data)), name, data, json.encode()))


def decode(message: bytes, at: int = 0) -> Body | None:
    """What a durable event's message holds; ``None`` for one that is none of ours."""
    if len(message) < at + _BODY.size:
        return None
    version, name_size, data_size = _BODY.unpack_from(message, at)
    name_at = at + _BODY.size
    data_at = name_at + name_size
    json_at = data_at + data_size
    if version != _VERSION or json_at > len(message):
        return None
    try:
        return Body(
            message[name_at:data_at].decode(),
            message[data_at:json_at],
            message[json_at:].decode(),
        )
    except UnicodeDecodeError:
        return None


def encode_passing(passing: Passing, body: bytes) -> bytes:
    """An ephemeral event's message; ``body`` is what `encode` gave."""
    sequence = passing.sequence
    return (
        _HEAD.pack(
            passing.epoch,
            sequence >> EPHEMERAL_BITS,
            sequence & _EPHEMERAL_MASK,
            passing.time_ns,
        )
        + body
    )


def decode_passing(message: bytes) -> tuple[Passing, Body] | None:
    """What an ephemeral event's message holds; ``None`` for one that is none of ours."""
    if len(message) < _HEAD.size:
        return None
    epoch, durable, ephemeral, time_ns = _HEAD.unpack_from(message)
    body = decode(message, _HEAD.size)
    if body is None:
        return None
    sequence = (durable << EPHEMERAL_BITS) | ephemeral
    return Passing(epoch, sequence, time_ns), body
