"""Calls over gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

import grpc
import grpc.aio

from protoplane_base import CallOptions, Code, MethodSpec, PlaneError
from protoplane_client.calls import Outgoing, decode, encode, full_metadata
from protoplane_client.connection import Connection
from protoplane_client.details import unpack_status
from protoplane_client.route import ConnectionState, ConnectionStats
from protoplane_client.tls import Tls, hang_up_hint
from protoplane_client.untyped import UNTYPED
from protoplane_runtime.calling import outgoing_timeout_s
from protoplane_runtime.link.errors import UnsentError

_Req = TypeVar("_Req")
_Res = TypeVar("_Res")

DEFAULT_MAX_MESSAGE_BYTES = 10 * 1024 * 1024
"""Largest message that is accepted unless said otherwise."""


_STATES = {
    grpc.ChannelConnectivity.IDLE: ConnectionState.DISCONNECTED,
    grpc.ChannelConnectivity.CONNECTING: ConnectionState.CONNECTING,
    grpc.ChannelConnectivity.READY: ConnectionState.CONNECTED,
    grpc.ChannelConnectivity.TRANSIENT_FAILURE: ConnectionState.RECONNECTING,
    grpc.ChannelConnectivity.SHUTDOWN: ConnectionState.FAILED,
}
_NO_CONNECTION = "failed to connect to all addresses"


class GrpcChannel:
    """A `Route` over one HTTP/2 connection, opened by the first call and reopened as needed.

    Args:
        address: What gRPC dials: ``host:port`` or ``unix:/path``.
        tls: How to secure it; in the clear where absent.
        max_message_bytes: Largest answer that is accepted; beyond it, RESOURCE_EXHAUSTED.
        keepalive_s: Seconds of silence after which to ping; never where absent. Servers cut off
            who pings more often than they allow.
        name: The instance at this address; the address itself where absent.
        token: Bearer token that goes along with every call.

    Raises:
        OSError: A file of ``tls`` cannot be read.
    """

    def __init__(
        self,
        address: str,
        *,
        tls: Tls | None = None,
        max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES,
        keepalive_s: float | None = None,
        name: str | None = None,
        token: str | None = None,
    ) -> None:
        options: list[tuple[str, Any]] = [
            ("grpc.max_receive_message_length", max_message_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.initial_reconnect_backoff_ms", 100),
            # Not grpc.min_reconnect_backoff_ms: it is also the time that a connection may take.
            ("grpc.max_reconnect_backoff_ms", 30_000),
            # A plane of its own: another channel's backoff is not ours.
            ("grpc.use_local_subchannel_pool", 1),
        ]
        if keepalive_s is not None:
            options += [
                ("grpc.keepalive_time_ms", int(keepalive_s * 1000)),
                ("grpc.http2.max_pings_without_data", 0),
            ]
        if tls is None:
            self._channel = grpc.aio.insecure_channel(address, options)
        else:
            if tls.server_name is not None:
                options.append(("grpc.ssl_target_name_override", tls.server_name))
            self._channel = grpc.aio.secure_channel(address, tls.grpc_credentials(), options)
        self._credentials = [("authorization", f"Bearer {token}")] if token else []
        self.address = address
        self._name = name or address
        self._connection = Connection()
        hint = hang_up_hint(tls, secure=tls is not None, scheme="grpcs")
        self._hint = "" if address.startswith("unix:") else hint
        self._closed = False
        self._calls: dict[str, Any] = {}
        self._untyped_calls: dict[str, Any] = {}

    @property
    def name(self) -> str:
        """The instance that it leads to, or its address."""
        return self._name

    @property
    def state(self) -> ConnectionState:
        """Where the connection stands; gRPC tells of no change that nobody looks for."""
        self._connection.move(_STATES[self._channel.get_state()])
        return self._connection.state

    @property
    def stats(self) -> ConnectionStats:
        """What the connection has counted, without what gRPC puts around messages."""
        self._connection.move(_STATES[self._channel.get_state()])
        return self._connection.stats

    @property
    def outstanding(self) -> int:
        """Calls that are open."""
        return self._connection.outstanding

    @property
    def draining(self) -> bool:
        """Never: gRPC keeps to itself that a server goes away, and reconnects."""
        return False

    async def unary(
        self, method: MethodSpec[_Req, _Res], request: _Req, options: CallOptions
    ) -> _Res:
        """One message there, one back; see `protoplane_base.Channel`."""
        if method.response is UNTYPED:
            return await self._only_answer(method, request, options)
        data = encode(method, request)
        connection = self._connection
        connection.outstanding += 1
        try:
            answer: bytes = await self._call(method, connection.sent(data), options)
        except (grpc.aio.AioRpcError, asyncio.CancelledError) as error:
            raise self._failure(error) from error
        finally:
            connection.outstanding -= 1
        return decode(method, connection.received(answer))

    async def server_stream(
        self, method: MethodSpec[_Req, _Res], request: _Req, options: CallOptions
    ) -> AsyncGenerator[_Res, None]:
        """One message there, any number back; the call starts when the first is asked for."""
        data = encode(method, request)
        call = self._call(method, self._connection.sent(data), options)
        async for answer in self._answers(method, call):
            yield answer

    async def client_stream(
        self,
        method: MethodSpec[_Req, _Res],
        requests: AsyncIterable[_Req],
        options: CallOptions,
    ) -> _Res:
        """Any number there, one back; an error of ``requests`` ends the call and is raised."""
        outgoing = Outgoing(method, requests)
        connection = self._connection
        connection.outstanding += 1
        try:
            data = connection.all_sent(outgoing.encoded())
            answer: bytes = await self._call(method, data, options)
        except (grpc.aio.AioRpcError, asyncio.CancelledError) as error:
            raise (outgoing.error or self._failure(error)) from error
        finally:
            connection.outstanding -= 1
        return decode(method, connection.received(answer))

    async def bidi_stream(
        self,
        method: MethodSpec[_Req, _Res],
        requests: AsyncIterable[_Req],
        options: CallOptions,
    ) -> AsyncIterator[_Res]:
        """Any number there and back; the call starts when the first answer is asked for."""
        outgoing = Outgoing(method, requests)
        call = self._call(method, self._connection.all_sent(outgoing.encoded()), options)
        async for answer in self._answers(method, call, outgoing):
            yield answer

    async def aclose(self) -> None:
        """Cancel all calls and close the connection; closing twice does nothing."""
        if not self._closed:
            self._closed = True
            await self._channel.close()

    async def _only_answer(
        self, method: MethodSpec[_Req, _Res], request: _Req, options: CallOptions
    ) -> _Res:
        """The answer of a method that may turn out to stream: a unary call would wait for ever."""
        found: list[_Res] = []
        async with aclosing(self.server_stream(method, request, options)) as answers:
            async for answer in answers:
                if found:
                    break
                found.append(answer)
            else:
                if found:
                    return found[0]
        what = "more than one message" if found else "no message"
        raise PlaneError(
            Code.INTERNAL, f"{method.path} answered with {what}; if it streams, call it so"
        )

    def _call(self, method: MethodSpec[Any, Any], request: Any, options: CallOptions) -> Any:
        if self._closed:
            raise PlaneError(Code.FAILED_PRECONDITION, f"the plane to {self.address} is closed")
        untyped = method.response is UNTYPED
        calls = self._untyped_calls if untyped else self._calls
        start = calls.get(method.path)
        if start is None:
            kind = method.kind
            ways = ("stream" if kind.client_streaming else "unary") + (
                "_stream" if kind.server_streaming or untyped else "_unary"
            )
            start = calls[method.path] = getattr(self._channel, ways)(method.path)
        metadata = [*full_metadata(options), *self._credentials]
        timeout_s = outgoing_timeout_s(options.get("timeout_s"))
        try:
            call = start(request, timeout=timeout_s, metadata=metadata)
            return _with_true_status(call) if method.kind.client_streaming else call
        except (TypeError, ValueError) as error:
            raise PlaneError(
                Code.INVALID_ARGUMENT, f"metadata that gRPC cannot carry: {error}"
            ) from error

    async def _answers(
        self, method: MethodSpec[Any, _Res], call: Any, outgoing: Outgoing | None = None
    ) -> AsyncIterator[_Res]:
        connection = self._connection
        connection.outstanding += 1
        try:
            async for answer in call:
                yield decode(method, connection.received(answer))
        except (grpc.aio.AioRpcError, asyncio.CancelledError) as error:
            if outgoing is not None and outgoing.error is not None:
                raise outgoing.error from error
            raise self._failure(error) from error
        finally:
            connection.outstanding -= 1
            call.cancel()

    def _failure(self, error: grpc.aio.AioRpcError | asyncio.CancelledError) -> BaseException:
        if isinstance(error, grpc.aio.AioRpcError):
            failure = plane_error(error, self.address, self._hint)
            # A server could say these words too, of a server behind it; but then it is connected.
            unsent = (error.details() or "").startswith(_NO_CONNECTION)
            if unsent and self.state is ConnectionState.RECONNECTING:
                return UnsentError(failure.message)
            return failure
        task = asyncio.current_task()
        if self._closed and not (task and task.cancelling()):
            return PlaneError(Code.CANCELLED, f"the plane to {self.address} was closed")
        return error


class _TrueStatus:
    """A call's core, but for one thing: a failed write does not become the call's status.

    When a server refuses a stream while a request is being written, grpc.aio gives the call the
    status INTERNAL, "Internal error from Core", and drops what the server said, which is on its
    way (``StreamUnaryCall._write`` in grpc/aio/_call.py, seen in grpcio 1.85).
    """

    def __init__(self, core: Any) -> None:
        self._core = core

    def __getattr__(self, name: str) -> Any:
        return getattr(self._core, name)

    def set_internal_error(self, message: str) -> None:
        """Leave the status to the server."""


def _with_true_status(call: Any) -> Any:
    core = getattr(call, "_cython_call", None)
    if hasattr(core, "set_internal_error"):
        call._cython_call = _TrueStatus(core)
    return call


_LOCAL_DEADLINE = frozenset({"Deadline Exceeded", "Stream removed (Deadline Exceeded)"})


def plane_error(error: grpc.aio.AioRpcError, address: str, hint: str) -> PlaneError:
    """Translate what gRPC raised, with the details that its trailers hold.

    Args:
        error: What it raised.
        address: What was called.
        hint: What to say more where the server hung up on the connection at once.
    """
    number: int = error.code().value[0]
    code = Code(number)
    message = error.details() or f"the call failed with {code.name}"
    if code is Code.UNAVAILABLE and "connect" in message.lower():
        cause = message.rpartition("last error: ")[2].rpartition("remote host: ")[2]
        message = f"cannot reach {address}: {cause}"
        message += hint if cause.endswith("Socket closed") else ""
    elif code is Code.DEADLINE_EXCEEDED and message in _LOCAL_DEADLINE:
        message = "the call took longer than its timeout"
    trailers: Sequence[tuple[str, str | bytes]] = tuple(error.trailing_metadata() or ())
    for name, value in trailers:
        if name == "grpc-status-details-bin" and isinstance(value, bytes):
            return PlaneError(code, message, unpack_status(value))
    return PlaneError(code, message)
