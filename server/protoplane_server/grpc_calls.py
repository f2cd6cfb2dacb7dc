"""How one gRPC call becomes a call of the dispatcher, for each of the four kinds."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

import grpc
import grpc.aio

from protoplane_base import Code, MethodKind, MethodSpec, PlaneError
from protoplane_server.context import CallContext, CallInfo
from protoplane_server.dispatcher import Dispatcher
from protoplane_server.errors import (
    from_decode_error,
    from_encode_error,
    message_too_large,
    to_status,
)

_log = logging.getLogger("protoplane.server")

_STATUS = {int(status.value[0]): status for status in grpc.StatusCode}
_MAX_MESSAGE_CHARS = 1024
_LET_FINISH_S = 0.05
_CANCELLATION_S = 0.01
_MAX_DETAILS_BYTES = 4096
"""Clients accept 8 KiB of headers by default, and the details travel in base64."""

_Context = Any  # grpc.aio.ServicerContext[bytes, bytes], whose methods are not typed well.


def method_handler(dispatcher: Dispatcher, method: MethodSpec[Any, Any]) -> Any:
    """The handler of a method for a generic handler of `grpc.aio`; it takes and gives bytes."""
    call = _Call(dispatcher, method)
    make: Any
    serve: Any
    match method.kind:
        case MethodKind.UNARY:
            make, serve = grpc.unary_unary_rpc_method_handler, call.unary_unary
        case MethodKind.SERVER_STREAM:
            make, serve = grpc.unary_stream_rpc_method_handler, call.unary_stream
        case MethodKind.CLIENT_STREAM:
            make, serve = grpc.stream_unary_rpc_method_handler, call.stream_unary
        case MethodKind.BIDI_STREAM:
            make, serve = grpc.stream_stream_rpc_method_handler, call.stream_stream
    return make(serve)


class _Call:
    """Serves one method; `grpc.aio` runs each call in a task and cancels that task."""

    __slots__ = ("_decode", "_dispatcher", "_encode", "_limit", "_method")

    def __init__(self, dispatcher: Dispatcher, method: MethodSpec[Any, Any]) -> None:
        self._dispatcher = dispatcher
        self._method = method
        self._decode: Callable[[bytes], Any] = method.request.from_bytes
        self._encode: Callable[[Any], bytes] = method.response.to_bytes
        self._limit = dispatcher.limits.max_message_bytes

    async def unary_unary(self, data: bytes, context: _Context) -> bytes:
        ctx = self._begin(context)
        try:
            response = await self._dispatcher.unary(ctx, self._decoded(ctx, data))
            reply = self._encoded(ctx, response)
        except PlaneError as error:
            await _abort(ctx, context, error)
            raise
        if ctx.trailers:
            context.set_trailing_metadata(tuple(ctx.trailers.items()))
        return reply

    async def unary_stream(self, data: bytes, context: _Context) -> None:
        ctx = self._begin(context)
        try:
            await self._answer(ctx, context, self._decoded(ctx, data))
        except PlaneError as error:
            await _abort(ctx, context, error)

    async def stream_unary(self, messages: AsyncIterator[bytes], context: _Context) -> bytes:
        ctx = self._begin(context)
        requests = self._requests(messages, context, asyncio.Lock())
        try:
            response = await self._dispatcher.unary(ctx, requests)
            reply = self._encoded(ctx, response)
        except PlaneError as error:
            await _let_finish(context)
            await _abort(ctx, context, error)
            raise
        finally:
            await requests.aclose()
        if ctx.trailers:
            context.set_trailing_metadata(tuple(ctx.trailers.items()))
        return reply

    async def stream_stream(self, messages: AsyncIterator[bytes], context: _Context) -> None:
        ctx = self._begin(context)
        # A handler may read in one task and answer in another.
        sending = asyncio.Lock()
        requests = self._requests(messages, context, sending)
        try:
            await self._answer(ctx, context, requests, sending)
        except PlaneError as error:
            await _let_finish(context)
            await _abort(ctx, context, error)
        finally:
            await requests.aclose()

    async def _answer(
        self,
        ctx: CallContext,
        context: _Context,
        request: Any,
        sending: asyncio.Lock | None = None,
    ) -> None:
        write: Callable[[bytes], Awaitable[None]] = context.write
        answers = self._dispatcher.stream(ctx, request)
        try:
            async for answer in answers:
                data = self._encoded(ctx, answer)
                if sending is None:
                    await write(data)
                else:
                    async with sending:
                        await write(data)
        finally:
            await answers.aclose()
        if ctx.trailers:
            context.set_trailing_metadata(tuple(ctx.trailers.items()))

    async def _requests(
        self, messages: AsyncIterator[bytes], context: _Context, sending: asyncio.Lock
    ) -> AsyncGenerator[Any, None]:
        decode = self._decode
        async for data in messages:
            try:
                request = decode(data)
            except ValueError as error:
                raise from_decode_error(error) from error
            yield request
        async with sending:
            await _finished(_cancelled_or_done(context))

    def _begin(self, context: _Context) -> CallContext:
        info = CallInfo(
            "grpc",
            context.peer(),
            _metadata(context.invocation_metadata()),
            context.time_remaining(),
        )
        return self._dispatcher.begin(self._method, info)

    def _decoded(self, ctx: CallContext, data: bytes) -> Any:
        try:
            return self._decode(data)
        except ValueError as error:
            raise self._dispatcher.refuse(ctx, from_decode_error(error)) from error

    def _encoded(self, ctx: CallContext, answer: Any) -> bytes:
        try:
            data = self._encode(answer)
        except Exception as error:
            _log.exception("%s: the answer cannot be encoded", ctx.entry.path)
            raise from_encode_error(error) from error
        if len(data) > self._limit:
            raise message_too_large(len(data), self._limit, "response")
        return data


def _metadata(pairs: Any) -> dict[str, str | bytes]:
    metadata: dict[str, str | bytes] = {}
    for name, value in pairs:
        before = metadata.get(name)
        if before is None:
            metadata[name] = value
        elif isinstance(before, str):
            # As HTTP joins the values of a name; bytes cannot be joined, and the last one stays.
            metadata[name] = f"{before}, {value}"
        else:
            metadata[name] = value
    return metadata


async def _finished(operation: Coroutine[Any, Any, None]) -> None:
    """Let an operation of gRPC's core come to its end even when who waits for it is cancelled.

    One that is left in flight would fail those that follow, the end of the call among them.
    """
    task = asyncio.create_task(operation)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.debug("%s", error)
        raise


async def _cancelled_or_done(context: _Context) -> None:
    """Let a cancellation arrive that came with the end of the requests.

    `grpc.aio` tells of the end first, in both cases: a handler would take what a caller had sent so
    far for the whole. An operation of gRPC's core comes back only after the cancellation has.
    """
    try:
        await context.send_initial_metadata(())
    except grpc.aio.UsageError:
        # An answer was sent already. Reading past the end is such an operation too, and the pause
        # is for a loop that is behind with what the core has told it.
        await context.read()
        await asyncio.sleep(_CANCELLATION_S)


async def _let_finish(context: _Context) -> None:
    """Read a moment longer what a caller streams, so that it learns why its call fails.

    A `grpc.aio` client that is just writing when the call ends reports INTERNAL, "Internal error
    from Core", instead of the status that it was sent (https://github.com/grpc/grpc/issues/36066).
    """
    try:
        async with asyncio.timeout(_LET_FINISH_S):
            while await context.read() is not grpc.aio.EOF:
                pass
    except TimeoutError:
        return
    except Exception as error:  # noqa: BLE001  # whatever the library finds, the call is over
        _log.debug("%s", error)


async def _abort(ctx: CallContext, context: _Context, error: PlaneError) -> None:
    trailers: list[tuple[str, str | bytes]] = list(ctx.trailers.items())
    message = error.message
    if len(message) > _MAX_MESSAGE_CHARS:
        message = message[: _MAX_MESSAGE_CHARS - 1] + "…"
    if error.details:
        status = to_status(PlaneError(error.code, message, error.details)).SerializeToString()
        if len(status) <= _MAX_DETAILS_BYTES:
            trailers.append(("grpc-status-details-bin", status))
        else:
            message += " (the details are too large for gRPC's trailers)"
    status_code = _STATUS[error.code if error.code is not Code.OK else Code.INTERNAL]
    await context.abort(status_code, message, tuple(trailers))
