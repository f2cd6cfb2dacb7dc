"""An event that names its publication is in the log once, whichever way it was published."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import anyio.to_thread
import httpx
import pytest
from tests.component_suite import LIST_STYLES, component_options

from forge.captioner.v1 import (
    CaptionerService,
    CaptionFinished,
    ListStylesRequest,
    ListStylesResponse,
)
from protoplane_base import Code, Context, PlaneError
from protoplane_client import connect, connect_sync
from protoplane_server import Host, Server

pytestmark = pytest.mark.anyio

KEY = "forge/captions/1"
TYPE = "forge.captioner.v1.CaptionFinished"
EVENT = CaptionFinished(request_id="1", words=7)


class Publisher(CaptionerService):
    """Publishes at each call, and has its host for doing so outside of one."""

    host: Host

    def __init__(self) -> None:
        self.published: list[str] = []

    def hosted(self, host: Host) -> None:
        self.host = host

    async def list_styles(self, request: ListStylesRequest, ctx: Context) -> ListStylesResponse:
        self.published.append(await ctx.publish(EVENT, publisher="cameras", number=4))
        return ListStylesResponse()


@pytest.fixture
def publisher() -> Publisher:
    return Publisher()


@pytest.fixture
async def server(publisher: Publisher, tmp_path: Path) -> AsyncIterator[Server]:
    options = component_options(http="127.0.0.1:0", engine=f"local:{tmp_path}")
    async with Server(publisher, options) as served:
        yield served


@pytest.fixture
async def http(server: Server) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=str(server.http_url), timeout=30) as client:
        yield client


async def post(http: httpx.AsyncClient, **query: str) -> httpx.Response:
    return await http.post(f"/events/{KEY}", params=query, content=EVENT.model_dump_json())


async def test_the_same_publication_twice(server: Server, http: httpx.AsyncClient) -> None:
    first = await post(http, publisher="cameras", number="4")
    again = await post(http, publisher="cameras", number="4")
    assert first.status_code == 200
    assert again.json() == first.json()
    assert (await server.events.stats()).events == 1
    others = [
        await post(http, publisher="cameras", number="5"),
        await post(http, publisher="doors", number="4"),
        await post(http),
        await post(http),
    ]
    assert len({first.json()["id"], *(other.json()["id"] for other in others)}) == 5
    assert (await server.events.stats()).events == 5


async def test_all_ways_to_publish_know_it_again(
    server: Server, http: httpx.AsyncClient, publisher: Publisher
) -> None:
    answer = await post(http, publisher="cameras", number="4")
    async with connect(str(server.http_url)) as plane:
        await plane.unary(LIST_STYLES, ListStylesRequest(), {})
        ids = [
            str(await plane.publish(KEY, EVENT, publisher="cameras", number=4)),
            str(
                await plane.publish_json(
                    KEY, TYPE, EVENT.model_dump_json(), publisher="cameras", number=4
                )
            ),
        ]
    ids += [await publisher.host.publish(EVENT, publisher="cameras", number=4)]
    assert [*ids, *publisher.published] == [answer.json()["id"]] * 4
    assert (await server.events.stats()).events == 1


async def test_the_facade_that_blocks(server: Server) -> None:
    def twice() -> list[str]:
        with connect_sync(str(server.http_url)) as plane:
            return [str(plane.publish(KEY, EVENT, publisher="cameras", number=4)) for _ in range(2)]

    first, again = await anyio.to_thread.run_sync(twice)
    assert first == again
    assert (await server.events.stats()).events == 1


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ({"publisher": "cameras"}, "give the number too"),
        ({"number": "4"}, "give the publisher too"),
        ({"publisher": "cameras", "number": "four"}, "number=four"),
        ({"publisher": "cameras", "number": "-1"}, "number=-1"),
        ({"publisher": "cameras", "number": "9223372036854775808"}, "2**63 - 1"),
        ({"publisher": "", "number": "4"}, "has a publisher"),
    ],
)
async def test_half_a_publication(
    server: Server, http: httpx.AsyncClient, query: dict[str, str], words: str
) -> None:
    answer = await post(http, **query)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_argument")
    assert words in answer.json()["message"]
    assert (await server.events.stats()).events == 0


async def test_half_a_publication_in_python(server: Server, publisher: Publisher) -> None:
    async with connect(str(server.http_url)) as plane:
        for publishing in (
            plane.publish(KEY, EVENT, publisher="cameras"),
            publisher.host.publish(EVENT, number=4),
        ):
            with pytest.raises(PlaneError) as caught:
                await publishing
            assert caught.value.code is Code.INVALID_ARGUMENT
    assert (await server.events.stats()).events == 0
