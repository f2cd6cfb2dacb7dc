"""What the parts of the door share: the dispatcher, the limits, and whether it is closing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
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
        max_bytes: Largest message that is taken.
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
    max_bytes: int = field(init=False)
    _loop: asyncio.AbstractEventLoop | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.max_bytes = self.dispatcher.limits.max_message_bytes

    def task(self) -> asyncio.Task[object]:
        """The task that runs."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        # Told the loop, it answers several times faster.
        task = asyncio.current_task(self._loop)
        assert task is not None
        return task

    def call_info(self, exchange: Exchange, timeout_s: float | None) -> CallInfo:
        """What the dispatcher is told of a request."""
        headers = exchange.headers
        metadata = RequestMetadata(exchange.scope["headers"], headers)
        return CallInfo("http", exchange.peer, metadata, timeout_s, request_id_of(headers))


def request_id_of(headers: Mapping[bytes, bytes]) -> str:
    """What a client calls its request; empty where it says nothing that could be read."""
    request_id = headers.get(b"x-request-id")
    return request_id.decode() if request_id and request_id.isascii() else ""
