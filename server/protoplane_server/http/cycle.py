"""One request over HTTP/1.1 and its answer: uvicorn's, with ways that are shorter than ASGI's.

Most requests come whole in one read of the socket, and most answers are one message. For those
ASGI means several messages and waits each way, which together take more than the call itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from uvicorn._types import HTTPScope
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import (
    HEADER_RE,
    HEADER_VALUE_RE,
    STATUS_LINE,
    RequestResponseCycle,
)

from protoplane_server.http.asgi import Headers, Response

if TYPE_CHECKING:
    from protoplane_server.http.guard import GuardedProtocol

_CLOSE = b"connection: close\r\n"
_LENGTH = b"content-length: %d\r\n\r\n"
_COPIED_BYTES = 1 << 16
"""Largest body that is copied behind its head, so that both leave in one write."""


class Cycle(RequestResponseCycle):
    """Offers an exchange what `protoplane_server.http.asgi.Near` says.

    Attributes:
        lost: Called once when the connection is lost.
    """

    lost: Callable[[], None] | None = None

    # What a request begins with; kept here, it takes no time and no memory of each.
    access_log = False
    disconnected = False
    more_body = True
    response_started = False
    response_complete = False
    chunked_encoding: bool | None = None
    expected_content_length = 0

    def __init__(
        self,
        protocol: GuardedProtocol,
        scope: HTTPScope,
        *,
        keep_alive: bool,
        waits_for_100: bool,
    ) -> None:
        self.scope = scope
        self.transport = protocol.transport
        self.flow = protocol.flow
        self.logger = protocol.logger
        self.default_headers = protocol.server_state.default_headers
        self.message_event = SmallEvent()
        self.on_response = protocol.on_response_complete
        self.keep_alive = keep_alive
        self.waiting_for_100_continue = waits_for_100
        self.body = bytearray()

    def take_body(self) -> bytes | None:
        """Take all of the body, where all of it has come and none has been read."""
        if self.more_body or self.disconnected or self.response_complete:
            return None
        body = bytes(self.body)
        self.body = bytearray()
        self.message_event.clear()
        self.flow.resume_reading()
        return body

    def when_lost(self, call: Callable[[], None]) -> bool:
        """Have something called once the connection is lost; tells whether it is still there."""
        if self.disconnected:
            return False
        self.lost = call
        # Of a socket that is not read, nobody would learn that the client is gone.
        self.flow.resume_reading()
        return True

    async def answer(self, status: int, headers: Headers, body: bytes) -> None:
        """Send a whole response; ``headers`` say nothing of its length.

        Raises:
            RuntimeError: There was a response already, or a header has bytes that none can have.
        """
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        self.respond(status, headers, body)

    def respond(self, status: int, headers: Headers, body: bytes) -> None:
        """Send a whole response at once, whatever waits for the socket already.

        Raises:
            RuntimeError: As `answer`.
        """
        if self.disconnected:
            return
        if self.response_started:
            raise RuntimeError("a second response to one request")
        write_response(
            self.transport,
            (status, headers, body),
            self.default_headers,
            keep_alive=self.keep_alive,
            head_alone=self.scope["method"] == "HEAD",
        )
        self.response_started = self.response_complete = True
        self.waiting_for_100_continue = False
        self.message_event.set()
        self.on_response()


def write_response(
    transport: asyncio.Transport,
    response: Response,
    default_headers: Headers,
    *,
    keep_alive: bool = True,
    head_alone: bool = False,
) -> None:
    """Write a whole response, and close the connection where that is its end.

    Args:
        transport: The connection.
        response: The response.
        default_headers: Headers that it has besides its own.
        keep_alive: Whether the connection may go on.
        head_alone: Whether the body is only told of.

    Raises:
        RuntimeError: A header has bytes that none can have.
    """
    status, headers, body = response
    head, closes = _head(status, (*default_headers, *headers))
    closes = closes or not keep_alive
    if closes:
        head += _CLOSE
    head += _LENGTH % len(body)
    if head_alone:
        transport.write(head)
    elif len(body) <= _COPIED_BYTES:
        transport.write(head + body)
    else:
        transport.write(head)
        transport.write(body)
    if closes:
        transport.close()


# Nearly all answers have the head of the one before.
@lru_cache(maxsize=64)
def _head(status: int, headers: tuple[tuple[bytes, bytes], ...]) -> tuple[bytes, bool]:
    """The head of a response as far as it says nothing of the body or the connection.

    Returns:
        The head, and whether the connection is to be closed.
    """
    lines = [STATUS_LINE[status]]
    closes = False
    for name, value in headers:
        if HEADER_RE.search(name) or HEADER_VALUE_RE.search(value):
            raise RuntimeError(f"{name!r}: {value!r} is no header")
        if name == b"connection":
            closes = closes or b"close" in value
        else:
            lines.append(b"%s: %s\r\n" % (name, value))
    return b"".join(lines), closes


class SmallEvent(asyncio.Event):
    """One that has no list of waiters before somebody waits.

    A deque takes ten times the memory, also while empty; and to be made at all takes long, when
    that runs Python.
    """

    __init__ = object.__init__

    _value = False
    _waiters: Any = ()

    async def wait(self) -> Literal[True]:
        """Wait until it is set."""
        if not self._waiters:
            self._waiters = []
        return await super().wait()


class SmallFlow(FlowControl):
    """As uvicorn's, with a small event."""

    def __init__(self, transport: asyncio.Transport) -> None:
        super().__init__(transport)
        self._is_writable_event = SmallEvent()
        self._is_writable_event.set()
