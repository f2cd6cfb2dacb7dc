"""Calls inside a process, without serialization."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

from protoplane_base import CallOptions, Code, Metadata, MethodSpec, PlaneError, copied
from protoplane_client.calls import full_metadata
from protoplane_client.route import ConnectionState, ConnectionStats
from protoplane_runtime.calling import outgoing_timeout_s, serving
from protoplane_runtime.link.carriers.inprocess import host_at
from protoplane_runtime.link.errors import UnsentError

_Req = TypeVar("_Req")
_Res = TypeVar("_Res")

_BURST = 64


class InprocessChannel:
    """A `Route` to what is served in this process; a handler runs in its caller's task.

    Bytes are not counted, for there are none.

    Attributes:
        state: Connected, until it is closed.
        draining: Never: who drains refuses calls one by one.

    Args:
        address: ``inproc:<name>``.
        name: The instance at this address; what it calls itself where absent.
    """

    def __init__(self, address: str, *, name: str | None = None) -> None:
        self.address = address
        self._name = name
        self.stats = ConnectionStats()
        self.outstanding = 0
        self.state = ConnectionState.CONNECTED
        self.draining = False
        self._closed = False

    @property
    def name(self) -> str:
        """The instance that it leads to, or its address while nothing is served there."""
        if self._name is not None:
            return self._name
        try:
            return host_at(self.address).name
        except UnsentError:
            return self.address

    def unary(
        self, method: MethodSpec[_Req, _Res], request: _Req, options: CallOptions
    ) -> Coroutine[Any, Any, _Res]:
        """One message there, one back; see `protoplane_base.Channel`."""
        return self._call(method, copied(request), options)

    async def _call(
        self, method: MethodSpec[Any, _Res], request: Any, options: CallOptions
    ) -> _Res:
        metadata: Metadata = _NONE
        timeout_s: float | None = None
        if options or self._closed or serving.get() is not None:
            metadata, timeout_s = self._begin(options)
        stats = self.stats
        stats.messages_sent += 1
        if not stats.messages_sent % _BURST:
            # A handler that never waits would keep the event loop from everybody else.
            await asyncio.sleep(0)
        self.outstanding += 1
        try:
            answer: _Res = await host_at(self.address).unary(method, request, metadata, timeout_s)
        finally:
            self.outstanding -= 1
        stats.messages_received += 1
        return copied(answer)

    def server_stream(
        self, method: MethodSpec[_Req, _Res], request: _Req, options: CallOptions
    ) -> AsyncIterator[_Res]:
        """One message there, any number back; the call starts when the first is asked for."""
        return self._answers(method, request, options)

    async def client_stream(
        self, method: MethodSpec[_Req, _Res], requests: AsyncIterable[_Req], options: CallOptions
    ) -> _Res:
        """Any number there, one back; an error of ``requests`` ends the call and is raised."""
        outgoing = _Requests(requests)
        try:
            return await self._call(method, outgoing, options)
        except PlaneError as error:
            if outgoing.error is not None:
                raise outgoing.error from error
            raise

    async def bidi_stream(
        self, method: MethodSpec[_Req, _Res], requests: AsyncIterable[_Req], options: CallOptions
    ) -> AsyncIterator[_Res]:
        """Any number there and back; the call starts when the first answer is asked for."""
        outgoing = _Requests(requests)
        try:
            async with aclosing(self._answers(method, outgoing, options)) as answers:
                async for answer in answers:
                    yield answer
        except PlaneError as error:
            if outgoing.error is not None:
                raise outgoing.error from error
            raise

    async def aclose(self) -> None:
        """Make no more calls; closing twice does nothing."""
        self._closed = True
        self.state = ConnectionState.DISCONNECTED

    def _begin(self, options: CallOptions) -> tuple[Metadata, float | None]:
        if self._closed:
            raise PlaneError(Code.FAILED_PRECONDITION, f"the plane to {self.address} is closed")
        if not options and serving.get() is None:
            return _NONE, None
        return dict(full_metadata(options)), outgoing_timeout_s(options.get("timeout_s"))

    async def _answers(
        self, method: MethodSpec[Any, _Res], request: Any, options: CallOptions
    ) -> AsyncGenerator[_Res, None]:
        metadata, timeout_s = self._begin(options)
        self.stats.messages_sent += 1
        self.outstanding += 1
        try:
            answers = host_at(self.address).stream(method, request, metadata, timeout_s)
            async with aclosing(answers):
                async for answer in answers:
                    self.stats.messages_received += 1
                    yield answer
        finally:
            self.outstanding -= 1


class _Requests:
    """The requests of a stream; what their source raises is kept for the caller."""

    def __init__(self, requests: AsyncIterable[Any]) -> None:
        self._requests = requests
        self.error: Exception | None = None

    async def __aiter__(self) -> AsyncIterator[Any]:
        try:
            async for request in self._requests:
                yield request
        except Exception as error:
            self.error = error
            raise


_NONE: Metadata = {}
