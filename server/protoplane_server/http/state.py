"""What the parts of the door share: the dispatcher, the limits, and whether it is closing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from protoplane_server.context import CallInfo
from protoplane_server.dispatcher import Dispatcher
from protoplane_server.http.asgi import Exchange
from protoplane_server.http.metadata import RequestMetadata
from protoplane_server.http.reading import Reading
from protoplane_server.http.rounds import Rounds


@dataclass(slots=True, kw_only=True)
class DoorState:
    """State of one HTTP door.

    Attributes:
        dispatcher: Where calls go.
        health: Whether this server is ready for calls.
        body_timeout_s: Longest that the body of a request with one message may take to arrive.
        keep_alive_s: Seconds of silence after which a stream of events sends a comment.
        retry_ms: How long clients of event streams are told to wait before they reconnect.
        closing: Set once the door stops: streams of events end, nothing waits any more.
        calls: Tasks that serve a call now.
        streams: Tasks that serve a subscriber now.
        rounds: Look after event streams.
        reading: Reads requests from JSON.
    """

    dispatcher: Dispatcher
    health: Callable[[], bool]
    body_timeout_s: float = 60.0
    keep_alive_s: float = 15.0
    retry_ms: int = 1000
    closing: asyncio.Event = field(default_factory=asyncio.Event)
    calls: set[asyncio.Task[object]] = field(default_factory=set[asyncio.Task[object]])
    streams: set[asyncio.Task[object]] = field(default_factory=set[asyncio.Task[object]])
    rounds: Rounds = field(default_factory=Rounds)
    reading: Reading = field(default_factory=Reading)

    @property
    def max_bytes(self) -> int:
        """Largest message that is taken."""
        return self.dispatcher.limits.max_message_bytes

    def call_info(self, exchange: Exchange, timeout_s: float | None) -> CallInfo:
        """What the dispatcher is told of a request."""
        request_id = exchange.headers.get(b"x-request-id")
        return CallInfo(
            door="http",
            peer=exchange.peer,
            metadata=RequestMetadata(exchange.scope["headers"]),
            timeout_s=timeout_s,
            request_id=request_id.decode() if request_id and request_id.isascii() else "",
        )
