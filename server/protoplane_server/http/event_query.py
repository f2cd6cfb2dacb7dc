"""The query of ``GET /events/<key expression>`` and ``POST /events/<key>``, read and checked."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from google.protobuf.timestamp_pb2 import Timestamp

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.interface import EventId, Publication, Since, Start
from protoplane_server.http.event_encoding import Encode, cloud_events, plain

MAX_EXPRESSIONS = 64
"""Most key expressions of one stream."""

_MAX_SECONDS = Decimal(100_000_000_000)
_ENVELOPES: dict[str, Encode] = {"none": plain, "cloudevents": cloud_events}
_NUMBER = re.compile(r"[0-9]{1,19}")
_LOST_PLUS = re.compile(r"(:\d\d(?:\.\d+)?) (\d\d:\d\d)$")

Query = Mapping[str, Sequence[str]]
"""The values of each parameter."""


@dataclass(frozen=True, slots=True)
class Beginning:
    """Where a stream begins.

    Attributes:
        after: For the log.
        text: The same as the ``id:`` that the stream opens with, which a client that reconnects
            sends back; empty for `Start.NOW`, where the log says which id that is.
    """

    after: EventId | Start | Since
    text: str


def beginning(header: bytes | None, query: Query) -> Beginning:
    """Where to begin: at the header ``Last-Event-ID``, else where the query says.

    The parameter is ``after``, or ``lastEventId``, as polyfills of ``EventSource`` send it.

    Raises:
        PlaneError: INVALID_ARGUMENT; it is neither an id, nor a time, nor an end of the log.
    """
    # A client that reconnects repeats the query; its header knows better.
    text = header.decode("latin-1") if header else ""
    for name in ("lastEventId", "after"):
        text = text or query.get(name, [""])[-1]
    return read_beginning(text)


def read_beginning(text: str) -> Beginning:
    """Read an id, ``earliest``, ``now``, or a time: RFC 3339, or seconds since 1970.

    Raises:
        PlaneError: INVALID_ARGUMENT; it is none of these.
    """
    if not text or text == "now":
        return Beginning(Start.NOW, "")
    if text == "earliest":
        return Beginning(Start.EARLIEST, text)
    try:
        event_id = EventId.parse(text)
    except ValueError:
        pass
    else:
        return Beginning(event_id, str(event_id))
    # In a query a plus sign is a space, and few remember to escape it.
    text = _LOST_PLUS.sub(r"\1+\2", text)
    time_ns = _time_ns(text)
    if time_ns is None:
        raise PlaneError(
            Code.INVALID_ARGUMENT,
            f"{text[:80]!r} is no place in the log; give the id of an event, such as 1-42, a time "
            "as RFC 3339 writes it, 2026-01-31T12:00:00Z, or in seconds since 1970, 'earliest' or "
            "'now'",
        )
    return Beginning(Since(time_ns), text)


def key_expressions(path: str, query: Query) -> tuple[str, ...]:
    """The key expression of the path, and those of ``also``.

    Raises:
        PlaneError: INVALID_ARGUMENT; they are too many.
    """
    expressions = (path, *query.get("also", ()))
    if len(expressions) > MAX_EXPRESSIONS:
        raise PlaneError(
            Code.INVALID_ARGUMENT,
            f"{len(expressions)} key expressions are too many for one stream, {MAX_EXPRESSIONS} "
            "are the most; open another, or subscribe to what they have in common",
        )
    return expressions


def envelope(query: Query) -> Encode:
    """How events are to be encoded: ``envelope`` is ``none`` or ``cloudevents``.

    Raises:
        PlaneError: INVALID_ARGUMENT; it is something else.
    """
    name = query.get("envelope", ["none"])[-1]
    encode = _ENVELOPES.get(name)
    if encode is None:
        known = " and ".join(_ENVELOPES)
        raise PlaneError(
            Code.INVALID_ARGUMENT, f"envelope={name[:80]} is not known; there are {known}"
        )
    return encode


def publication(query: Query) -> Publication | None:
    """What ``publisher`` and ``number`` name a publication; ``None`` where neither is there.

    Raises:
        PlaneError: INVALID_ARGUMENT; only one is there, or they name nothing.
    """
    publisher = query.get("publisher", [None])[-1]
    text = query.get("number", [None])[-1]
    if text is not None and not _NUMBER.fullmatch(text):
        raise PlaneError(
            Code.INVALID_ARGUMENT,
            f"number={text[:80]} is not the number of a publication; give one from 0 to 2**63 - 1",
        )
    return Publication.of(publisher, None if text is None else int(text))


def flag(query: Query, name: str) -> bool:
    """Whether a parameter is set: ``true``, ``1`` or nothing after its name.

    Raises:
        PlaneError: INVALID_ARGUMENT; it has another value.
    """
    text = query.get(name, ["false"])[-1]
    if text in ("", "1", "true"):
        return True
    if text in ("0", "false"):
        return False
    raise PlaneError(Code.INVALID_ARGUMENT, f"{name}={text[:80]} is neither true nor false")


def _time_ns(text: str) -> int | None:
    try:
        seconds = Decimal(text) if len(text) <= 40 else None
    except InvalidOperation:
        seconds = None
    if seconds is not None:
        if not seconds.is_finite() or not 0 <= seconds < _MAX_SECONDS:
            return None
        return int(seconds * 1_000_000_000)
    time = Timestamp()
    try:
        time.FromJsonString(text)
    except ValueError:
        return None
    return max(time.ToNanoseconds(), 0)
