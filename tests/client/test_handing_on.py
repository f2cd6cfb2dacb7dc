"""A handler's own calls: no longer than the call it serves, and in the same trace."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from tests.parts import Parts

from forge.captioner.v1 import (
    CaptionChunk,
    CaptionerClient,
    CaptionerService,
    CaptionRequest,
    ListStylesRequest,
    ListStylesResponse,
)
from protoplane_base import Code, Context, PlaneError
from protoplane_client import Plane, connect
from protoplane_runtime.calling import serving
from protoplane_server import Options, Server

pytestmark = pytest.mark.anyio

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TRACE = {"traceparent": PARENT, "tracestate": "congo=t61rcWkgMzE"}


class Front(CaptionerService):
    """Asks another component; each method in its own way."""

    def __init__(self, back: Plane) -> None:
        self.back = CaptionerClient(back)
        self.later: asyncio.Task[ListStylesResponse] | None = None

    async def list_styles(self, request: ListStylesRequest, ctx: Context) -> ListStylesResponse:
        do = str(ctx.metadata.get("x-do", ""))
        if do == "own":
            return await self.back.list_styles(
                request, timeout_s=5, metadata={"traceparent": PARENT.replace("-01", "-00")}
            )
        if do == "later":
            self.later = asyncio.create_task(self._later(request))
            return ListStylesResponse()
        return await self.back.list_styles(request, timeout_s=90, metadata={"x-do": do})

    async def caption(self, request: CaptionRequest, ctx: Context) -> AsyncIterator[CaptionChunk]:
        assert self.serves(ctx)
        await self.back.list_styles(ListStylesRequest())
        yield CaptionChunk()
        assert self.serves(ctx)
        async for chunk in self.back.caption(request):
            yield chunk

    def serves(self, ctx: Context) -> bool:
        call = serving.get()
        return call is not None and call.request_id == ctx.request_id

    async def _later(self, request: ListStylesRequest) -> ListStylesResponse:
        while (call := serving.get()) is not None and not call.over:  # noqa: ASYNC110
            await asyncio.sleep(0)
        return await self.back.list_styles(request)


@pytest.fixture(params=["grpc", "http"])
async def back(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Parts, Plane]]:
    parts = Parts()
    door = str(request.param)
    options = Options(grpc=None, http=None, grace_s=0)
    async with Server(parts, _with(options, door)) as server:
        target = server.grpc_address if door == "grpc" else server.http_url
        async with connect(str(target)) as plane:
            yield parts, plane


@pytest.fixture(params=["grpc", "http"])
async def front(
    request: pytest.FixtureRequest, back: tuple[Parts, Plane]
) -> AsyncIterator[tuple[Front, CaptionerClient]]:
    service = Front(back[1])
    door = str(request.param)
    options = Options(grpc=None, http=None, grace_s=0)
    async with Server(service, _with(options, door)) as server:
        target = server.grpc_address if door == "grpc" else server.http_url
        async with connect(str(target)) as plane:
            yield service, CaptionerClient(plane)


def _with(options: Options, door: str) -> Options:
    from dataclasses import replace

    return (
        replace(options, grpc="127.0.0.1:0")
        if door == "grpc"
        else replace(options, http="127.0.0.1:0")
    )


Pair = tuple[Front, CaptionerClient]
Back = tuple[Parts, Plane]


async def test_deadlines_shrink_at_each_hop(front: Pair, back: Back) -> None:
    await front[1].list_styles(ListStylesRequest(), timeout_s=30)
    await front[1].list_styles(ListStylesRequest())
    [shrunk, own] = back[0].remaining_s
    assert shrunk is not None
    assert 20 < shrunk < 35  # gRPC rounds up.
    assert own is not None
    assert 80 < own < 95


async def test_the_end_of_the_time_reaches_what_was_called(front: Pair, back: Back) -> None:
    with pytest.raises(PlaneError) as caught:
        await front[1].list_styles(ListStylesRequest(), timeout_s=0.2, metadata={"x-do": "hang"})
    assert caught.value.code is Code.DEADLINE_EXCEEDED
    await back[0].until(hanging=0)


async def test_the_trace_goes_on(front: Pair, back: Back) -> None:
    await front[1].list_styles(ListStylesRequest(), metadata=TRACE)
    await front[1].list_styles(ListStylesRequest(), metadata=TRACE)
    await front[1].list_styles(ListStylesRequest())
    [first, second, third] = [context.metadata for context in back[0].contexts]
    for metadata in (first, second):
        assert metadata["tracestate"] == TRACE["tracestate"]
        version, trace, span, flags = str(metadata["traceparent"]).split("-")
        assert [version, trace, flags] == ["00", PARENT[3:35], "01"]
        assert span != PARENT[36:52]
    assert first["traceparent"] != second["traceparent"]
    assert "traceparent" not in third


async def test_a_trace_of_its_own_stands(front: Pair, back: Back) -> None:
    await front[1].list_styles(ListStylesRequest(), metadata={**TRACE, "x-do": "own"})
    [context] = back[0].contexts
    assert context.metadata["traceparent"] == PARENT.replace("-01", "-00")
    assert "tracestate" not in context.metadata


async def test_streams_hand_on_too(front: Pair, back: Back) -> None:
    request = CaptionRequest(prompt="one two")
    answers = front[1].caption(request, timeout_s=30, metadata=TRACE)
    assert len([answer async for answer in answers]) == 3
    assert [str(context.metadata["traceparent"])[3:35] for context in back[0].contexts] == [
        PARENT[3:35],
        PARENT[3:35],
    ]
    assert all(left is not None and left < 35 for left in back[0].remaining_s)
    assert serving.get() is None


async def test_what_outlives_a_call_is_not_bound_by_its_deadline(front: Pair, back: Back) -> None:
    await front[1].list_styles(ListStylesRequest(), timeout_s=30, metadata={"x-do": "later"})
    assert front[0].later is not None
    await front[0].later
    assert back[0].remaining_s == [None]
