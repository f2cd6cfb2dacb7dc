"""The event plane over HTTP: ``GET /events/<key expression>`` and ``POST /events/<key>``.

A subscriber is a place in the log and nothing else. The log gives readers that stand at the same
place the same batch, whose bytes are made once and leave in one send; there is no queue for each
client, so a slow one holds nothing up and holds nothing back: it falls behind in the log, and is
told by a ``gap`` event when its place is no longer kept. `event_feed` does the sending.
"""

from __future__ import annotations

import json
from collections.abc import Coroutine, Sequence
from urllib.parse import parse_qs, unquote

from pydantic import ValidationError

from protoplane_base import Code, DecodeError, EventSpec, PlaneError, UnknownTypeError, message_type
from protoplane_base.services import ServiceSpec
from protoplane_runtime.engines.interface import Start
from protoplane_server.errors import from_decode_error
from protoplane_server.http.asgi import Exchange
from protoplane_server.http.body import read_body
from protoplane_server.http.event_feed import feed
from protoplane_server.http.event_query import (
    beginning,
    envelope,
    flag,
    key_expressions,
    publication,
)
from protoplane_server.http.faults import HttpError
from protoplane_server.http.state import DoorState

PREFIX = "/events/"
TYPE_HEADER = b"protoplane-type"


class EventDoor:
    """Serves the log of one dispatcher.

    Args:
        state: The door's state.
        services: Services whose events can be published without saying their type.
    """

    def __init__(self, state: DoorState, services: Sequence[ServiceSpec]) -> None:
        self._state = state
        self._known = _Known(services)

    def serve(self, exchange: Exchange) -> Coroutine[None, None, None]:
        """Serve a request whose path starts with ``/events/``."""
        scope = exchange.scope
        key = unquote(scope["raw_path"].decode("latin-1")[len(PREFIX) :])
        query = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        verb = scope["method"]
        if verb == "GET":
            return self._subscribe(exchange, key, query)
        if verb == "POST":
            return self._publish(exchange, key, query)
        raise HttpError(
            405,
            Code.UNIMPLEMENTED,
            "events are read with GET and published with POST",
            [(b"allow", b"GET, POST")],
        )

    def _subscribe(
        self, exchange: Exchange, expression: str, query: dict[str, list[str]]
    ) -> Coroutine[None, None, None]:
        log = self._state.dispatcher.events
        begin = beginning(exchange.headers.get(b"last-event-id"), query)
        encode = envelope(query)
        last = log.last
        # Other processes may publish between these two lines, so "now" is the id that is said.
        batches = log.read(
            key_expressions(expression, query),
            after=last if begin.after is Start.NOW else begin.after,
            latest=flag(query, "latest"),
        )
        # Not awaited here: a frame less for each subscriber.
        return feed(exchange, self._state, batches, encode, opening_id=begin.text or str(last))

    async def _publish(self, exchange: Exchange, key: str, query: dict[str, list[str]]) -> None:
        name = publication(query)
        named = query.get("type", [""])[-1] or exchange.headers.get(TYPE_HEADER, b"").decode(
            "latin-1"
        )
        type_ = named or self._known.type_of(key)
        try:
            codec = message_type(type_)
        except UnknownTypeError as error:
            raise PlaneError(Code.INVALID_ARGUMENT, str(error)) from None
        body = await read_body(exchange, self._state)
        try:
            if exchange.headers.get(b"content-type", b"").startswith(b"application/proto"):
                event = codec.from_bytes(body)
            else:
                event = codec.model_validate_json(body)
        except (ValidationError, DecodeError) as error:
            raise from_decode_error(error) from None
        spec: EventSpec | None = getattr(codec, "__event__", None)
        event_id = await self._state.dispatcher.events.publish(
            key,
            type_,
            codec.to_bytes(event),
            codec.model_dump_json(event),
            durable=spec is not None and spec.durable,
            publication=name,
        )
        answer = json.dumps({"id": str(event_id)}, separators=(",", ":")).encode()
        await exchange.answer(200, [(b"content-type", b"application/json")], answer)


class _Known:
    """The types of events by the keys that their schemas give them."""

    def __init__(self, services: Sequence[ServiceSpec]) -> None:
        self._segments: dict[str, list[str]] = {}
        for service in services:
            for event in service.events:
                spec: EventSpec | None = event.__event__
                if spec is not None:
                    name: str = event.__pb__.DESCRIPTOR.full_name
                    self._segments[name] = spec.key.text.split("/")

    def type_of(self, key: str) -> str:
        """The one type whose keys look like ``key``.

        Raises:
            PlaneError: INVALID_ARGUMENT where there is none, or more than one.
        """
        parts = key.split("/")
        found = [
            name
            for name, segments in self._segments.items()
            if len(segments) == len(parts)
            and all("{" in mine or mine == part for mine, part in zip(segments, parts, strict=True))
        ]
        if len(found) == 1:
            return found[0]
        which = f"{len(found)} types have such keys" if found else "no known type has such keys"
        raise PlaneError(
            Code.INVALID_ARGUMENT,
            f"what is published under {key!r}? {which}; "
            "say ?type=<full message name>, or send it as the header protoplane-type",
        )
