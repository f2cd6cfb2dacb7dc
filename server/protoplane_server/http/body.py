"""Reads the body of a request that holds one message, within bounds of size and time."""

from __future__ import annotations

import asyncio

from protoplane_base import Code
from protoplane_server.http.asgi import Exchange, Headers
from protoplane_server.http.compression import decompress, encoding_of
from protoplane_server.http.departure import Disconnected
from protoplane_server.http.faults import HttpError, too_large
from protoplane_server.http.state import DoorState

_CLOSE = [(b"connection", b"close")]


def body_at_hand(exchange: Exchange, state: DoorState) -> bytes | None:
    """Take the body where all of it has come already, as is usual for small ones.

    Returns:
        The body; ``None`` where it is left to `read_body`.

    Raises:
        PlaneError: RESOURCE_EXHAUSTED where it is too large.
    """
    if exchange.near is None or b"content-encoding" in exchange.headers:
        return None
    body = exchange.near.take_body()
    if body is not None and len(body) > state.max_bytes:
        raise too_large("the body", state.max_bytes)
    return body


async def read_body(exchange: Exchange, state: DoorState, *, encoded: bool = True) -> bytes:
    """Read the whole body, and undo its ``content-encoding`` where ``encoded`` says to.

    Raises:
        PlaneError: RESOURCE_EXHAUSTED where the body is, or says it will be, too large; nothing of
            it has been read in the latter case. DEADLINE_EXCEEDED where it takes too long.
        Disconnected: The client went away first.
    """
    headers = exchange.headers
    max_bytes = state.max_bytes
    gzip = encoded and encoding_of(headers.get(b"content-encoding"))
    body = None if exchange.near is None else exchange.near.take_body()
    if body is None:
        announced = int(headers.get(b"content-length", b"0"))
        if announced > max_bytes:
            raise too_large(f"the body, {announced} bytes,", max_bytes)
        try:
            async with asyncio.timeout(state.body_timeout_s):
                body = await _rest(exchange, max_bytes)
        except TimeoutError:
            raise HttpError(
                408,
                Code.DEADLINE_EXCEEDED,
                f"the body did not arrive within {state.body_timeout_s:g} s",
                _CLOSE,
            ) from None
    if len(body) > max_bytes:
        raise too_large("the body", max_bytes)
    return decompress(body, max_bytes) if gzip else body


def close_unread(exchange: Exchange) -> Headers:
    """The header that ends the connection of a request that is refused with a large body unread.

    Else the server would read the body only to drop it.
    """
    headers = exchange.headers
    unread = b"transfer-encoding" in headers or int(headers.get(b"content-length", b"0")) > 1 << 16
    return [(b"connection", b"close")] if unread else []


async def _rest(exchange: Exchange, max_bytes: int) -> bytes:
    body = bytearray()
    more = True
    while more:
        if len(body) > max_bytes:
            raise too_large("the body", max_bytes)
        message = await exchange.receive()
        if message["type"] == "http.disconnect":
            raise Disconnected
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return bytes(body)
