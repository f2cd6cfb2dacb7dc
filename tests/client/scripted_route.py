"""A route that does what the test says, call after call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Generator
from contextlib import contextmanager
from typing import Any, TypeGuard

from protoplane_base import CallOptions, Code, MethodSpec, PlaneError
from protoplane_client.route import ConnectionState, ConnectionStats
from protoplane_runtime.link.errors import UnsentError

DOWN = PlaneError(Code.UNAVAILABLE, "the instance is down")
BAD = PlaneError(Code.INVALID_ARGUMENT, "no such style")
UNSENT = UnsentError("nobody there")
HANG = object()


class ScriptedRoute:
    """Answers each call by the next entry of its script, and with its name when that is over.

    An entry is an error to raise, `HANG` to wait for ``release``, or an answer; for streams, a list
    of these.

    Attributes:
        calls: Options of the calls that came.
        received: Requests of streams that came.
        cancelled: Calls that were cancelled while they hung.
        closed: How often it was closed.
    """

    def __init__(
        self,
        name: str,
        *script: Any,
        state: ConnectionState = ConnectionState.CONNECTED,
        takes_requests: bool = True,
    ) -> None:
        self.name = name
        self.state = state
        self.stats = ConnectionStats()
        self.draining = False
        self.outstanding = 0
        self.script = list(script)
        self.calls: list[CallOptions] = []
        self.received: list[Any] = []
        self.cancelled = 0
        self.closed = 0
        self.release = asyncio.Event()
        self.takes_requests = takes_requests

    @property
    def timeouts_s(self) -> list[float]:
        """Seconds that each call was given; zero where it had none."""
        return [options.get("timeout_s") or 0 for options in self.calls]

    async def unary(self, method: MethodSpec[Any, Any], request: Any, options: CallOptions) -> Any:
        with self._call(options) as entry:
            return await self._play(entry)

    async def server_stream(
        self, method: MethodSpec[Any, Any], request: Any, options: CallOptions
    ) -> AsyncIterator[Any]:
        with self._call(options) as entry:
            for part in entry if _are_parts(entry) else [entry]:
                yield await self._play(part)

    async def client_stream(
        self, method: MethodSpec[Any, Any], requests: AsyncIterable[Any], options: CallOptions
    ) -> Any:
        with self._call(options) as entry:
            if self.takes_requests:
                async for request in requests:
                    self.received.append(request)
            return await self._play(entry)

    async def bidi_stream(
        self, method: MethodSpec[Any, Any], requests: AsyncIterable[Any], options: CallOptions
    ) -> AsyncIterator[Any]:
        with self._call(options) as entry:
            if self.takes_requests:
                async for request in requests:
                    self.received.append(request)
            for part in entry if _are_parts(entry) else [entry]:
                yield await self._play(part)

    async def aclose(self) -> None:
        self.closed += 1
        self.state = ConnectionState.FAILED

    @contextmanager
    def _call(self, options: CallOptions) -> Generator[Any]:
        assert not self.closed, "a call on a closed route"
        self.calls.append(options)
        self.outstanding += 1
        try:
            yield self.script.pop(0) if self.script else self.name
        finally:
            self.outstanding -= 1

    async def _play(self, entry: Any) -> Any:
        if entry is HANG:
            try:
                await self.release.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                await asyncio.sleep(0)  # what ends a call may take its time
                raise
            return self.name
        if isinstance(entry, BaseException):
            raise entry
        return entry


def _are_parts(entry: Any) -> TypeGuard[list[Any]]:
    return isinstance(entry, list)


def open_tasks() -> list[asyncio.Task[Any]]:
    """Tasks of the test and of what it tests, but for the one that runs it."""
    return [
        task
        for task in asyncio.all_tasks()
        if "TestRunner" not in getattr(task.get_coro(), "__qualname__", "")
    ]
