"""The chain around every call, without a door."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.parts import Parts

from forge.captioner.v1 import CaptionChunk, CaptionerService, CaptionRequest, ListStylesRequest
from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.memory import MemoryLog
from protoplane_server import CallContext, CallInfo, Dispatcher, Limits

pytestmark = pytest.mark.anyio

PATH = "/forge.captioner.v1.CaptionerService/"


def dispatcher(service: Any = None, **limits: Any) -> Dispatcher:
    return Dispatcher([service or Parts()], events=MemoryLog(), limits=Limits(**limits))


def begin(target: Dispatcher, method: str = "ListStyles", **info: Any) -> CallContext:
    metadata = {"x-do": info.pop("do", "")}
    return target.begin(target.method(PATH + method), CallInfo("grpc", "test", metadata, **info))


async def test_two_services_of_one_schema() -> None:
    with pytest.raises(ValueError, match="two services implement forge"):
        Dispatcher([Parts(), Parts()], events=MemoryLog())


async def test_no_service() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Dispatcher([], events=MemoryLog())


@pytest.mark.parametrize(
    ("path", "named"),
    [
        (PATH + "Missing", "Caption, ListStyles, Collect, Converse"),
        ("/forge.nowhere.v1.Nowhere/Caption", "served are forge.captioner.v1.CaptionerService"),
        ("", "served are"),
        ("/" + "x" * 5000, "served are"),
    ],
)
async def test_unknown_paths_are_told_what_there_is(path: str, named: str) -> None:
    with pytest.raises(PlaneError) as caught:
        dispatcher().method(path)
    assert caught.value.code is Code.UNIMPLEMENTED
    assert named in caught.value.message
    assert len(caught.value.message) < 500


async def test_what_a_component_leaves_out_is_unimplemented() -> None:
    class Empty(CaptionerService):
        pass

    target = dispatcher(Empty())
    with pytest.raises(PlaneError, match="define list_styles") as caught:
        await target.unary(begin(target), ListStylesRequest())
    assert caught.value.code is Code.UNIMPLEMENTED
    with pytest.raises(PlaneError, match=r"define caption\(\)") as caught:
        await anext(target.stream(begin(target, "Caption"), CaptionRequest()))
    assert caught.value.code is Code.UNIMPLEMENTED


async def test_calls_past_the_limit_are_refused() -> None:
    parts = Parts()
    target = dispatcher(parts, max_concurrent_calls=1)
    opened = asyncio.create_task(target.unary(begin(target, do="wait"), ListStylesRequest()))
    await parts.until(hanging=1)
    with pytest.raises(PlaneError) as caught:
        await target.unary(begin(target), ListStylesRequest())
    assert caught.value.code is Code.RESOURCE_EXHAUSTED
    with pytest.raises(PlaneError) as caught:
        target.stream(begin(target, "Caption"), CaptionRequest())
    assert caught.value.code is Code.RESOURCE_EXHAUSTED
    parts.release.set()
    await opened
    await target.unary(begin(target), ListStylesRequest())


async def test_a_deadline_in_the_past_does_not_reach_the_handler() -> None:
    parts = Parts()
    target = dispatcher(parts)
    with pytest.raises(PlaneError) as caught:
        await target.unary(begin(target, timeout_s=0.0), ListStylesRequest())
    assert caught.value.code is Code.DEADLINE_EXCEEDED
    assert not parts.contexts


async def test_the_server_bounds_deadlines() -> None:
    target = dispatcher(max_timeout_s=5)
    for asked in (None, 60.0):
        remaining = begin(target, timeout_s=asked).time_remaining_s()
        assert remaining is not None
        assert remaining <= 5
    remaining = begin(target, timeout_s=1.0).time_remaining_s()
    assert remaining is not None
    assert remaining <= 1


async def test_a_timeout_of_the_handler_itself_is_not_the_deadline(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Impatient(CaptionerService):
        async def list_styles(self, request: Any, ctx: Any) -> Any:
            raise TimeoutError

    target = dispatcher(Impatient())
    with caplog.at_level(logging.ERROR), pytest.raises(PlaneError) as caught:
        await target.unary(begin(target, timeout_s=60.0), ListStylesRequest())
    assert caught.value.code is Code.INTERNAL


@pytest.mark.parametrize("timeout_s", [None, 60.0])
async def test_closing_a_stream_closes_the_handler(timeout_s: float | None) -> None:
    closed = asyncio.Event()

    class Endless(CaptionerService):
        async def caption(self, request: Any, ctx: Any) -> AsyncIterator[CaptionChunk]:
            try:
                while True:
                    yield CaptionChunk()
            finally:
                closed.set()

    target = dispatcher(Endless())
    stream = target.stream(begin(target, "Caption", timeout_s=timeout_s), CaptionRequest())
    await anext(stream)
    assert target.open_calls == 1
    await stream.aclose()
    assert closed.is_set()
    assert target.open_calls == 0


async def test_a_handler_without_yield_is_explained(caplog: pytest.LogCaptureFixture) -> None:
    class Wrong(CaptionerService):
        async def caption(self, request: Any, ctx: Any) -> Any:  # type: ignore[override]
            return CaptionChunk()

    target = dispatcher(Wrong())
    with caplog.at_level(logging.ERROR), pytest.raises(PlaneError) as caught:
        await anext(target.stream(begin(target, "Caption"), CaptionRequest()))
    assert caught.value.code is Code.INTERNAL
    assert "caption() must be an async generator" in caplog.text


async def test_a_stream_that_is_never_read_leaves_nothing() -> None:
    target = dispatcher()
    stream = target.stream(begin(target, "Caption"), CaptionRequest())
    await stream.aclose()
    assert target.open_calls == 0
    await target.drain(0)


async def test_request_ids() -> None:
    target = dispatcher()
    method = target.method(PATH + "ListStyles")
    given = target.begin(method, CallInfo("http", "", {"x-request-id": "a"}, request_id="b"))
    assert given.request_id == "b"
    made = target.begin(method, CallInfo("http", "", {}))
    assert made.request_id == made.request_id
    assert len(made.request_id) == 32


@pytest.mark.parametrize(
    ("name", "value"),
    [("", "x"), ("a b", "x"), ("grpc-status", "0"), ("x-bin", "x"), ("x", b"x"), ("x", "a\nb")],
)
async def test_bad_trailers(name: str, value: Any) -> None:
    ctx = begin(dispatcher())
    with pytest.raises(ValueError, match=r"name|value"):
        ctx.set_trailer(name, value)


async def test_publishing_what_is_no_event() -> None:
    target = dispatcher()
    ctx = begin(target)
    with pytest.raises(PlaneError, match="no event option") as caught:
        await ctx.publish(CaptionChunk(text="a"))
    assert caught.value.code is Code.INVALID_ARGUMENT
    reader = target.events.read(["chunks/*"])
    event_id = await ctx.publish(CaptionChunk(text="a"), key="chunks/1")
    [event] = await anext(reader)
    assert (str(event.id), event.type) == (event_id, "forge.captioner.v1.CaptionChunk")  # type: ignore[union-attr]


async def test_publishing_without_the_field_that_the_key_needs() -> None:
    from forge.captioner.v1 import CaptionFinished

    with pytest.raises(PlaneError) as caught:
        await begin(dispatcher()).publish(CaptionFinished())
    assert caught.value.code is Code.INVALID_ARGUMENT


async def test_draining_waits() -> None:
    parts = Parts()
    target = dispatcher(parts)
    opened = asyncio.create_task(target.unary(begin(target, do="wait"), ListStylesRequest()))
    await parts.until(hanging=1)
    draining = asyncio.create_task(target.drain(30))
    await asyncio.sleep(0)
    assert target.draining
    assert not draining.done()
    parts.release.set()
    await opened
    await draining
    assert target.open_calls == 0


async def test_a_drain_can_be_cut_short() -> None:
    parts = Parts()
    target = dispatcher(parts)
    opened = asyncio.create_task(target.unary(begin(target, do="hang"), ListStylesRequest()))
    await parts.until(hanging=1)
    draining = asyncio.create_task(target.drain(30))
    await asyncio.sleep(0)
    await target.drain(0)
    with pytest.raises(PlaneError) as caught:
        await opened
    assert caught.value.code is Code.UNAVAILABLE
    await draining


async def test_cancelling_the_caller_passes_through() -> None:
    parts = Parts()
    target = dispatcher(parts)
    opened = asyncio.create_task(target.unary(begin(target, do="hang"), ListStylesRequest()))
    await parts.until(hanging=1)
    opened.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opened
    assert parts.cancelled == 1
    assert 'code="CANCELLED"' in target.metrics.render().decode()
