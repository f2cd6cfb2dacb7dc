"""The deadlines of all open calls, behind one timer.

``asyncio.timeout`` makes and drops a timer for each wait, which costs more than all else that the
dispatcher does for a call. Nearly all calls end long before their deadline, so here a call only
leaves a note in a heap, and notes of calls that are over are swept out when they are the most.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from heapq import heapify, heappop, heappush
from time import monotonic
from typing import TypeVar

from protoplane_server.context import CallContext

_T = TypeVar("_T")

_EARLY_S = 0.001
"""Timers of event loops are no more exact than that."""

_FEW = 64


class Deadlines:
    """Cancels what works for a call when the deadline of the call passes."""

    __slots__ = ("_heap", "_loop", "_next", "_number", "_sweep_at", "_timer")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, CallContext]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._next = float("inf")
        self._number = 0
        self._sweep_at = _FEW
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, ctx: CallContext) -> None:
        """Mind the deadline of a call, where it has one, until the call is over."""
        deadline = ctx.deadline
        if deadline is None:
            return
        heap = self._heap
        if len(heap) >= self._sweep_at:
            heap[:] = [note for note in heap if not note[2].over]
            heapify(heap)
            self._sweep_at = max(_FEW, 2 * len(heap))
        self._number += 1
        heappush(heap, (deadline, self._number, ctx))
        if deadline < self._next:
            self._set(deadline)

    async def within(self, ctx: CallContext, work: Awaitable[_T]) -> _T:
        """Await something for a call that is watched and not late yet.

        Raises:
            PlaneError: DEADLINE_EXCEEDED; ``work`` was cancelled, and has ended.
        """
        task = asyncio.current_task(self._loop)
        assert task is not None
        before = task.cancelling()
        cancelled = False
        ctx.worker = task
        try:
            return await work
        except asyncio.CancelledError:
            cancelled = True
            raise
        finally:
            ctx.worker = None
            # As asyncio.timeout tells its own cancellation from one that came from outside.
            if ctx.late and task.uncancel() <= before and cancelled:
                raise ctx.too_late() from None

    def _set(self, deadline: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        self._next = deadline
        self._timer = self._loop.call_later(max(0.0, deadline - monotonic()), self._ring)

    def _ring(self) -> None:
        heap = self._heap
        now = monotonic() + _EARLY_S
        self._timer, self._next = None, float("inf")
        while heap and (heap[0][0] <= now or heap[0][2].over):
            ctx = heappop(heap)[2]
            if not ctx.over:
                ctx.late = True
                if ctx.worker is not None:
                    ctx.worker.cancel()
        if heap:
            self._set(heap[0][0])
