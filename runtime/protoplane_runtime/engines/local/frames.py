"""Frames: how a group of events lies in the ring; bytes in, events out, and nothing else.

A frame is a header, then for each event a record and its key, type, data and JSON. Its checksum
tells a frame that was overwritten while it was read, or never wholly written, from a good one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from struct import Struct
from zlib import crc32

from protoplane_runtime.engines.interface import Event, EventId

HEADER = Struct("<IIQQQQ")
"""Bytes of the frame, checksum of what follows it, first and last sequence, that of the last event
that is on no disk (0 where there is none), time of acceptance."""

_RECORD = Struct("<HHII")  # Lengths of key, type, data and JSON.
_CHECKED_FROM = 8


def encode(events: Sequence[Event], last_ephemeral: int) -> bytes:
    """One frame that holds ``events``, which were accepted together and follow each other."""
    parts: list[bytes] = []
    pack = _RECORD.pack
    for event in events:
        key, type_, json = event.key.encode(), event.type.encode(), event.json.encode()
        parts += (
            pack(len(key), len(type_), len(event.data), len(json)),
            key,
            type_,
            event.data,
            json,
        )
    body = b"".join(parts)
    first, last = events[0], events[-1]
    size = HEADER.size + len(body)
    head = HEADER.pack(size, 0, first.id.sequence, last.id.sequence, last_ephemeral, first.time_ns)
    checksum = crc32(body, crc32(head[_CHECKED_FROM:]))
    return b"".join((head[:4], checksum.to_bytes(4, "little"), head[_CHECKED_FROM:], body))


def whole(frames: bytes) -> Iterator[memoryview]:
    """The frames that lie one after another, the last of which may be cut off.

    Raises:
        ValueError: A frame is damaged.
    """
    view = memoryview(frames)
    at, end = 0, len(view)
    while at + HEADER.size <= end:
        size, checksum = HEADER.unpack_from(view, at)[:2]
        if size < HEADER.size:
            raise ValueError("a frame of the ring has no length")
        if at + size > end:
            return
        frame = view[at : at + size]
        if crc32(frame[_CHECKED_FROM:]) != checksum:
            raise ValueError("a frame of the ring has a wrong checksum")
        yield frame
        at += size


def first_sequence(frame: memoryview) -> int:
    """Sequence of the first event in a frame."""
    first: int = HEADER.unpack_from(frame)[2]
    return first


def time_of(frame: memoryview) -> int:
    """When its events were accepted, in nanoseconds since 1970."""
    time_ns: int = HEADER.unpack_from(frame)[5]
    return time_ns


def last_sequence(frame: memoryview) -> int:
    """Sequence of the last event in a frame."""
    last: int = HEADER.unpack_from(frame)[3]
    return last


def decode(frame: memoryview, epoch: int) -> list[Event]:
    """The events of a frame."""
    _, _, sequence, last, _, time_ns = HEADER.unpack_from(frame)
    at = HEADER.size
    content = bytes(frame)
    events: list[Event] = []
    unpack, record = _RECORD.unpack_from, _RECORD.size
    for number in range(sequence, last + 1):
        key_size, type_size, data_size, json_size = unpack(content, at)
        key_at = at + record
        type_at = key_at + key_size
        data_at = type_at + type_size
        json_at = data_at + data_size
        at = json_at + json_size
        events.append(
            Event(
                EventId(epoch, number),
                content[key_at:type_at].decode(),
                content[type_at:data_at].decode(),
                content[data_at:json_at],
                content[json_at:at].decode(),
                time_ns,
            )
        )
    return events
