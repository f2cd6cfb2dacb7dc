"""Calls over HTTP, by the Connect protocol.

HTTP/1.1 carries one direction at a time: a bidirectional call sends all its requests before it
reads the first answer. Requests that depend on answers need gRPC.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator
from time import monotonic
from typing import Any, TypeVar

import httpx

from protoplane_base import CallOptions, Code, MethodSpec, PlaneError
from protoplane_client.backoff import Backoff
from protoplane_client.calls import Outgoing, decode, encode, full_metadata
from protoplane_client.connect_protocol import (
    COMPRESSED,
    END_STREAM,
    EnvelopeReader,
    envelope,
    error_of_end,
    error_of_response,
    headers_of,
    too_large,
)
from protoplane_client.connection import Connection
from protoplane_client.grpc_channel import DEFAULT_MAX_MESSAGE_BYTES
from protoplane_client.http_session import HttpSession, deadline
from protoplane_client.route import ConnectionState, ConnectionStats
from protoplane_runtime.calling import outgoing_timeout_s
from protoplane_runtime.link.errors import UnsentError

_Req = TypeVar("_Req")
_Res = TypeVar("_Res")

_MAX_ERROR_BYTES = 1 << 20


class HttpChannel:
    """A `Route` that speaks the Connect protocol, over as many connections as it has calls.

    Args:
        session: Where to; `aclose` closes it.
        max_message_bytes: Largest answer that is accepted; beyond it, RESOURCE_EXHAUSTED.
        encoding: What messages are called on the wire. With ``json``, the codecs of the methods
            must give and take JSON as their bytes.
        name: The instance at this address; the address itself where absent.
    """

    def __init__(
        self,
        session: HttpSession,
        *,
        max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES,
        encoding: str = "proto",
        name: str | None = None,
    ) -> None:
        self._session = session
        self._name = name or session.base_url
        self._connection = Connection()
        self._backoff = Backoff()
        self._redial_at = 0.0
        self._limit = max_message_bytes
        self._unary_type = f"application/{encoding}"
        self._stream_type = f"application/connect+{encoding}"

    @property
    def name(self) -> str:
        """The instance that it leads to, or its address."""
        return self._name

    @property
    def state(self) -> ConnectionState:
        """How the last call found the server.

        Each call connects as it needs, so nothing reconnects in between: after a connection that
        could not be made, this is RECONNECTING for the time of a backoff, then DISCONNECTED.
        """
        connection = self._connection
        if self._session.closed:
            connection.move(ConnectionState.FAILED)
        elif connection.state is ConnectionState.RECONNECTING and monotonic() >= self._redial_at:
            connection.move(ConnectionState.DISCONNECTED)
        return connection.state

    @property
    def stats(self) -> ConnectionStats:
        """What was counted, without what HTTP puts around messages."""
        return self._connection.stats

    @property
    def outstanding(self) -> int:
        """Calls that are open."""
        return self._connection.outstanding

    @property
    def draining(self) -> bool:
        """Never: HTTP has no way to say so ahead of a call."""
        return False

    async def aclose(self) -> None:
        """Cancel what is open and close all connections; closing twice does nothing."""
        await self._session.aclose()

    async def unary(
        self, method: MethodSpec[_Req, _Res], request: _Req, options: CallOptions
    ) -> _Res:
        """One message there, one back; see `protoplane_base.Channel`."""
        data = encode(method, request)
        at, timeout_s = _deadline(options)
        outgoing = self._request(method, data, self._unary_type, options, timeout_s)
        connection = self._connection
        connection.sent(data)
        connection.outstanding += 1
        try:
            with deadline(at, timeout_s), self._session.errors():
                async with asyncio.timeout_at(at):
                    response = await self._send(outgoing)
                    try:
                        body = await self._body(response)
                    finally:
                        await response.aclose()
        finally:
            connection.outstanding -= 1
        if response.status_code != 200:
            raise error_of_response(response.status_code, body)
        self._check_type(response, self._unary_type)
        return decode(method, connection.received(body))

    async def server_stream(
        self, method: MethodSpec[_Req, _Res], request: _Req, options: CallOptions
    ) -> AsyncIterator[_Res]:
        """One message there, any number back; the call starts when the first is asked for."""
        body = envelope(self._connection.sent(encode(method, request)))
        async for answer in self._answers(method, body, options):
            yield answer

    async def client_stream(
        self,
        method: MethodSpec[_Req, _Res],
        requests: AsyncIterable[_Req],
        options: CallOptions,
    ) -> _Res:
        """Any number there, one back; an error of ``requests`` ends the call and is raised."""
        answers = [answer async for answer in self.bidi_stream(method, requests, options)]
        if len(answers) != 1:
            raise PlaneError(
                Code.INTERNAL, f"{method.path} answered with {len(answers)} messages, not with one"
            )
        return answers[0]

    async def bidi_stream(
        self,
        method: MethodSpec[_Req, _Res],
        requests: AsyncIterable[_Req],
        options: CallOptions,
    ) -> AsyncIterator[_Res]:
        """Any number there, then any number back: all requests leave before an answer is read.

        Requests that wait for answers would wait for ever; such a call needs ``timeout_s``, or
        better a gRPC target.
        """
        outgoing = Outgoing(method, requests)

        async def body() -> AsyncIterator[bytes]:
            async for data in outgoing.encoded():
                yield envelope(self._connection.sent(data))

        try:
            async for answer in self._answers(method, body(), options):
                yield answer
        except PlaneError as error:
            if outgoing.error is not None:
                raise outgoing.error from error
            if error.code is Code.DEADLINE_EXCEEDED and not outgoing.done:
                raise PlaneError(
                    error.code,
                    f"{error.message}, and its requests had not ended; over HTTP/1.1 all requests "
                    "are sent before the first answer is read, so requests that depend on "
                    "answers need a grpc:// target",
                ) from error
            raise

    def _request(
        self,
        method: MethodSpec[Any, Any],
        content: bytes | AsyncIterator[bytes],
        content_type: str,
        options: CallOptions,
        timeout_s: float | None,
    ) -> httpx.Request:
        self._session.require_open()
        headers = headers_of(full_metadata(options))
        headers += [("content-type", content_type), ("connect-protocol-version", "1")]
        if content_type == self._stream_type:
            headers.append(("accept-encoding", "identity"))
        if timeout_s is not None:
            headers.append(
                ("connect-timeout-ms", str(max(0, min(round(timeout_s * 1000), 10**10 - 1))))
            )
        with self._session.errors():
            return self._session.client.build_request(
                "POST", method.path, content=content, headers=headers
            )

    async def _answers(
        self,
        method: MethodSpec[Any, _Res],
        body: bytes | AsyncIterator[bytes],
        options: CallOptions,
    ) -> AsyncIterator[_Res]:
        at, timeout_s = _deadline(options)
        outgoing = self._request(method, body, self._stream_type, options, timeout_s)
        reader = EnvelopeReader(self._limit)
        connection = self._connection
        connection.outstanding += 1
        response: httpx.Response | None = None
        try:
            with deadline(at, timeout_s), self._session.errors():
                async with asyncio.timeout_at(at):
                    response = await self._send(outgoing)
            if response.status_code != 200:
                with self._session.errors():
                    raise error_of_response(response.status_code, await self._body(response))
            self._check_type(response, self._stream_type)
            chunks = response.aiter_raw()
            while True:
                # The deadline is set anew for each wait: the caller's own work in between must
                # not be cancelled by it.
                with deadline(at, timeout_s), self._session.errors():
                    async with asyncio.timeout_at(at):
                        chunk = await anext(chunks, None)
                if chunk is None:
                    raise PlaneError(
                        Code.UNAVAILABLE,
                        f"{method.path}: the stream broke off without saying how it ended",
                    )
                for flags, data in reader.feed(chunk):
                    if flags & COMPRESSED:
                        raise PlaneError(
                            Code.INTERNAL, f"{method.path}: compressed, which was not asked for"
                        )
                    if flags & END_STREAM:
                        error = error_of_end(data)
                        if error is not None:
                            raise error
                        # Read on to the end, so that the connection can be used again.
                        with self._session.errors():
                            await anext(chunks, None)
                        return
                    yield decode(method, connection.received(data))
        finally:
            connection.outstanding -= 1
            if response is not None:
                await response.aclose()

    async def _send(self, request: httpx.Request) -> httpx.Response:
        """Send a request, and note whether there is a connection."""
        try:
            with self._session.errors():
                response = await self._session.client.send(request, stream=True)
        except UnsentError:
            self._connection.move(ConnectionState.RECONNECTING)
            self._redial_at = monotonic() + self._backoff.next_s()
            raise
        self._connection.move(ConnectionState.CONNECTED)
        self._backoff.reset()
        return response

    async def _body(self, response: httpx.Response) -> bytes:
        limit = self._limit if response.status_code == 200 else _MAX_ERROR_BYTES
        announced = response.headers.get("content-length", "")
        if announced.isdigit() and int(announced) > limit:
            raise too_large(int(announced), limit)
        body = bytearray()
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) > limit:
                raise too_large(len(body), limit)
        return bytes(body)

    def _check_type(self, response: httpx.Response, expected: str) -> None:
        found = str(response.headers.get("content-type", "")).partition(";")[0].strip()
        if found != expected:
            raise PlaneError(
                Code.UNKNOWN,
                f"{self._session.base_url} answered with {found or 'no content type'}, not with "
                f"{expected}; does it speak the Connect protocol?",
            )


def _deadline(options: CallOptions) -> tuple[float | None, float | None]:
    """Loop time at which a call must be over, and how many seconds that leaves it."""
    timeout_s = outgoing_timeout_s(options.get("timeout_s"))
    at = None if timeout_s is None else asyncio.get_running_loop().time() + timeout_s
    return at, timeout_s
