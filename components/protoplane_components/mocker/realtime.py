"""An engine on the real clock: what it writes comes when it would."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Self

from protoplane_base import Code, PlaneError
from protoplane_components.mocker.engine import MockEngine, MockRequest, Written


class RealTimeEngine:
    """Runs an engine as time passes; use it with ``async with``, in one event loop.

    Args:
        engine: The engine; nobody else advances it.
        speedup: By how much faster than the real clock its own goes.
    """

    def __init__(self, engine: MockEngine, speedup: float = 1.0) -> None:
        if not speedup > 0:
            raise PlaneError(
                Code.INVALID_ARGUMENT, f"the speed-up is {speedup}; give a number above 0"
            )
        self._engine = engine
        self._speedup = speedup
        self._open: dict[str, asyncio.Queue[Written | None]] = {}
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._began_s = 0.0

    @property
    def engine(self) -> MockEngine:
        """The engine, to be looked at."""
        return self._engine

    async def __aenter__(self) -> Self:
        self._began_s = asyncio.get_running_loop().time()
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None
        for queue in self._open.values():
            queue.put_nowait(None)

    async def write(self, request: MockRequest) -> AsyncGenerator[Written]:
        """Let a request be worked on, and tell each token when it is written.

        Closing the stream, or cancelling who reads it, drops the request.

        Raises:
            PlaneError: INVALID_ARGUMENT for a request that can never be done, ALREADY_EXISTS for
                one whose name is in use, UNAVAILABLE when the engine stops.
        """
        if self._task is None:
            raise self._stopped()
        if request.id in self._open:
            raise PlaneError(
                Code.ALREADY_EXISTS, f"request {request.id} is being worked on; choose another id"
            )
        self._deliver()
        self._engine.submit(request, self._now_s())
        queue: asyncio.Queue[Written | None] = asyncio.Queue()
        self._open[request.id] = queue
        self._wake.set()
        try:
            while True:
                written = await queue.get()
                if written is None:
                    raise self._stopped()
                yield written
                if written.finished:
                    return
        finally:
            del self._open[request.id]
            self._engine.cancel(request.id, self._now_s())
            self._wake.set()

    def _now_s(self) -> float:
        return (asyncio.get_running_loop().time() - self._began_s) * self._speedup

    def _deliver(self) -> None:
        for written in self._engine.advance(self._now_s()):
            queue = self._open.get(written.id)
            if queue is not None:
                queue.put_nowait(written)

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            left_s = (self._engine.next_s - self._now_s()) / self._speedup
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, left_s) if left_s < float("inf") else None):
                    await self._wake.wait()
            self._deliver()

    def _stopped(self) -> PlaneError:
        return PlaneError(Code.UNAVAILABLE, "the engine has stopped; ask another instance")
