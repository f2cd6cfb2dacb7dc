"""Calls whose messages travel in envelopes: what Connect streams and gRPC-Web have in common.

A `Dialect` says what differs: names of headers, how the bytes of the body become frames, and what
ends the stream.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any, Protocol

from protoplane_base import Code, MethodKind, MethodSpec, PlaneError
from protoplane_base.services import Metadata
from protoplane_server.http.asgi import Exchange, Headers, Receive
from protoplane_server.http.compression import (
    MIN_BYTES,
    accepts_gzip,
    compress,
    decompress,
    encoding_of,
)
from protoplane_server.http.departure import Departure
from protoplane_server.http.envelope import COMPRESSED, EnvelopeReader, envelope
from protoplane_server.http.messages import decode, encode
from protoplane_server.http.state import DoorState


class Dialect(Protocol):
    """One protocol of enveloped messages.

    Attributes:
        content_type: Of the response.
        json: Whether messages are JSON; else protobuf.
        encoding_header: Header that names the compression of messages.
        accept_header: Header that names the compressions a client takes.
        reserved_flags: Flags that no message of a client may have.
    """

    content_type: bytes
    json: bool
    encoding_header: bytes
    accept_header: bytes
    reserved_flags: int

    def timeout_s(self, headers: dict[bytes, bytes]) -> float | None:
        """Seconds that the client allows."""
        ...

    def unwrap(self, data: bytes) -> bytes:
        """The next piece of the body as bytes of frames."""
        ...

    def wrap(self, frames: bytes) -> bytes:
        """Frames as a piece of the response's body."""
        ...

    def end(self, error: PlaneError | None, trailers: Metadata) -> bytes:
        """The frame that ends the response."""
        ...


class Inbox:
    """The messages of a request, read as they arrive and no further ahead than one message's size.

    It alone calls ``receive``, so it also learns that the client is gone.
    """

    def __init__(
        self, receive: Receive, method: MethodSpec[Any, Any], dialect: Dialect, max_bytes: int
    ) -> None:
        self._receive = receive
        self._method = method
        self._dialect = dialect
        self._max_bytes = max_bytes
        self._reader = EnvelopeReader(max_bytes)
        self._frames: deque[tuple[int, bytes]] = deque()
        self._held = 0
        self._done = False
        self._failure: PlaneError | None = None
        self._changed = asyncio.Event()
        self._room = asyncio.Event()

    async def watch(self) -> None:
        """Read until the client is gone."""
        while (message := await self._receive())["type"] != "http.disconnect":
            if self._done:
                continue
            try:
                self._take(message.get("body", b""), last=not message.get("more_body", False))
            except PlaneError as error:
                self._failure, self._done = error, True
            self._changed.set()
            while self._held > self._max_bytes and not self._done:
                self._room.clear()
                await self._room.wait()

    def _take(self, body: bytes, *, last: bool) -> None:
        for frame in self._reader.feed(self._dialect.unwrap(body)):
            self._frames.append(frame)
            self._held += len(frame[1])
        if last:
            self._done = True
            self._reader.finish()

    async def messages(self, *, gzip: bool) -> AsyncIterator[Any]:
        """Give each message, decoded.

        Raises:
            PlaneError: The body, or a message in it, is at fault.
        """
        while True:
            while self._frames:
                flags, payload = self._frames.popleft()
                self._held -= len(payload)
                self._room.set()
                yield self._decode(flags, payload, gzip=gzip)
            if self._failure is not None:
                raise self._failure
            if self._done:
                return
            self._changed.clear()
            await self._changed.wait()

    def _decode(self, flags: int, payload: bytes, *, gzip: bool) -> Any:
        if flags & self._dialect.reserved_flags:
            raise PlaneError(
                Code.INVALID_ARGUMENT, f"a frame has the flags {flags:#04x}; a message has 0 or 1"
            )
        if flags & COMPRESSED:
            if not gzip:
                raise PlaneError(
                    Code.INTERNAL,
                    "a message is marked as compressed, but "
                    f"{self._dialect.encoding_header.decode()} names no compression",
                )
            payload = decompress(payload, self._max_bytes)
        return decode(self._method, payload, json=self._dialect.json)


async def serve_framed(
    exchange: Exchange, state: DoorState, method: MethodSpec[Any, Any], dialect: Dialect
) -> None:
    """Serve one call of any kind; an error is its last frame, under HTTP status 200."""
    headers: Headers = [(b"content-type", dialect.content_type)]
    gzip_out = accepts_gzip(exchange.headers.get(dialect.accept_header))
    if gzip_out:
        headers.append((dialect.encoding_header, b"gzip"))
    failure: PlaneError | None = None
    trailers: Metadata = {}
    inbox = Inbox(exchange.receive, method, dialect, state.max_bytes)
    departure = Departure(state, inbox.watch, at_once=True)
    try:
        with departure:
            timeout_s = dialect.timeout_s(exchange.headers)
            gzip_in = encoding_of(exchange.headers.get(dialect.encoding_header))
            context = state.dispatcher.begin(method, state.call_info(exchange, timeout_s))
            trailers = context.trailers
            await exchange.start(200, headers)
            requests = inbox.messages(gzip=gzip_in)
            async with aclosing(_responses(state, method, context, requests)) as responses:
                async for response in responses:
                    payload = encode(method, response, state.max_bytes, json=dialect.json)
                    flags = 0
                    if gzip_out and len(payload) >= MIN_BYTES:
                        flags, payload = COMPRESSED, compress(payload)
                    await exchange.write(dialect.wrap(envelope(flags, payload)))
    except PlaneError as error:
        failure = error
    if departure.gone:
        return
    if not exchange.started:
        await exchange.start(200, headers)
    await exchange.finish(dialect.wrap(dialect.end(failure, trailers)))


async def _responses(
    state: DoorState, method: MethodSpec[Any, Any], context: Any, requests: AsyncIterator[Any]
) -> AsyncGenerator[Any, None]:
    if method.kind.client_streaming:
        request: Any = requests
    else:
        request = await _only(requests, state.body_timeout_s)
    if method.kind in (MethodKind.UNARY, MethodKind.CLIENT_STREAM):
        yield await state.dispatcher.unary(context, request)
        return
    async with aclosing(state.dispatcher.stream(context, request)) as responses:
        async for response in responses:
            yield response


async def _only(requests: AsyncIterator[Any], timeout_s: float) -> Any:
    try:
        async with asyncio.timeout(timeout_s):
            found = [request async for request in requests]
    except TimeoutError:
        raise PlaneError(
            Code.DEADLINE_EXCEEDED, f"the body did not arrive within {timeout_s:g} s"
        ) from None
    if len(found) != 1:
        raise PlaneError(
            Code.UNIMPLEMENTED, f"the rpc takes exactly one message; the body holds {len(found)}"
        )
    return found[0]
