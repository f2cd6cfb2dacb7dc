"""The dynamic batcher."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Sequence
from time import monotonic
from typing import Any
from weakref import WeakSet

import pytest
from google.rpc.error_details_pb2 import RetryInfo
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from protoplane_base import Code, PlaneError
from protoplane_server.backends.batch_metrics import BatchMetrics
from protoplane_server.backends.batcher import Batcher, BatcherOptions
from protoplane_server.backends.interface import BackendContext

pytestmark = pytest.mark.anyio
LONG_S = 1000.0


class Model:
    """Notes its batches; each waits until it is released."""

    def __init__(self, *, free: bool = False) -> None:
        self.batches: list[list[Any]] = []
        self.cancelled = 0
        self.release = asyncio.Event()
        self._changed = asyncio.Event()
        if free:
            self.release.set()

    async def __call__(self, items: Sequence[Any]) -> Sequence[Any]:
        self.batches.append(list(items))
        self._changed.set()
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            self._changed.set()
            raise
        return [f"{item}!" for item in items]

    async def until(self, *, batches: int = 0, cancelled: int = 0) -> None:
        async with asyncio.timeout(20):
            while len(self.batches) < batches or self.cancelled < cancelled:
                self._changed.clear()
                await self._changed.wait()


def submit(batcher: Batcher[Any, Any], item: Any, **options: Any) -> asyncio.Task[Any]:
    ctx = BackendContext(
        priority=options.pop("priority", 0), deadline=options.pop("deadline", None)
    )
    return asyncio.create_task(batcher.submit(item, ctx, **options))


async def busy(batcher: Batcher[Any, Any], model: Model) -> asyncio.Task[Any]:
    """Something is being worked on."""
    task = submit(batcher, "busy")
    await model.until(batches=1)
    return task


async def shut(batcher: Batcher[Any, Any], *tasks: asyncio.Task[Any]) -> None:
    """Close it, whatever that does to those who wait."""
    await batcher.close()
    await asyncio.gather(*tasks, return_exceptions=True)


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_an_idle_model_gets_at_once_what_comes_together() -> None:
    model = Model(free=True)
    batcher = Batcher[Any, Any](model, BatcherOptions(max_delay_s=LONG_S))
    async with asyncio.timeout(20):
        assert await asyncio.gather(*(submit(batcher, n) for n in range(3))) == ["0!", "1!", "2!"]
        assert await batcher.submit(9) == "9!"
    assert model.batches == [[0, 1, 2], [9]]
    await batcher.close()


async def test_what_comes_while_it_works_is_the_next_batch() -> None:
    model = Model()
    batcher = Batcher[Any, Any](model, BatcherOptions(max_items=4))
    await busy(batcher, model)
    tasks = [submit(batcher, n) for n in range(6)]
    await turns()
    assert batcher.queued_items == 6
    model.release.set()
    async with asyncio.timeout(20):
        await asyncio.gather(*tasks)
    assert model.batches == [["busy"], [0, 1, 2, 3], [4, 5]]
    await batcher.close()


async def test_a_batch_that_is_not_full_waits_for_the_delay_only() -> None:
    model = Model()
    options = BatcherOptions(max_items=3, max_delay_s=0.05, max_running=3)
    batcher = Batcher[Any, Any](model, options)
    tasks = [await busy(batcher, model)]
    tasks.append(submit(batcher, 1))
    await turns()
    assert len(model.batches) == 1
    await model.until(batches=2)
    # One that is full does not wait.
    slow = Batcher[Any, Any](model, BatcherOptions(max_items=3, max_delay_s=LONG_S, max_running=3))
    tasks.append(submit(slow, "x"))
    await model.until(batches=3)
    tasks += [submit(slow, n) for n in range(3)]
    await model.until(batches=4)
    assert model.batches == [["busy"], [1], ["x"], [0, 1, 2]]
    await shut(batcher)
    await shut(slow, *tasks)


async def test_without_flushing_an_idle_model_waits_too() -> None:
    model = Model(free=True)
    options = BatcherOptions(max_items=2, max_delay_s=LONG_S, flush_when_idle=False)
    batcher = Batcher[Any, Any](model, options)
    task = submit(batcher, 1)
    await turns()
    assert model.batches == []
    async with asyncio.timeout(20):
        await asyncio.gather(task, submit(batcher, 2))
    assert model.batches == [[1, 2]]
    await batcher.close()


async def test_the_urgent_go_first_and_keys_stay_apart() -> None:
    model = Model()
    batcher = Batcher[Any, Any](model, BatcherOptions(max_items=2))
    await busy(batcher, model)
    tasks = [
        submit(batcher, "low"),
        submit(batcher, "other", key="k"),
        submit(batcher, "high", priority=2),
        submit(batcher, "mid", priority=1),
    ]
    await turns()
    model.release.set()
    async with asyncio.timeout(20):
        await asyncio.gather(*tasks)
    assert model.batches[1:] == [["high", "mid"], ["low"], ["other"]]
    await batcher.close()


async def test_sizes_fill_a_batch() -> None:
    model = Model()
    batcher = Batcher[Any, Any](model, BatcherOptions(max_items=4))
    await busy(batcher, model)
    tasks = [submit(batcher, n, size=size) for n, size in enumerate([3, 1, 2, 2, 4])]
    await turns()
    model.release.set()
    async with asyncio.timeout(20):
        await asyncio.gather(*tasks)
    assert model.batches[1:] == [[0, 1], [2, 3], [4]]
    for size in (0, 5):
        with pytest.raises(PlaneError, match=f"{size} items fits no batch") as caught:
            await batcher.submit("large", size=size)
        assert caught.value.code is Code.INVALID_ARGUMENT
    await batcher.close()


async def test_a_full_queue_refuses_with_a_hint() -> None:
    model = Model()
    batcher = Batcher[Any, Any](model, BatcherOptions(max_queue_items=2))
    await busy(batcher, model)
    tasks = [submit(batcher, n) for n in range(2)]
    await turns()
    with pytest.raises(PlaneError) as caught:
        await batcher.submit(3)
    assert caught.value.code is Code.RESOURCE_EXHAUSTED
    [hint] = caught.value.details
    assert isinstance(hint, RetryInfo)
    assert hint.retry_delay.ToMilliseconds() > 0
    # One that leaves makes room.
    tasks[0].cancel()
    await turns()
    tasks.append(submit(batcher, 4))
    model.release.set()
    async with asyncio.timeout(20):
        assert await tasks[2] == "4!"
    assert batcher.stats.dropped == {"cancelled": 1, "expired": 0, "refused": 1}
    await batcher.close()


async def test_the_cancelled_and_the_expired_never_reach_the_model() -> None:
    model = Model()
    batcher = Batcher[Any, Any](model)
    await busy(batcher, model)
    kept = submit(batcher, "kept")
    left = submit(batcher, "left")
    late = submit(batcher, "late", deadline=monotonic() + 0.05)
    await turns()
    left.cancel()
    with pytest.raises(PlaneError) as caught:
        await late
    assert caught.value.code is Code.DEADLINE_EXCEEDED
    with pytest.raises(PlaneError, match="ran out of time"):
        await batcher.submit("past", BackendContext(deadline=monotonic() - 1))
    assert batcher.queued_items == 1
    model.release.set()
    async with asyncio.timeout(20):
        await kept
    assert model.batches == [["busy"], ["kept"]]
    await batcher.close()


async def test_a_model_that_hangs_is_let_go_of_when_nobody_waits() -> None:
    model = Model()
    batcher = Batcher[Any, Any](model, BatcherOptions(max_items=2))
    first = submit(batcher, 1, deadline=monotonic() + 0.1)
    second = submit(batcher, 2)
    await model.until(batches=1)
    with pytest.raises(PlaneError) as caught:
        await first
    assert caught.value.code is Code.DEADLINE_EXCEEDED
    assert model.cancelled == 0
    second.cancel()
    await model.until(cancelled=1)
    # Its slot is free.
    model.release.set()
    async with asyncio.timeout(20):
        assert await batcher.submit(3) == "3!"
    await shut(batcher, second)
    assert batcher.running == 0


@pytest.mark.parametrize("fault", ["plane", "crash", "count"])
async def test_a_model_that_fails(fault: str, caplog: pytest.LogCaptureFixture) -> None:
    async def run(items: Sequence[Any]) -> Sequence[Any]:
        if "good" in items:
            return list(items)
        if fault == "plane":
            raise PlaneError(Code.UNAVAILABLE, "it is away")
        if fault == "crash":
            raise ZeroDivisionError("secret 1234")
        return []

    batcher = Batcher[Any, Any](run)
    with caplog.at_level(logging.CRITICAL if fault == "plane" else logging.ERROR):
        outcomes = await asyncio.gather(
            *(submit(batcher, n) for n in range(2)), return_exceptions=True
        )
    errors = [each for each in outcomes if isinstance(each, PlaneError)]
    assert len(errors) == 2
    assert errors[0] is not errors[1]
    code = Code.UNAVAILABLE if fault == "plane" else Code.INTERNAL
    assert {error.code for error in errors} == {code}
    assert "1234" not in str(errors)
    assert await batcher.submit("good") == "good"
    await batcher.close()


async def test_closing_ends_what_waits_and_what_works() -> None:
    model = Model()
    batcher = Batcher[Any, Any](model)
    tasks = [await busy(batcher, model), submit(batcher, 1)]
    await turns()
    await batcher.close()
    await batcher.close()
    for task in tasks:
        with pytest.raises(PlaneError) as caught:
            await task
        assert caught.value.code is Code.UNAVAILABLE
    assert (model.cancelled, batcher.running, batcher.queued_items) == (1, 0, 0)
    with pytest.raises(PlaneError) as caught:
        await batcher.submit(2)
    assert caught.value.code is Code.UNAVAILABLE


async def test_those_that_left_take_no_memory_behind_a_model_that_hangs() -> None:
    model = Model()
    batcher = Batcher[Any, Any](model)
    first = await busy(batcher, model)
    items: WeakSet[Model] = WeakSet()

    def ask() -> asyncio.Task[Any]:
        item = Model()
        items.add(item)
        return submit(batcher, item)

    tasks = [ask() for _ in range(200)]
    await turns()
    assert len(items) == batcher.queued_items == 200
    while tasks:
        tasks.pop().cancel()
    await turns()
    gc.collect()
    assert len(items) == batcher.queued_items == 0
    await shut(batcher, first)


async def test_metrics() -> None:
    model = Model(free=True)
    batcher = Batcher[Any, Any](model)
    await asyncio.gather(*(submit(batcher, n) for n in range(3)))
    registry = CollectorRegistry()
    registry.register(BatchMetrics({"m": batcher.stats}))
    text = generate_latest(registry).decode()
    for line in (
        'protoplane_batch_items_bucket{le="2.0",model="m"} 0.0',
        'protoplane_batch_items_bucket{le="4.0",model="m"} 1.0',
        'protoplane_batch_items_sum{model="m"} 3.0',
        'protoplane_batch_wait_seconds_count{model="m"} 3.0',
        'protoplane_batch_queued_items{model="m"} 0.0',
        'protoplane_batch_dropped_total{model="m",reason="cancelled"} 0.0',
    ):
        assert line in text
    await batcher.close()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["ask", "ask", "ask", "cancel", "turn", "fail"]),
            st.integers(1, 4),
            st.integers(0, 2),
            st.sampled_from(["a", "b"]),
        ),
        max_size=40,
    ),
    st.integers(4, 6),
    st.integers(1, 3),
    st.booleans(),
)
def test_each_request_has_one_outcome(
    steps: list[tuple[str, int, int, str]], max_items: int, max_running: int, flush: bool
) -> None:
    """Whatever comes, goes and fails: batches keep their bounds, and nobody waits for ever."""

    async def go() -> None:
        working = failing = 0

        async def run(items: Sequence[tuple[int, int, str]]) -> Sequence[int]:
            nonlocal working, failing
            working += 1
            assert working <= max_running
            assert sum(size for _, size, _ in items) <= max_items
            assert len({key for _, _, key in items}) == 1
            try:
                await asyncio.sleep(0)
                if failing:
                    failing -= 1
                    raise PlaneError(Code.UNAVAILABLE, "it is away")
                return [number for number, _, _ in items]
            finally:
                working -= 1

        batcher = Batcher[tuple[int, int, str], int](
            run,
            BatcherOptions(
                max_items=max_items,
                max_running=max_running,
                max_queue_items=12,
                max_delay_s=0.001,
                flush_when_idle=flush,
            ),
        )
        tasks: list[asyncio.Task[int]] = []
        for what, size, priority, key in steps:
            if what == "ask":
                item = (len(tasks), size, key)
                tasks.append(submit(batcher, item, size=size, priority=priority, key=key))
            elif what == "cancel" and tasks:
                tasks[size * 7 % len(tasks)].cancel()
            elif what == "fail":
                failing += 1
            else:
                await asyncio.sleep(0)
        async with asyncio.timeout(20):
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        for number, outcome in enumerate(outcomes):
            assert outcome == number or isinstance(outcome, (PlaneError, asyncio.CancelledError))
            if isinstance(outcome, PlaneError):
                assert outcome.code in (Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED)
        async with asyncio.timeout(20):
            while batcher.running:  # noqa: ASYNC110
                await asyncio.sleep(0)
        assert batcher.queued_items == 0
        await batcher.close()

    asyncio.run(go())


def test_options_that_cannot_be() -> None:
    for wrong in ({"max_items": 0}, {"max_delay_s": -1}, {"max_queue_items": 0}):
        with pytest.raises(ValueError, match="1 or more"):
            BatcherOptions(**wrong)  # type: ignore[arg-type]
