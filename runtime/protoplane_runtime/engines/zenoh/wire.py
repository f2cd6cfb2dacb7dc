"""What nodes tell each other of events; bytes in, events out, and nothing else.

An event travels alone when it is published, and in a `Page` when somebody asks for what it missed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from struct import Struct, error
from typing import NamedTuple

VERSION = 1
"""What a message begins with; a node leaves messages of another version alone."""

_EVENT = Struct("<BHQQHHII")
"""Version, lengths of origin, number, previous, lengths of key, type, data and JSON."""

_PAGE = Struct("<B?QQI")
"""Version, whether there is more, place up to which was looked, what was deleted, events."""

_ASKED = Struct("<BQ")


class Carried(NamedTuple):
    """An event on its way.

    Attributes:
        origin: Log of the node that published it.
        number: Its place in that log; 0 for an ephemeral event.
        previous: Place of the durable event that the node published before it.
        key: Its key.
        type: Its type.
        data: Its data.
        json: Its JSON.
    """

    origin: str
    number: int
    previous: int
    key: str
    type: str
    data: bytes
    json: str


@dataclass(frozen=True, slots=True)
class Page:
    """Some of a node's own durable events, after a place in its log.

    Attributes:
        events: The events.
        end: Place up to which it looked.
        deleted: Place of the newest event that its retention deleted.
        more: Whether there is more after the end.
    """

    events: Sequence[Carried]
    end: int
    deleted: int
    more: bool


def encode(event: Carried) -> bytes:
    """An event as it travels."""
    origin, key, type_ = event.origin.encode(), event.key.encode(), event.type.encode()
    json = event.json.encode()
    sizes = len(key), len(type_), len(event.data), len(json)
    head = _EVENT.pack(VERSION, len(origin), event.number, event.previous, *sizes)
    return b"".join((head, origin, key, type_, event.data, json))


def decode(message: bytes) -> Carried:
    """Read what `encode` wrote.

    Raises:
        ValueError: It is something else.
    """
    event, end = _decode(message, 0)
    if end != len(message):
        raise ValueError("an event has more bytes than it says")
    return event


def encode_page(page: Page) -> bytes:
    """A page as it travels."""
    head = _PAGE.pack(VERSION, page.more, page.end, page.deleted, len(page.events))
    return head + b"".join(map(encode, page.events))


def decode_page(message: bytes) -> Page:
    """Read what `encode_page` wrote.

    Raises:
        ValueError: It is something else.
    """
    try:
        version, more, end, deleted, count = _PAGE.unpack_from(message)
    except error:
        raise ValueError("a page is cut off") from None
    if version != VERSION:
        raise ValueError(f"a page of version {version}, and this is version {VERSION}")
    at = _PAGE.size
    events: list[Carried] = []
    for _ in range(count):
        event, at = _decode(message, at)
        events.append(event)
    return Page(events, end, deleted, more)


def encode_asked(after: int) -> bytes:
    """The question for what comes after a place."""
    return _ASKED.pack(VERSION, after)


def decode_asked(message: bytes) -> int:
    """Read what `encode_asked` wrote.

    Raises:
        ValueError: It is something else.
    """
    if len(message) != _ASKED.size or message[0] != VERSION:
        raise ValueError("this is no question for events")
    after: int = _ASKED.unpack(message)[1]
    return after


def _decode(message: bytes, at: int) -> tuple[Carried, int]:
    try:
        version, origin_size, number, previous, *sizes = _EVENT.unpack_from(message, at)
    except error:
        raise ValueError("an event is cut off") from None
    if version != VERSION:
        raise ValueError(f"an event of version {version}, and this is version {VERSION}")
    parts: list[bytes] = []
    at += _EVENT.size
    for size in (origin_size, *sizes):
        parts.append(message[at : at + size])
        at += size
    if at > len(message):
        raise ValueError("an event is cut off")
    origin, key, type_, data, json = parts
    return Carried(
        origin.decode(), number, previous, key.decode(), type_.decode(), data, json.decode()
    ), at
