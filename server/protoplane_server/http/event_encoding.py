"""Events of the log as bytes of an event stream, made once for all who read the same."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from protoplane_runtime.engines.batches import Batch
from protoplane_runtime.engines.interface import Event, EventId, Gap
from protoplane_server.http.sse import sse_event

PIECE_BYTES = 512 * 1024
"""Most bytes that leave in one send, unless one event is larger: what a slow client can hold."""

GAP = "gap"
"""Type of the event that tells of a gap."""

_LOG_URN = "urn:protoplane:log:"

Encode = Callable[[Event | Gap], bytes]
"""Encodes one item; no bytes for one that is left out."""


def encoded(batch: Sequence[Event | Gap], encode: Encode) -> Sequence[bytes]:
    """A batch as it goes out, in pieces that end where an event ends.

    Readers that share the batch and the way to encode it share the bytes.
    """
    if not isinstance(batch, Batch):
        return _pieces(map(encode, batch))
    if batch.encodings is None:
        batch.encodings = {}
    found = batch.encodings.get(encode)
    if found is None:
        found = batch.encodings[encode] = _pieces(map(encode, batch))
    return found


def encode_event(item: Event | Gap) -> bytes:
    """An event, or word of a gap, as bytes of an event stream."""
    if isinstance(item, Event):
        event_id = item.id
        return (
            f"id: {event_id.epoch}-{event_id.sequence}\nevent: {item.type}\n"
            f"key: {item.key}\ndata: {item.json}\n\n"
        ).encode()
    return sse_event(json.dumps(gap_document(item)), event=GAP, id_=str(resume_id(item)))


def encode_cloud_event(item: Event | Gap) -> bytes:
    """The same as a CloudEvent in structured JSON.

    It bears no ``event:``, so that a browser's ``onmessage`` gets all types; but a gap does. Its
    source is the log, so that the same event has the same source and id wherever it is read.

    Source: CloudEvents 1.0.2, JSON Event Format.
    """
    if isinstance(item, Event):
        event_id = item.id
        return (
            f'id: {event_id}\ndata: {{"specversion":"1.0","id":"{event_id}",'
            f'"source":"{_LOG_URN}{event_id.epoch}","type":{json.dumps(item.type)},'
            f'"subject":{json.dumps(item.key)},"time":"{rfc3339(item.time_ns)}",'
            f'"datacontenttype":"application/json","data":{item.json}}}\n\n'
        ).encode()
    document = {
        "specversion": "1.0",
        "id": f"{GAP}-{item.asked}-{item.next}",
        "source": f"{_LOG_URN}{item.next.epoch}",
        "type": f"protoplane.{GAP}",
        "datacontenttype": "application/json",
        "data": gap_document(item),
    }
    return sse_event(json.dumps(document), event=GAP, id_=str(resume_id(item)))


def rfc3339(time_ns: int) -> str:
    """A time as RFC 3339 writes it, in UTC and to the nanosecond."""
    seconds, rest_ns = divmod(time_ns, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest_ns:09d}Z"


def gap_document(gap: Gap) -> dict[str, Any]:
    """What is told of a gap."""
    document: dict[str, Any] = {
        "asked": str(gap.asked),
        "oldest": None if gap.oldest is None else str(gap.oldest),
        "next": str(gap.next),
    }
    if gap.ephemeral:
        document["ephemeral"] = True
    return document


def resume_id(gap: Gap) -> EventId:
    """Where a reader goes on that has been told of a gap."""
    # A client that reconnects now has been told; it goes on right before the next event.
    return EventId(gap.next.epoch, max(gap.next.sequence - 1, 0))


def _pieces(items: Iterable[bytes]) -> tuple[bytes, ...]:
    parts = [*items]
    whole = b"".join(parts)
    if len(whole) <= PIECE_BYTES:
        return (whole,) if whole else ()
    pieces: list[bytes] = []
    begin = at = size = 0
    for at, part in enumerate(parts):
        if size + len(part) > PIECE_BYTES and begin < at:
            pieces.append(b"".join(parts[begin:at]))
            begin, size = at, 0
        size += len(part)
    pieces.append(b"".join(parts[begin:]))
    return tuple(filter(None, pieces))
