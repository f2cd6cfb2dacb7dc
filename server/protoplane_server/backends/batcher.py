"""A dynamic batcher: requests that come one by one are worked on together.

A batch goes when it is full, when its oldest request has waited long enough, or as soon as nothing
else is being worked on: waiting for company would only waste the time of an idle backend.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import math
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass
from itertools import count
from time import monotonic
from typing import Generic, TypeVar

from protoplane_base import Code, PlaneError
from protoplane_server.backends.batch_metrics import BatchStats
from protoplane_server.backends.interface import BackendContext
from protoplane_server.backends.queueing import queue_full

_log = logging.getLogger("protoplane.server")

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class BatcherOptions:
    """How requests are batched.

    Attributes:
        max_items: Most items of a batch.
        max_delay_s: Longest that a request waits for others, in seconds, while its batch is not
            full and could go.
        max_queue_items: Most items that wait; past it requests are refused.
        max_running: Most batches that are worked on at the same time.
        flush_when_idle: Whether a batch goes at once when none is worked on. Without it each
            waits ``max_delay_s`` or until it is full.
    """

    max_items: int = 32
    max_delay_s: float = 0.005
    max_queue_items: int = 1024
    max_running: int = 1
    flush_when_idle: bool = True

    def __post_init__(self) -> None:
        if min(self.max_items, self.max_queue_items, self.max_running) < 1 or self.max_delay_s < 0:
            raise ValueError("a batcher's counts are 1 or more, and its delay is 0 or more")


class _Entry(Generic[_Item, _Result]):
    """A request that waits in a lane, or is worked on."""

    __slots__ = ("answer", "ctx", "item", "lane", "since", "size", "waiting")

    def __init__(
        self, item: _Item, size: int, lane: _Lane[_Item, _Result], ctx: BackendContext
    ) -> None:
        self.item = item
        self.size = size
        self.lane = lane
        self.ctx = ctx
        self.since = monotonic()
        self.waiting = True
        self.answer: asyncio.Future[_Result] = asyncio.get_running_loop().create_future()

    @property
    def wanted(self) -> bool:
        """Whether it waits, and somebody waits for it."""
        return self.waiting and not self.answer.done()


class _Lane(Generic[_Item, _Result]):
    """The requests of one key that wait, the most urgent first; some in the heap may be gone."""

    __slots__ = ("gone", "heap", "items", "key")

    def __init__(self, key: Hashable) -> None:
        self.key = key
        self.heap: list[tuple[int, int, _Entry[_Item, _Result]]] = []
        self.items = 0
        self.gone = 0

    def oldest(self) -> float:
        """When the first that is in it began to wait."""
        return min((entry.since for _, _, entry in self.heap if entry.wanted), default=math.inf)


class Batcher(Generic[_Item, _Result]):
    """Gathers requests into batches; belongs to one event loop, `close` it when done.

    Args:
        run: Works on a batch of items of one key, and gives a result for each, in their order.
            It is cancelled when nobody waits for any of them any more.
        options: How requests are batched.
        stats: Where to count.
    """

    def __init__(
        self,
        run: Callable[[Sequence[_Item]], Awaitable[Sequence[_Result]]],
        options: BatcherOptions = BatcherOptions(),  # frozen
        stats: BatchStats | None = None,
    ) -> None:
        self.options = options
        self.stats = stats or BatchStats()
        self._run = run
        self._lanes: dict[Hashable, _Lane[_Item, _Result]] = {}
        self._numbers = count()
        self._queued = 0
        self._running: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._soon: asyncio.Handle | None = None
        self._closed = False

    @property
    def queued_items(self) -> int:
        """How many items wait for a batch."""
        return self._queued

    @property
    def running(self) -> int:
        """How many batches are worked on."""
        return len(self._running)

    async def submit(
        self,
        item: _Item,
        ctx: BackendContext = BackendContext(),  # noqa: B008  # frozen
        *,
        size: int = 1,
        key: Hashable = None,
    ) -> _Result:
        """Have an item worked on, in whichever batch it comes into.

        Cancelling takes it out of the queue; from a batch that is being worked on it only takes
        the result.

        Args:
            item: What to work on.
            ctx: The request: its priority and deadline count.
            size: How much of a batch it fills.
            key: Items of different keys do not go into one batch.

        Raises:
            PlaneError: INVALID_ARGUMENT for one that no batch can hold, RESOURCE_EXHAUSTED where
                the queue is full, DEADLINE_EXCEEDED once its deadline has passed, UNAVAILABLE once
                the batcher is closed, and what ``run`` raises.
        """
        entry = self._enter(item, ctx, size, key)
        left_s = ctx.time_remaining_s()
        timer = None
        if left_s is not None:
            loop = asyncio.get_running_loop()
            timer = loop.call_later(left_s, self._expire, entry)
        try:
            return await entry.answer
        except asyncio.CancelledError:
            self.stats.dropped["cancelled"] += 1
            raise
        finally:
            self._leave(entry)
            if timer is not None:
                timer.cancel()

    async def close(self) -> None:
        """End what waits and what is worked on with UNAVAILABLE; twice does no more."""
        self._closed = True
        self._unschedule()
        for lane in list(self._lanes.values()):
            for _, _, entry in list(lane.heap):
                _fail(entry, _closed())
                self._leave(entry)
        running = list(self._running)
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)

    def _enter(
        self, item: _Item, ctx: BackendContext, size: int, key: Hashable
    ) -> _Entry[_Item, _Result]:
        options = self.options
        if self._closed:
            raise _closed()
        if not 0 < size <= options.max_items:
            raise PlaneError(
                Code.INVALID_ARGUMENT,
                f"a request of {size} items fits no batch, which has 1 to {options.max_items}; "
                "split it",
            )
        if ctx.time_remaining_s() == 0:
            self.stats.dropped["expired"] += 1
            raise ctx.too_late()
        if self._queued + size > options.max_queue_items:
            self.stats.dropped["refused"] += 1
            raise queue_full("items", self._queued, options.max_queue_items, self._soonest_s())
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = _Lane[_Item, _Result](key)
        entry = _Entry[_Item, _Result](item, size, lane, ctx)
        heapq.heappush(lane.heap, (-ctx.priority, next(self._numbers), entry))
        self._count(lane, size)
        if self._soon is None:
            # Not now: what else comes in this turn of the loop is to be in the batch too.
            self._soon = asyncio.get_running_loop().call_soon(self._dispatch)
        return entry

    def _count(self, lane: _Lane[_Item, _Result], items: int) -> None:
        lane.items += items
        self._queued += items
        self.stats.queued = self._queued

    def _leave(self, entry: _Entry[_Item, _Result]) -> None:
        """Take a request out of the queue, if it is there."""
        if not entry.waiting:
            return
        entry.waiting = False
        lane = entry.lane
        self._count(lane, -entry.size)
        lane.gone += 1
        # It may lie deep in the heap; what is gone is cleared away when it is more than half.
        if 2 * lane.gone > len(lane.heap):
            lane.heap = [each for each in lane.heap if each[2].waiting]
            heapq.heapify(lane.heap)
            lane.gone = 0
        self._tidy(lane)

    def _tidy(self, lane: _Lane[_Item, _Result]) -> None:
        if not lane.heap and self._lanes.get(lane.key) is lane:
            del self._lanes[lane.key]

    def _head(self, lane: _Lane[_Item, _Result]) -> tuple[int, int] | None:
        """How urgent the most urgent of a lane is; ``None`` where it is empty."""
        while lane.heap:
            urgency, number, entry = lane.heap[0]
            if entry.wanted:
                return urgency, number
            if entry.waiting:
                # Its caller was cancelled, and has not run since.
                self._leave(entry)
            else:
                heapq.heappop(lane.heap)
                lane.gone -= 1
        self._tidy(lane)
        return None

    def _take(self, lane: _Lane[_Item, _Result]) -> list[_Entry[_Item, _Result]]:
        """As many of the most urgent of a lane as fit into a batch."""
        most = self.options.max_items
        taken: list[_Entry[_Item, _Result]] = []
        while self._head(lane) is not None and lane.heap[0][2].size <= most:
            _, _, entry = heapq.heappop(lane.heap)
            entry.waiting = False
            self._count(lane, -entry.size)
            most -= entry.size
            taken.append(entry)
        self._tidy(lane)
        return taken

    def _expire(self, entry: _Entry[_Item, _Result]) -> None:
        if not entry.answer.done():
            self.stats.dropped["expired"] += 1
            _fail(entry, entry.ctx.too_late())
            self._leave(entry)

    def _dispatch(self) -> None:
        """Send off whatever is due, and look again when the next will be."""
        self._unschedule()
        now = monotonic()
        while len(self._running) < self.options.max_running:
            heads = [(self._head(lane), lane) for lane in list(self._lanes.values())]
            due = [
                (head, lane) for head, lane in heads if head is not None and self._due(lane, now)
            ]
            if not due:
                break
            self._send(min(due, key=lambda each: each[0])[1], now)
        oldest = min((lane.oldest() for lane in self._lanes.values()), default=math.inf)
        if oldest < math.inf and len(self._running) < self.options.max_running:
            wait_s = max(0.0, oldest + self.options.max_delay_s - now)
            self._timer = asyncio.get_running_loop().call_later(wait_s, self._dispatch)

    def _due(self, lane: _Lane[_Item, _Result], now: float) -> bool:
        options = self.options
        return (
            lane.items >= options.max_items
            or (options.flush_when_idle and not self._running)
            or now - lane.oldest() >= options.max_delay_s
        )

    def _send(self, lane: _Lane[_Item, _Result], now: float) -> None:
        batch = self._take(lane)
        for entry in batch:
            self.stats.waited(now - entry.since)
        self.stats.sent(sum(entry.size for entry in batch))
        task = asyncio.create_task(self._work(batch))
        self._running.add(task)
        waited_for = len(batch)

        def left(_: object) -> None:
            nonlocal waited_for
            waited_for -= 1
            if not waited_for:
                # Nobody wants it any more; where it is done already this does nothing.
                task.cancel()

        for entry in batch:
            entry.answer.add_done_callback(left)
        task.add_done_callback(self._worked)

    async def _work(self, batch: Sequence[_Entry[_Item, _Result]]) -> None:
        try:
            results = await self._run([entry.item for entry in batch])
            if len(results) != len(batch):
                raise PlaneError(
                    Code.INTERNAL,
                    f"the model gave {len(results)} results for a batch of {len(batch)}",
                )
        except asyncio.CancelledError:
            for entry in batch:
                _fail(entry, _closed())
            raise
        except PlaneError as error:
            for entry in batch:
                _fail(entry, PlaneError(error.code, error.message, error.details))
        except Exception as error:  # noqa: BLE001  # a model may raise anything
            _log.exception("a batch of %d requests failed", len(batch))
            for entry in batch:
                _fail(entry, PlaneError(Code.INTERNAL, f"the model failed: {type(error).__name__}"))
        else:
            for entry, result in zip(batch, results, strict=True):
                if not entry.answer.done():
                    entry.answer.set_result(result)

    def _worked(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not self._closed:
            self._dispatch()

    def _unschedule(self) -> None:
        for handle in (self._timer, self._soon):
            if handle is not None:
                handle.cancel()
        self._timer = self._soon = None

    def _soonest_s(self) -> float:
        """A guess at when there is room again: a batch's time, by what the last ones took."""
        return max(self.options.max_delay_s, self.stats.recent_wait_s, 0.001)


def _fail(entry: _Entry[_Item, _Result], error: PlaneError) -> None:
    if not entry.answer.done():
        entry.answer.set_exception(error)
        # Where its caller has just been cancelled nobody looks at it.
        entry.answer.exception()


def _closed() -> PlaneError:
    return PlaneError(Code.UNAVAILABLE, "the model is going away; ask another instance")
