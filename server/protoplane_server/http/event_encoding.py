"""Events of the log as bytes of an event stream, made once for all who read the same."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, cast

from protoplane_runtime.engines.batches import Batch
from protoplane_runtime.engines.interface import Event, EventId, Gap
from protoplane_server.http.sse import sse_text

PIECE_SIZE = 512 * 1024
"""Most characters that leave in one send, unless one event is larger: what a slow client holds."""

GAP = "gap"
"""Type of the event that tells of a gap."""

_LOG_URN = "urn:protoplane:log:"

Encode = Callable[[Sequence[Event | Gap]], list[str]]
"""Writes a batch as the text of an event stream, item by item; nothing for one that is left out."""


def encoded(batch: Sequence[Event | Gap], encode: Encode) -> Sequence[bytes]:
    """A batch as it goes out, in pieces that end where an event ends.

    Readers that share the batch and the way to encode it share the bytes.
    """
    if not isinstance(batch, Batch):
        return _pieces(encode(batch))
    if batch.encodings is None:
        batch.encodings = {}
    found = batch.encodings.get(encode)
    if found is None:
        found = batch.encodings[encode] = _pieces(encode(batch))
    return found


def plain(batch: Sequence[Event | Gap]) -> list[str]:
    """Events, and word of gaps, as they are."""
    if {*map(type, batch)} != {Event}:
        return [_plain_gap(item) if isinstance(item, Gap) else plain([item])[0] for item in batch]
    events = cast("Sequence[Event]", batch)
    first = events[0]
    epoch = first.id.epoch
    # They are in order, so what the ends have in common all have.
    if events[-1].id.epoch != epoch:
        return [plain([item])[0] for item in events]
    head = f"id: {epoch}-"
    # Mostly all have one key and type, and what stands between id and data is made once.
    middles = {first.key: {first.type: _middle(first)}}
    while True:
        try:
            return [
                f"{head}{item.id.sequence}{middles[item.key][item.type]}{item.json}\n\n"
                for item in events
            ]
        except KeyError:
            for item in events:
                types = middles.setdefault(item.key, {})
                if item.type not in types:
                    types[item.type] = _middle(item)


def cloud_events(batch: Sequence[Event | Gap]) -> list[str]:
    """The same as CloudEvents in structured JSON.

    They bear no ``event:``, so that a browser's ``onmessage`` gets all types; but a gap does. Their
    source is the log, so that the same event has the same source and id wherever it is read.

    Source: CloudEvents 1.0.2, JSON Event Format.
    """
    return list(map(_cloud_event, batch))


def _middle(event: Event) -> str:
    return f"\nevent: {event.type}\nkey: {event.key}\ndata: "


def _plain_gap(gap: Gap) -> str:
    return sse_text(json.dumps(gap_document(gap)), event=GAP, id_=str(resume_id(gap)))


def _cloud_event(item: Event | Gap) -> str:
    if isinstance(item, Event):
        event_id = item.id
        return (
            f'id: {event_id}\ndata: {{"specversion":"1.0","id":"{event_id}",'
            f'{_attributes(event_id.epoch, item.type, item.key)}"time":"{rfc3339(item.time_ns)}",'
            f'"datacontenttype":"application/json","data":{item.json}}}\n\n'
        )
    document = {
        "specversion": "1.0",
        "id": f"{GAP}-{item.asked}-{item.next}",
        "source": f"{_LOG_URN}{item.next.epoch}",
        "type": f"protoplane.{GAP}",
        "datacontenttype": "application/json",
        "data": gap_document(item),
    }
    return sse_text(json.dumps(document), event=GAP, id_=str(resume_id(item)))


# This and the time's text take ten times as long as the rest of an event.
@lru_cache(maxsize=1024)
def _attributes(epoch: int, type_: str, key: str) -> str:
    return f'"source":"{_LOG_URN}{epoch}","type":{json.dumps(type_)},"subject":{json.dumps(key)},'


def rfc3339(time_ns: int) -> str:
    """A time as RFC 3339 writes it, in UTC and to the nanosecond."""
    seconds, rest_ns = divmod(time_ns, 1_000_000_000)
    return f"{_second(seconds)}.{rest_ns:09d}Z"


@lru_cache(maxsize=16)
def _second(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}"


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


def _pieces(texts: list[str]) -> tuple[bytes, ...]:
    whole = "".join(texts)
    if len(whole) <= PIECE_SIZE:
        return (whole.encode(),) if whole else ()
    pieces: list[str] = []
    begin = size = 0
    for at, text in enumerate(texts):
        if size + len(text) > PIECE_SIZE and begin < at:
            pieces.append("".join(texts[begin:at]))
            begin, size = at, 0
        size += len(text)
    pieces.append("".join(texts[begin:]))
    return tuple(piece.encode() for piece in pieces if piece)
