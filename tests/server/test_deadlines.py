"""Deadlines of calls: when they pass, and what is left of them when they do not."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from typing import Any

import pytest

from forge.captioner.v1 import (
    CaptionChunk,
    CaptionerService,
    CaptionRequest,
    ListStylesRequest,
    ListStylesResponse,
)
from protoplane_base import Code, Context, PlaneError
from protoplane_runtime.engines.memory import MemoryLog
from protoplane_server import CallContext, CallInfo, Dispatcher

pytestmark = pytest.mark.anyio

PATH = "/forge.captioner.v1.CaptionerService/"


class Sleeper(CaptionerService):
    """Sleeps as long as `x-sleep` says."""

    async def list_styles(self, request: ListStylesRequest, ctx: Context) -> ListStylesResponse:
        await asyncio.sleep(float(ctx.metadata["x-sleep"]))
        return ListStylesResponse()

    async def caption(self, request: CaptionRequest, ctx: Context) -> AsyncIterator[CaptionChunk]:
        while True:
            yield CaptionChunk()
            await asyncio.sleep(float(ctx.metadata["x-sleep"]))


class Stubborn(CaptionerService):
    """Answers although it is cancelled."""

    async def list_styles(self, request: ListStylesRequest, ctx: Context) -> ListStylesResponse:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return ListStylesResponse()
        raise AssertionError


def dispatcher(service: CaptionerService | None = None) -> Dispatcher:
    return Dispatcher([service or Sleeper()], events=MemoryLog())


def begin(target: Dispatcher, method: str, sleep_s: float, timeout_s: float) -> CallContext:
    info = CallInfo("grpc", "test", {"x-sleep": str(sleep_s)}, timeout_s)
    return target.begin(target.method(PATH + method), info)


async def unary(target: Dispatcher, sleep_s: float, timeout_s: float) -> Any:
    ctx = begin(target, "ListStyles", sleep_s, timeout_s)
    async with asyncio.timeout(10):
        return await target.unary(ctx, ListStylesRequest())


async def test_of_many_calls_those_that_take_too_long_end() -> None:
    target = dispatcher()
    slow = [asyncio.create_task(unary(target, 60, 0.01 * (n % 7 + 1))) for n in range(50)]
    quick = [asyncio.create_task(unary(target, 0.01, 60)) for _ in range(50)]
    await asyncio.wait([*slow, *quick], timeout=10)
    assert {_code(task) for task in slow} == {Code.DEADLINE_EXCEEDED}
    assert {_code(task) for task in quick} == {Code.OK}
    assert target.open_calls == 0


async def test_an_earlier_deadline_is_minded_after_a_later_one() -> None:
    target = dispatcher()
    later = asyncio.create_task(unary(target, 60, 30))
    await asyncio.sleep(0)
    with pytest.raises(PlaneError) as caught:
        await unary(target, 60, 0.01)
    assert caught.value.code is Code.DEADLINE_EXCEEDED
    assert not later.done()
    later.cancel()
    with pytest.raises(asyncio.CancelledError):
        await later


async def test_calls_that_are_over_are_not_kept() -> None:
    target = dispatcher()
    # Other tests may have left contexts too: these are known by their peer.
    info = CallInfo("grpc", "over and not kept", {"x-sleep": "0"}, 3600)
    for _ in range(1000):
        ctx = target.begin(target.method(PATH + "ListStyles"), info)
        await target.unary(ctx, ListStylesRequest())
    gc.collect()
    contexts = [thing for thing in gc.get_objects() if isinstance(thing, CallContext)]
    assert sum(ctx.peer == info.peer for ctx in contexts) < 200


async def test_the_task_that_called_goes_on_after_the_deadline() -> None:
    target = dispatcher()
    task = asyncio.current_task()
    assert task is not None
    for _ in range(3):
        with pytest.raises(PlaneError):
            await unary(target, 60, 0.005)
        assert task.cancelling() == 0
        await asyncio.sleep(0)


async def test_a_handler_that_answers_although_it_is_late() -> None:
    target = dispatcher(Stubborn())
    assert await unary(target, 0, 0.005) == ListStylesResponse()
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_cancelled_and_late_at_once_is_cancelled() -> None:
    blocked = asyncio.Event()

    class Slow(CaptionerService):
        async def list_styles(self, request: Any, ctx: Any) -> Any:
            try:
                await asyncio.Event().wait()
            finally:
                blocked.set()
                await asyncio.sleep(0.02)

    opened = asyncio.create_task(unary(dispatcher(Slow()), 0, 0.005))
    await blocked.wait()
    opened.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opened


async def test_a_stream_ends_at_its_deadline_wherever_it_is_read() -> None:
    target = dispatcher()
    stream = target.stream(begin(target, "Caption", 0, 0.05), CaptionRequest())

    async def read() -> None:
        while True:  # Each step is taken by another task.
            await asyncio.gather(anext(stream))

    with pytest.raises(PlaneError) as caught:
        await read()
    assert caught.value.code is Code.DEADLINE_EXCEEDED
    assert target.open_calls == 0


async def test_a_deadline_that_passes_while_nobody_reads() -> None:
    target = dispatcher()
    stream = target.stream(begin(target, "Caption", 60, 0.01), CaptionRequest())
    await anext(stream)
    await asyncio.sleep(0.03)
    with pytest.raises(PlaneError) as caught:
        async with asyncio.timeout(10):
            await anext(stream)
    assert caught.value.code is Code.DEADLINE_EXCEEDED


def _code(task: asyncio.Task[Any]) -> Code:
    error = task.exception()
    if error is None:
        return Code.OK
    assert isinstance(error, PlaneError)
    return error.code
