"""The in-process end of the link door: calls of this process, with no frame between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from contextlib import aclosing
from typing import Any

from protoplane_base import Code, EncodeError, Metadata, MethodKind, MethodSpec, PlaneError, copied
from protoplane_server.context import CallContext, CallInfo
from protoplane_server.dispatcher import Dispatcher
from protoplane_server.errors import from_decode_error, from_encode_error

_PEER = "inproc"

_AHEAD = 64
"""Answers that a handler may be ahead of who takes them."""

_END: Any = object()


class InprocessHost:
    """A `protoplane_runtime.link.carriers.inprocess.Host` on a dispatcher.

    Args:
        dispatcher: Where the calls go.
        name: Name of this instance.
    """

    def __init__(self, dispatcher: Dispatcher, name: str) -> None:
        self._dispatcher = dispatcher
        self._name = name
        self._plain = CallInfo("link", _PEER, {}, identity=_PEER)

    @property
    def name(self) -> str:
        """Name of the instance; see `Host`."""
        return self._name

    def unary(
        self,
        method: MethodSpec[Any, Any],
        request: Any,
        metadata: Metadata,
        timeout_s: float | None,
    ) -> Coroutine[Any, Any, Any]:
        """Serve a call that has one answer; see `Host`."""
        dispatcher = self._dispatcher
        if metadata or timeout_s is not None:
            info = CallInfo("link", _PEER, metadata, timeout_s, identity=_PEER)
        else:
            info = self._plain
        ctx = dispatcher.begin(method, info)
        if method.request is not ctx.method.request:
            return self._unary_as(method, ctx, request)
        if method.kind.client_streaming:
            return self._client_stream(ctx, request)
        return dispatcher.unary(ctx, request)

    async def stream(
        self,
        method: MethodSpec[Any, Any],
        request: Any,
        metadata: Metadata,
        timeout_s: float | None,
    ) -> AsyncGenerator[Any, None]:
        """Serve a call that has any number of answers; see `Host`."""
        info = CallInfo("link", _PEER, metadata, timeout_s, identity=_PEER)
        ctx = self._dispatcher.begin(method, info)
        if method.request is not ctx.method.request:
            raise _typed_only(ctx)
        ahead: asyncio.Queue[Any] = asyncio.Queue(_AHEAD)
        # A task of its own, so that a handler goes on while nobody takes its answers.
        task = asyncio.create_task(self._fill(ahead, ctx, request))
        try:
            while (item := await ahead.get()) is not _END:
                yield item
            await task
        finally:
            task.cancel()
            await asyncio.wait([task])

    async def _client_stream(self, ctx: CallContext, requests: AsyncIterator[Any]) -> Any:
        async with aclosing(_copies(requests)) as own:
            return await self._dispatcher.unary(ctx, own)

    async def _unary_as(self, method: MethodSpec[Any, Any], ctx: CallContext, request: Any) -> Any:
        """A call whose caller has messages of its own, or only their bytes."""
        served = ctx.method
        if method.kind is not MethodKind.UNARY or served.kind is not MethodKind.UNARY:
            raise _typed_only(ctx)
        try:
            asked = served.request.from_bytes(method.request.to_bytes(request))
        except ValueError as error:
            raise self._dispatcher.refuse(ctx, from_decode_error(error)) from error
        answer = await self._dispatcher.unary(ctx, asked)
        try:
            data = served.response.to_bytes(answer)
        except EncodeError as error:
            raise from_encode_error(error) from error
        return method.response.from_bytes(data)

    async def _fill(self, ahead: asyncio.Queue[Any], ctx: CallContext, request: Any) -> None:
        requests: AsyncGenerator[Any, None] | None = None
        try:
            if ctx.method.kind.client_streaming:
                requests = request = _copies(request)
            else:
                request = copied(request)
            async with aclosing(self._dispatcher.stream(ctx, request)) as answers:
                async for answer in answers:
                    await ahead.put(copied(answer))
        finally:
            if requests is not None:
                await requests.aclose()
            if not (task := asyncio.current_task()) or not task.cancelling():
                await ahead.put(_END)


def _typed_only(ctx: CallContext) -> PlaneError:
    return PlaneError(
        Code.UNIMPLEMENTED,
        f"{ctx.method.path}: inside a process, a stream takes the messages of the generated client",
    )


async def _copies(requests: AsyncIterator[Any]) -> AsyncGenerator[Any, None]:
    async for request in requests:
        yield copied(request)
