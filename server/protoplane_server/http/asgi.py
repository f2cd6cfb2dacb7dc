"""The part of ASGI that the door speaks (https://asgi.readthedocs.io/en/latest/specs/www.html)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, MutableMapping
from typing import Any, Protocol, TypeAlias

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers: TypeAlias = list[tuple[bytes, bytes]]
Response: TypeAlias = tuple[int, Headers, bytes]
"""A whole response: status, headers that say nothing of its length, and body."""


NEAR = "protoplane.near"
"""Where a scope has a server's `Near`, until an `Exchange` takes it."""

_KEPT = ("type", "method", "client", "http_version")
"""What of a scope the server and an `Exchange` need until the response ends."""


class Near(Protocol):
    """What our own server does for a request beside ASGI.

    Attributes:
        transport: The connection.
        default_headers: Headers that every response to the request has.
        lost: Called once when the connection is lost.
    """

    transport: asyncio.Transport
    default_headers: Headers
    lost: Callable[[], None] | None

    def take_body(self) -> bytes | None:
        """Take all of the request's body.

        Returns:
            The body; ``None`` where not all of it has come yet, and then it is still to be read.
        """
        ...

    def when_lost(self, call: Callable[[], None]) -> bool:
        """Have something called once the connection is lost; it takes less than to wait for that.

        Returns:
            Whether the connection is still there.
        """
        ...

    def answer(self, status: int, headers: Headers, body: bytes) -> Coroutine[None, None, None]:
        """Send a whole response; ``headers`` say nothing of its length."""
        ...


class Exchange:
    """One HTTP request and what answers it.

    Attributes:
        near: What the server does beside ASGI; ``None`` where it is another than ours.
        scope: ASGI's description of the request.
        receive: Gives the request's body, then word that the client is gone.
        send: Takes the response.
        headers: Request headers by lower-case name; of a repeated one, the last.
        started: Whether the response's head has left.
    """

    __slots__ = ("_send", "headers", "near", "receive", "scope", "started")

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.receive = receive
        self._send = send
        self.near: Near | None = scope.pop(NEAR, None)
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.started = False

    @property
    def peer(self) -> str:
        """Address of the client."""
        return peer_of(self.scope)

    @property
    def unsent(self) -> int | None:
        """Bytes of the response that wait for the socket; ``None`` where the server hides that."""
        near = self.near
        return None if near is None else near.transport.get_write_buffer_size()

    def abort(self) -> bool:
        """Close the connection and drop what it was to be sent; the client then counts as gone.

        Returns:
            Whether the server can do that.
        """
        if self.near is None:
            return False
        self.near.transport.abort()
        return True

    @property
    def has_body(self) -> bool:
        """Whether the request comes with a body."""
        length = self.headers.get(b"content-length", b"0")
        return length != b"0" or b"transfer-encoding" in self.headers

    def forget_request(self) -> None:
        """Give back the memory of what was asked, for a response that lasts."""
        scope = self.scope
        if self.near is not None:
            self.headers.clear()
            scope["headers"].clear()
            kept = {name: scope[name] for name in _KEPT if name in scope}
            scope.clear()
            scope.update(kept)

    async def start(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Send the head of a response whose body follows."""
        self.started = True
        await self._head(status, list(headers))

    async def write(self, body: bytes) -> None:
        """Send a piece of the body; waits while the client is slow to take what it was sent."""
        await self._send({"type": "http.response.body", "body": body, "more_body": True})

    async def finish(self, body: bytes = b"") -> None:
        """Send the last piece of the body."""
        await self._send({"type": "http.response.body", "body": body})

    def answer(self, status: int, headers: Headers, body: bytes) -> Coroutine[None, None, None]:
        """Send a whole response."""
        self.started = True
        near = self.near
        return (
            self._answer(status, headers, body)
            if near is None
            else near.answer(status, headers, body)
        )

    async def _answer(self, status: int, headers: Headers, body: bytes) -> None:
        headers.append((b"content-length", b"%d" % len(body)))
        await self._head(status, headers)
        await self._send({"type": "http.response.body", "body": body})

    async def _head(self, status: int, headers: Headers) -> None:
        if self.scope.get("http_version") == "2":
            # There it is an error (RFC 9113, section 8.2.2).
            headers = [each for each in headers if each[0] != b"connection"]
        await self._send({"type": "http.response.start", "status": status, "headers": headers})


def peer_of(scope: Scope) -> str:
    """Address of the client."""
    client = scope.get("client")
    return f"{client[0]}:{client[1]}" if client else "unknown"
