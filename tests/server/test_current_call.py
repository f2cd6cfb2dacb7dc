"""Which call a handler sees as the one that it serves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextvars import copy_context
from typing import Any

import pytest

from forge.captioner.v1 import (
    CaptionChunk,
    CaptionerService,
    CaptionRequest,
    ListStylesRequest,
    ListStylesResponse,
)
from protoplane_base import Context
from protoplane_runtime.calling import serving
from protoplane_runtime.engines.memory import MemoryLog
from protoplane_server import CallContext, CallInfo, Dispatcher

pytestmark = pytest.mark.anyio

PATH = "/forge.captioner.v1.CaptionerService/"


def current() -> str:
    call = serving.get()
    return "" if call is None else call.request_id


class Watcher(CaptionerService):
    """Notes which call it finds itself in."""

    def __init__(self) -> None:
        self.dispatcher = Dispatcher([self], events=MemoryLog())
        self.seen: list[tuple[str, str]] = []

    def begin(self, method: str, request_id: str, **metadata: str) -> CallContext:
        info = CallInfo("link", "test", metadata, 60.0 if metadata else None, request_id)
        return self.dispatcher.begin(self.dispatcher.method(PATH + method), info)

    async def unary(self, request_id: str, **metadata: str) -> Any:
        ctx = self.begin("ListStyles", request_id, **metadata)
        return await self.dispatcher.unary(ctx, ListStylesRequest())

    def note(self, ctx: Context) -> None:
        self.seen.append((ctx.request_id, current()))

    async def list_styles(self, request: ListStylesRequest, ctx: Context) -> ListStylesResponse:
        self.note(ctx)
        match ctx.metadata.get("x-do"):
            case "nest":
                await self.unary("inner")
            case "fail":
                raise RuntimeError
            case "hang":
                await asyncio.Event().wait()
            case _:
                await asyncio.sleep(0)
        self.note(ctx)
        return ListStylesResponse()

    async def caption(self, request: CaptionRequest, ctx: Context) -> AsyncIterator[CaptionChunk]:
        try:
            for _ in range(3):
                self.note(ctx)
                await asyncio.sleep(0)
                yield CaptionChunk()
        finally:
            self.note(ctx)

    def sees_itself(self) -> bool:
        return bool(self.seen) and all(served == seen for served, seen in self.seen)


@pytest.mark.parametrize("do", ["", "nest", "fail"])
async def test_one_answer(do: str) -> None:
    watcher = Watcher()
    await asyncio.gather(
        *(watcher.unary(str(number), **({"x-do": do} if do else {})) for number in range(5)),
        return_exceptions=True,
    )
    assert watcher.sees_itself()
    assert current() == ""


async def test_with_a_key() -> None:
    watcher = Watcher()
    await asyncio.gather(*(watcher.unary("same", **{"idempotency-key": "k"}) for _ in range(3)))
    assert watcher.seen == [("same", "same")] * 2


@pytest.mark.parametrize("metadata", [{}, {"x-timeout": "yes"}])
async def test_streams_that_one_task_reads_in_turn(metadata: dict[str, str]) -> None:
    watcher = Watcher()
    streams = [
        watcher.dispatcher.stream(watcher.begin("Caption", name, **metadata), CaptionRequest())
        for name in "abc"
    ]
    for _ in range(2):
        for stream in streams:
            await anext(stream)
            assert current() == ""
    for stream in streams:
        await stream.aclose()
    assert len(watcher.seen) == 9
    assert watcher.sees_itself()
    assert current() == ""


async def test_a_call_that_is_swept_up_in_another_context() -> None:
    watcher = Watcher()
    work = watcher.unary("lost", **{"x-do": "hang"})
    copy_context().run(work.send, None)
    work.close()
    assert watcher.dispatcher.open_calls == 0
    assert current() == ""
