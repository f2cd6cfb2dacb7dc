"""Inside a process both sides have messages of their own, and nothing is served twice by a name."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from tests.component_suite import component_options

from forge.captioner.v1 import (
    CaptionChunk,
    CaptionerClient,
    CaptionerService,
    CaptionRequest,
    CollectRequest,
    CollectResponse,
    ConverseRequest,
    ConverseResponse,
    ListStylesRequest,
    ListStylesResponse,
    Style,
)
from protoplane_base import Code, Context, PlaneError
from protoplane_client import connect
from protoplane_server import Server

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Meddler(CaptionerService):
    """Keeps all that it gives, and changes all that it is given."""

    def __init__(self) -> None:
        self.styles = ListStylesResponse(styles=[Style.STYLE_PLAIN])
        self.chunk = CaptionChunk(text="mine")

    async def list_styles(self, request: ListStylesRequest, ctx: Context) -> ListStylesResponse:
        return self.styles

    async def caption(self, request: CaptionRequest, ctx: Context) -> AsyncIterator[CaptionChunk]:
        request.prompt = "changed"
        yield self.chunk
        self.chunk.text = "changed"
        yield self.chunk

    async def collect(
        self, requests: AsyncIterator[CollectRequest], ctx: Context
    ) -> CollectResponse:
        async for request in requests:
            request.text = "changed"
        return CollectResponse(text="done")

    async def converse(
        self, requests: AsyncIterator[ConverseRequest], ctx: Context
    ) -> AsyncIterator[ConverseResponse]:
        async for request in requests:
            request.line = "changed"
            yield ConverseResponse(line="done")


@pytest.fixture
async def client() -> AsyncIterator[CaptionerClient]:
    async with (
        Server(Meddler(), component_options(inproc="meddler")),
        connect("inproc:meddler") as plane,
    ):
        yield CaptionerClient(plane)


async def test_an_answer_is_the_callers_own(client: CaptionerClient) -> None:
    first = await client.list_styles(ListStylesRequest())
    first.styles.append(Style.STYLE_VIVID)
    again = await client.list_styles(ListStylesRequest())
    assert again.styles == [Style.STYLE_PLAIN]


async def test_messages_of_streams_are_each_sides_own(client: CaptionerClient) -> None:
    request = CaptionRequest(prompt="as it was")
    chunks = [chunk async for chunk in client.caption(request)]
    assert request.prompt == "as it was"
    assert [chunk.text for chunk in chunks] == ["mine", "changed"]

    sent = [CollectRequest(text="a"), CollectRequest(text="b")]
    lines = [ConverseRequest(line="c")]

    async def each(items: list[CollectRequest]) -> AsyncIterator[CollectRequest]:
        for item in items:
            yield item

    async def said() -> AsyncIterator[ConverseRequest]:
        for line in lines:
            yield line

    await client.collect(each(sent))
    assert [item.text for item in sent] == ["a", "b"]
    assert [answer.line async for answer in client.converse(said())] == ["done"]
    assert lines[0].line == "c"


async def test_a_name_is_served_once() -> None:
    async with Server(Meddler(), component_options(inproc="one")):
        with pytest.raises(PlaneError) as caught:
            await Server(Meddler(), component_options(inproc="one")).start()
        assert caught.value.code is Code.ALREADY_EXISTS


async def test_a_name_that_nobody_serves() -> None:
    async with connect("inproc:nobody") as plane:
        with pytest.raises(PlaneError) as caught:
            await CaptionerClient(plane).list_styles(ListStylesRequest(), timeout_s=1)
    assert caught.value.code is Code.UNAVAILABLE
    assert "inproc:nobody" in caught.value.message
