"""The calls of one link, each in a task of its own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Coroutine
from typing import Any

from protoplane_base import Code, MethodKind, MethodSpec, PlaneError
from protoplane_runtime.link.acceptor import Acceptor
from protoplane_runtime.link.call import LinkCall
from protoplane_runtime.link.errors import UnsentError
from protoplane_runtime.link.headers import decode_open, encode_close, remembered
from protoplane_runtime.link.settings import Identity
from protoplane_runtime.link.streams import StreamCall
from protoplane_server.context import CallContext, CallInfo
from protoplane_server.dispatcher import Dispatcher
from protoplane_server.errors import from_decode_error, from_encode_error, message_too_large

_log = logging.getLogger("protoplane.server")


class _UnaryCall(LinkCall):
    """A call whose only request came with it."""

    task: asyncio.Task[None]

    def cancelled(self) -> None:
        self.task.cancel()

    def failed(self, error: PlaneError) -> None:
        self.task.cancel()


class _StreamCall(StreamCall):
    """A call with a stream one way or both."""

    task: asyncio.Task[None]

    def cancelled(self) -> None:
        self.task.cancel()

    def failed(self, error: PlaneError) -> None:
        self.task.cancel()


class LinkCalls:
    """Takes the calls of one link to the dispatcher.

    Args:
        dispatcher: Where they go.
        peer: Who calls, for logs.
        served: Who is served here: calls for others are handed back.

    Attributes:
        session: The link's session.
        identity: Who the other end proved to be.
    """

    session: Acceptor

    def __init__(self, dispatcher: Dispatcher, peer: str, served: Identity) -> None:
        self._dispatcher = dispatcher
        self._peer = peer
        self._served = served
        self.identity = ""
        self._loop = asyncio.get_running_loop()
        self._limit = dispatcher.limits.max_message_bytes
        self._look_up = remembered(self._opened)

    def accept(self, header: bytes, request: bytes | None) -> LinkCall:
        """Begin a call; see `protoplane_runtime.link.acceptor.Accept`.

        Raises:
            UnsentError: NOT_FOUND; the call is for somebody else.
            PlaneError: UNIMPLEMENTED for a method that is not served here.
        """
        method, info = self._look_up(header)
        call: _UnaryCall | _StreamCall
        work: Coroutine[Any, Any, None]
        if method.kind is MethodKind.UNARY and request is not None:
            call = _UnaryCall()
            work = self._unary(call, method, info, request)
        else:
            call = _StreamCall(self.session)
            work = self._stream(call, method, info, request)
        call.task = self._loop.create_task(work)
        return call

    def _opened(self, header: bytes) -> tuple[MethodSpec[Any, Any], CallInfo]:
        opened = decode_open(header)
        served = self._served
        if opened.target and opened.target not in served.entities:
            raise UnsentError(
                f"the call is for entity {opened.target.hex()}, and here is "
                f"{served.name or 'somebody without a name'}",
                Code.NOT_FOUND,
            )
        info = CallInfo(
            "link", self._peer, opened.metadata, opened.timeout_s, identity=self.identity
        )
        return self._dispatcher.method(opened.method), info

    async def _unary(
        self, call: _UnaryCall, method: MethodSpec[Any, Any], info: CallInfo, data: bytes
    ) -> None:
        ctx = self._dispatcher.begin(method, info)
        try:
            request = self._decoded(ctx, data)
            answer = self._encoded(ctx, await self._dispatcher.unary(ctx, request))
        except PlaneError as error:
            self.session.fail(call, error, ctx.trailers, unprocessed=ctx.refused)
        except asyncio.CancelledError:
            self.session.fail(call, _CANCELLED, {})
            raise
        else:
            session = self.session
            header = encode_close(None, ctx.trailers) if ctx.trailers else b""
            if len(answer) <= session.whole_bytes:
                session.close(call, header, answer)
            else:
                await self._answer_large(call, header, answer)

    async def _stream(
        self,
        call: _StreamCall,
        method: MethodSpec[Any, Any],
        info: CallInfo,
        request: bytes | None,
    ) -> None:
        ctx = self._dispatcher.begin(method, info)
        messages: AsyncGenerator[Any, None] | None = None
        try:
            asked: Any
            if method.kind.client_streaming:
                if request is not None:
                    call.complete = True
                asked = messages = self._requests(call, ctx, request)
            else:
                if request is None:
                    request = await self._only_request(call, method)
                asked = self._decoded(ctx, request)
            if method.kind.server_streaming:
                await self._answers(call, ctx, asked)
                self.session.close(call, encode_close(None, ctx.trailers))
            else:
                answer = self._encoded(ctx, await self._dispatcher.unary(ctx, asked))
                await self._answer(call, encode_close(None, ctx.trailers), answer)
        except PlaneError as error:
            self.session.fail(call, error, ctx.trailers, unprocessed=ctx.refused)
        except asyncio.CancelledError:
            self.session.fail(call, _CANCELLED, {})
            raise
        finally:
            if messages is not None:
                await messages.aclose()

    async def _answers(self, call: _StreamCall, ctx: CallContext, request: Any) -> None:
        session, send = self.session, call.send
        most = session.whole_bytes
        answers = self._dispatcher.stream(ctx, request)
        try:
            sent = 0
            async for answer in answers:
                data = self._encoded(ctx, answer)
                # The usual case without a coroutine for each message.
                if len(data) <= most and sent < _BURST and session.writable(call):
                    session.send_part(call, data, 0)
                    sent += 1
                else:
                    sent = 0
                    await asyncio.sleep(0)
                    await send(data, "response")
        finally:
            await answers.aclose()

    async def _answer(self, call: _StreamCall, header: bytes, answer: bytes) -> None:
        if len(answer) <= self.session.whole_bytes:
            self.session.close(call, header, answer)
        elif await call.send(answer, "response"):
            self.session.close(call, header)

    async def _answer_large(self, call: _UnaryCall, header: bytes, answer: bytes) -> None:
        """Send an answer that takes more than a frame: as a stream of one message."""
        streamed = _StreamCall(self.session)
        streamed.task = call.task
        if not self.session.replace(call, streamed):
            return
        try:
            await self._answer(streamed, header, answer)
        except PlaneError as error:
            self.session.fail(streamed, error, {})
        except asyncio.CancelledError:
            self.session.fail(streamed, _CANCELLED, {})
            raise

    async def _only_request(self, call: _StreamCall, method: MethodSpec[Any, Any]) -> bytes:
        request = await call.receive()
        if request is None:
            raise PlaneError(Code.INVALID_ARGUMENT, f"{method.path} takes one request, none came")
        return request

    async def _requests(
        self, call: _StreamCall, ctx: CallContext, only: bytes | None
    ) -> AsyncGenerator[Any, None]:
        decode = ctx.method.request.from_bytes
        data = only
        while data is not None or (data := await call.receive()) is not None:
            try:
                request = decode(data)
            except ValueError as error:
                raise from_decode_error(error) from error
            yield request
            data = None

    def _decoded(self, ctx: CallContext, data: bytes) -> Any:
        try:
            return ctx.entry.method.request.from_bytes(data)
        except ValueError as error:
            raise self._dispatcher.refuse(ctx, from_decode_error(error)) from error

    def _encoded(self, ctx: CallContext, answer: Any) -> bytes:
        try:
            data: bytes = ctx.entry.method.response.to_bytes(answer)
        except Exception as error:
            _log.exception("%s: the answer cannot be encoded", ctx.entry.path)
            raise from_encode_error(error) from error
        if len(data) > self._limit:
            raise message_too_large(len(data), self._limit, "response")
        return data


_BURST = 64
"""Messages that a stream sends before it lets others have the event loop."""

_CANCELLED = PlaneError(Code.CANCELLED, "the handler was cancelled")
