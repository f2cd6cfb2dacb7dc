"""The part of ASGI that the door speaks (https://asgi.readthedocs.io/en/latest/specs/www.html)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, Protocol, TypeAlias, runtime_checkable

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers: TypeAlias = list[tuple[bytes, bytes]]


WHOLE = "protoplane.whole"
"""Says in the head of a response that all of its body comes right behind it."""

_KEPT = ("type", "method", "client", "http_version", "protoplane.transport")
"""What of a scope the server and an `Exchange` need until the response ends."""


@runtime_checkable
class TellsLoss(Protocol):
    """A server's protocol that tells when its connection is lost.

    Attributes:
        lost: Called once then.
    """

    lost: Callable[[], None] | None


class Exchange:
    """One HTTP request and what answers it.

    Attributes:
        scope: ASGI's description of the request.
        receive: Gives the request's body, then word that the client is gone.
        send: Takes the response.
        headers: Request headers by lower-case name; of a repeated one, the last.
        started: Whether the response's head has left.
    """

    __slots__ = ("_send", "headers", "receive", "scope", "started")

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.receive = receive
        self._send = send
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.started = False

    @property
    def peer(self) -> str:
        """Address of the client."""
        client = self.scope.get("client")
        return f"{client[0]}:{client[1]}" if client else "unknown"

    @property
    def unsent(self) -> int | None:
        """Bytes of the response that wait for the socket; ``None`` where the server hides that."""
        transport: asyncio.WriteTransport | None = self.scope.get("protoplane.transport")
        return None if transport is None else transport.get_write_buffer_size()

    def abort(self) -> bool:
        """Close the connection and drop what it was to be sent; the client then counts as gone.

        Returns:
            Whether the server can do that.
        """
        transport: asyncio.WriteTransport | None = self.scope.get("protoplane.transport")
        if transport is None:
            return False
        transport.abort()
        return True

    def when_lost(self, call: Callable[[], None] | None) -> bool:
        """Have something called once the connection is lost, or with ``None`` no more.

        Only one at a time; it takes less than to wait for that word.

        Returns:
            Whether the server does that; where not, `receive` tells.
        """
        transport: asyncio.Transport | None = self.scope.get("protoplane.transport")
        # One that is closing may have told of its end already.
        if transport is None or transport.is_closing():
            return False
        protocol = transport.get_protocol()
        if not isinstance(protocol, TellsLoss):
            return False
        protocol.lost = call
        return True

    @property
    def has_body(self) -> bool:
        """Whether the request comes with a body."""
        length = self.headers.get(b"content-length", b"0")
        return length != b"0" or b"transfer-encoding" in self.headers

    def forget_request(self) -> None:
        """Give back the memory of what was asked, for a response that lasts."""
        scope = self.scope
        if "protoplane.transport" in scope:
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

    async def answer(self, status: int, headers: Headers, body: bytes) -> None:
        """Send a whole response."""
        self.started = True
        headers.append((b"content-length", b"%d" % len(body)))
        await self._head(status, headers, whole=True)
        await self._send({"type": "http.response.body", "body": body})

    async def _head(self, status: int, headers: Headers, *, whole: bool = False) -> None:
        if self.scope.get("http_version") == "2":
            # There it is an error (RFC 9113, section 8.2.2).
            headers = [each for each in headers if each[0] != b"connection"]
        head: Message = {"type": "http.response.start", "status": status, "headers": headers}
        if whole:
            head[WHOLE] = True
        await self._send(head)
