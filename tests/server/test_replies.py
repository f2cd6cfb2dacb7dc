"""Calls with an idempotency key: their first reply is the reply to all of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from google.rpc.error_details_pb2 import ErrorInfo

from forge.captioner.v1 import (
    CaptionChunk,
    CaptionerService,
    CaptionRequest,
    ListStylesRequest,
    ListStylesResponse,
    Style,
)
from protoplane_base import Code, Context, PlaneError
from protoplane_runtime.engines.memory import MemoryLog
from protoplane_server import CallContext, CallInfo, Dispatcher, Limits

pytestmark = pytest.mark.anyio

PATH = "/forge.captioner.v1.CaptionerService/"
OTHER = ListStylesRequest.from_bytes(b"\x78\x01")  # The same message with a field more.


class Component(CaptionerService):
    """Counts how often it runs, and does what it is given to do."""

    def __init__(self, work: Callable[[Context], Awaitable[Any]] | None = None) -> None:
        self.work = work
        self.runs = 0
        self.ended = 0
        self.begun = asyncio.Event()
        self.release = asyncio.Event()

    async def list_styles(self, request: ListStylesRequest, ctx: Context) -> ListStylesResponse:
        self.runs += 1
        self.begun.set()
        try:
            if self.work is not None:
                await self.work(ctx)
        finally:
            self.ended += 1
        return ListStylesResponse(styles=[Style.STYLE_PLAIN] * self.runs)

    async def caption(self, request: CaptionRequest, ctx: Context) -> AsyncIterator[CaptionChunk]:
        self.runs += 1
        yield CaptionChunk(text=str(self.runs))

    async def wait(self, ctx: Context) -> None:
        await self.release.wait()


def waiting() -> Component:
    component = Component()
    component.work = component.wait
    return component


class Caller:
    """Calls a component, each time with a new context."""

    def __init__(self, component: Component, **limits: Any) -> None:
        self.component = component
        self.dispatcher = Dispatcher([component], events=MemoryLog(), limits=Limits(**limits))
        self.last: CallContext | None = None

    async def call(
        self,
        key: str | None = "k",
        request: ListStylesRequest | None = None,
        *,
        identity: str = "",
        timeout_s: float | None = None,
    ) -> ListStylesResponse:
        metadata = {} if key is None else {"idempotency-key": key}
        info = CallInfo("grpc", "test", metadata, timeout_s, identity=identity)
        ctx = self.last = self.dispatcher.begin(self.dispatcher.method(PATH + "ListStyles"), info)
        async with asyncio.timeout(10):
            answer: ListStylesResponse = await self.dispatcher.unary(
                ctx, request or ListStylesRequest()
            )
        return answer

    async def code(self, *args: Any, **kwargs: Any) -> Code:
        try:
            await self.call(*args, **kwargs)
        except PlaneError as error:
            return error.code
        return Code.OK

    def start(self, *args: Any, **kwargs: Any) -> asyncio.Task[ListStylesResponse]:
        return asyncio.create_task(self.call(*args, **kwargs))

    def metric(self, name: str) -> float:
        value = self.dispatcher.metrics.registry.get_sample_value(
            f"protoplane_replies_{name.partition(':')[0]}",
            {"reason": name.partition(":")[2]} if ":" in name else {},
        )
        assert value is not None
        return value


async def settle() -> None:
    """Let every task go as far as it can."""
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.fixture(autouse=True)
async def no_task_is_left() -> AsyncIterator[None]:
    yield
    await settle()
    names = {getattr(task.get_coro(), "__qualname__", "") for task in asyncio.all_tasks()}
    assert not {name for name in names if not name.startswith("TestRunner.")}


async def test_a_repeated_call_gets_the_first_reply() -> None:
    caller = Caller(Component())
    first = await caller.call()
    again = await caller.call()
    assert again == first
    assert again is not first
    assert caller.component.runs == 1
    assert (caller.metric("repeated_total"), caller.metric("remembered")) == (1, 1)


async def test_nobody_can_change_the_reply_of_another() -> None:
    caller = Caller(Component())
    first = await caller.call()
    first.styles.append(Style.STYLE_VIVID)
    again = await caller.call()
    assert again.styles == [Style.STYLE_PLAIN]
    again.styles.clear()
    assert (await caller.call()).styles == [Style.STYLE_PLAIN]


async def test_calls_without_a_key_or_with_another_run() -> None:
    caller = Caller(Component())
    for key in (None, None, "", "a", "b"):
        if key == "":
            assert await caller.code(key) is Code.INVALID_ARGUMENT
        else:
            await caller.call(key)
    assert caller.component.runs == 4


async def test_callers_of_different_identities_share_nothing() -> None:
    caller = Caller(Component())
    answers = [await caller.call(identity=who) for who in ("", "ann", "bob", "ann")]
    assert [len(answer.styles) for answer in answers] == [1, 2, 3, 2]


async def test_trailers_belong_to_the_reply() -> None:
    async def work(ctx: Context) -> None:
        ctx.set_trailer("x-cost", "7")

    caller = Caller(Component(work))
    await caller.call()
    assert caller.last is not None
    assert caller.last.trailers == {"x-cost": "7"}
    await caller.call()
    assert caller.last.trailers == {"x-cost": "7", "idempotent-replayed": "true"}


async def test_another_request_under_the_same_key() -> None:
    caller = Caller(waiting())
    opened = caller.start()
    await caller.component.begun.wait()
    for _ in range(2):  # While the first is in flight, and once it is remembered.
        with pytest.raises(PlaneError, match="came before with another request") as caught:
            await caller.call(request=OTHER)
        assert caught.value.code is Code.INVALID_ARGUMENT
        caller.component.release.set()
        await opened
    assert caller.component.runs == 1
    await caller.call()


@pytest.mark.parametrize("key", ["", "x" * 256, b"raw"])
async def test_bad_keys(key: Any) -> None:
    caller = Caller(Component())
    with pytest.raises(PlaneError, match="idempotency-key has") as caught:
        await caller.call(key)
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert caller.component.runs == 0


@pytest.mark.parametrize(
    "code",
    [
        Code.UNKNOWN,
        Code.INVALID_ARGUMENT,
        Code.NOT_FOUND,
        Code.ALREADY_EXISTS,
        Code.PERMISSION_DENIED,
        Code.FAILED_PRECONDITION,
        Code.OUT_OF_RANGE,
        Code.UNIMPLEMENTED,
        Code.INTERNAL,
        Code.DATA_LOSS,
    ],
)
async def test_errors_that_a_handler_ended_with_are_remembered(code: Code) -> None:
    async def work(ctx: Context) -> None:
        raise PlaneError(code, "no; nö", [ErrorInfo(reason="BROKEN")])

    caller = Caller(Component(work))
    for _ in range(3):
        with pytest.raises(PlaneError) as caught:
            await caller.call()
        assert (caught.value.code, caught.value.message) == (code, "no; nö")
        assert [detail.reason for detail in caught.value.details] == ["BROKEN"]
    assert caller.component.runs == 1


async def test_a_crash_is_remembered_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    async def work(ctx: Context) -> None:
        raise RuntimeError("half the work is done")

    caller = Caller(Component(work))
    with caplog.at_level(logging.ERROR):
        assert [await caller.code() for _ in range(2)] == [Code.INTERNAL] * 2
    assert caller.component.runs == 1
    assert caplog.text.count("RuntimeError: half the work is done") == 1


@pytest.mark.parametrize(
    "code",
    [
        Code.CANCELLED,
        Code.DEADLINE_EXCEEDED,
        Code.RESOURCE_EXHAUSTED,
        Code.ABORTED,
        Code.UNAVAILABLE,
        Code.UNAUTHENTICATED,
    ],
)
async def test_errors_that_ask_to_be_called_again_are_not(code: Code) -> None:
    async def work(ctx: Context) -> None:
        if caller.component.runs == 1:
            raise PlaneError(code, "later")

    caller = Caller(Component(work))
    assert [await caller.code() for _ in range(3)] == [code, Code.OK, Code.OK]
    assert caller.component.runs == 2


async def test_a_call_that_is_refused_leaves_no_reply() -> None:
    caller = Caller(waiting(), max_concurrent_calls=1)
    opened = caller.start("other")
    await caller.component.begun.wait()
    assert await caller.code() is Code.RESOURCE_EXHAUSTED
    caller.component.release.set()
    await opened
    assert await caller.code() is Code.OK


async def test_an_answer_that_cannot_be_encoded(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Component):
        async def list_styles(self, request: Any, ctx: Any) -> Any:
            self.runs += 1
            return ListStylesResponse.model_construct(styles=["no style"])

    caller = Caller(Broken())
    with caplog.at_level(logging.ERROR):
        assert [await caller.code() for _ in range(2)] == [Code.INTERNAL] * 2
    assert caller.component.runs == 1


async def test_in_flight_all_wait_for_the_first() -> None:
    caller = Caller(waiting())
    tasks = [caller.start() for _ in range(5)]
    await caller.component.begun.wait()
    await settle()
    caller.component.release.set()
    answers = [await task for task in tasks]
    assert all(answer == answers[0] for answer in answers)
    assert len({id(answer) for answer in answers}) == 5
    assert caller.component.runs == 1
    assert caller.metric("repeated_total") == 4


async def test_the_handler_goes_on_for_who_still_waits() -> None:
    caller = Caller(waiting())
    first, second, third = (caller.start() for _ in range(3))
    await caller.component.begun.wait()
    await settle()
    for gone in (first, third):
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
    assert caller.component.ended == 0
    caller.component.release.set()
    assert (await second).styles == [Style.STYLE_PLAIN]
    assert caller.component.runs == 1


async def test_when_nobody_waits_the_handler_is_cancelled() -> None:
    caller = Caller(waiting())
    tasks = [caller.start() for _ in range(3)]
    await caller.component.begun.wait()
    await settle()
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert all(task.cancelled() for task in tasks)
    assert caller.component.ended == 1
    caller.component.release.set()
    await caller.call()
    assert caller.component.runs == 2


async def test_who_comes_while_the_handler_is_being_cancelled_runs_it_again() -> None:
    cleaned = asyncio.Event()

    async def work(ctx: Context) -> None:
        if caller.component.runs > 1:
            return
        try:
            await asyncio.Event().wait()
        finally:
            await cleaned.wait()

    caller = Caller(Component(work))
    first = caller.start()
    await caller.component.begun.wait()
    first.cancel()
    await settle()
    second = caller.start()
    await settle()
    assert caller.component.runs == 1
    cleaned.set()
    assert len((await second).styles) == 2
    assert first.cancelled()


async def test_a_handler_that_ends_in_spite_of_its_cancellation_is_remembered() -> None:
    async def work(ctx: Context) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return

    caller = Caller(Component(work))
    first = caller.start()
    await caller.component.begun.wait()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert len((await caller.call()).styles) == 1
    assert caller.component.runs == 1


async def test_each_caller_has_its_own_deadline() -> None:
    left: list[float | None] = []

    async def work(ctx: Context) -> None:
        left.append(ctx.time_remaining_s())
        await caller.component.wait(ctx)
        left.append(ctx.time_remaining_s())

    caller = Caller(Component(work))
    first = caller.start(timeout_s=0.05)
    await caller.component.begun.wait()
    second = caller.start(timeout_s=60)
    with pytest.raises(PlaneError) as caught:
        await first
    assert caught.value.code is Code.DEADLINE_EXCEEDED
    caller.component.release.set()
    await second
    assert left[0] is not None
    assert left[0] <= 0.05
    assert left[1] is not None
    assert 1 < left[1] <= 60
    assert caller.component.runs == 1


async def test_the_last_deadline_ends_the_handler() -> None:
    caller = Caller(waiting())
    tasks = [caller.start(timeout_s=timeout_s) for timeout_s in (0.02, 0.05)]
    await asyncio.wait(tasks)
    for task in tasks:
        error = task.exception()
        assert isinstance(error, PlaneError)
        assert error.code is Code.DEADLINE_EXCEEDED
    assert caller.component.ended == 1
    caller.component.release.set()
    await caller.call()
    assert caller.component.runs == 2


async def test_a_drain_drops_all_who_wait() -> None:
    caller = Caller(waiting())
    tasks = [caller.start() for _ in range(2)]
    await caller.component.begun.wait()
    await settle()
    await caller.dispatcher.drain(0)
    await asyncio.wait(tasks)
    for task in tasks:
        error = task.exception()
        assert isinstance(error, PlaneError)
        assert error.code is Code.UNAVAILABLE
    assert caller.component.ended == 1
    assert caller.dispatcher.open_calls == 0


async def test_a_handler_that_cancels_itself() -> None:
    async def work(ctx: Context) -> None:
        raise asyncio.CancelledError

    caller = Caller(Component(work))
    tasks = [caller.start() for _ in range(2)]
    for task in tasks:
        with pytest.raises(PlaneError) as caught:
            await task
        assert caught.value.code is Code.CANCELLED
    assert caller.component.runs == 1


async def test_replies_are_bounded_in_number(caplog: pytest.LogCaptureFixture) -> None:
    caller = Caller(Component(), max_replies=2)
    with caplog.at_level(logging.WARNING):
        for key in "abcd":
            await caller.call(key)
    assert (caller.metric("remembered"), caller.metric("forgotten_total:count")) == (2, 2)
    assert caplog.text.count("forgotten before its time") == 1
    await caller.call("d")
    await caller.call("c")
    assert caller.component.runs == 4
    await caller.call("a")
    assert caller.component.runs == 5


async def test_replies_are_bounded_in_bytes() -> None:
    async def work(ctx: Context) -> None:
        size = 2000 if ctx.metadata["idempotency-key"] == "d" else 300
        ctx.set_trailer("x-large", "x" * size)

    caller = Caller(Component(work), max_replies_bytes=1000)
    for key in "abcd":
        await caller.call(key)
    # What is too large for the memory does not push out what is in it.
    assert (caller.metric("remembered"), caller.metric("forgotten_total:bytes")) == (2, 2)
    for key in "bc":
        await caller.call(key)
    assert caller.component.runs == 4
    await caller.call("d")
    assert caller.component.runs == 5


async def test_replies_are_bounded_in_time() -> None:
    caller = Caller(Component(), remember_replies_s=0.02)
    await caller.call()
    await asyncio.sleep(0.03)
    assert len((await caller.call()).styles) == 2
    assert caller.metric("forgotten_total:age") == 1


async def test_nothing_is_remembered_where_nothing_may_be() -> None:
    caller = Caller(waiting(), max_replies=0)
    tasks = [caller.start() for _ in range(2)]
    await caller.component.begun.wait()
    await settle()
    caller.component.release.set()
    await asyncio.wait(tasks)
    assert caller.component.runs == 1
    await caller.call()
    assert caller.component.runs == 2


async def test_a_key_on_a_stream_has_no_effect() -> None:
    target = Caller(Component()).dispatcher
    texts: list[str] = []
    for _ in range(2):
        info = CallInfo("grpc", "test", {"idempotency-key": "k"})
        ctx = target.begin(target.method(PATH + "Caption"), info)
        texts += [chunk.text async for chunk in target.stream(ctx, CaptionRequest())]
    assert texts == ["1", "2"]


async def test_metrics_are_in_the_text_of_prometheus() -> None:
    caller = Caller(Component())
    await caller.call()
    await caller.call()
    text = caller.dispatcher.metrics.render().decode()
    assert "protoplane_replies_repeated_total 1.0" in text
    assert 'protoplane_replies_forgotten_total{reason="age"} 0.0' in text
