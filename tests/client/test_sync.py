"""The facade that blocks, on both doors."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest
from tests.parts import Parts

from forge.captioner.v1 import (
    CaptionerClient,
    CaptionFinished,
    CaptionRequest,
    CollectRequest,
    ConverseRequest,
    ListStylesRequest,
    Style,
)
from protoplane_base import Code, PlaneError
from protoplane_client import Received, connect_sync
from protoplane_runtime.engines.interface import Start
from protoplane_server import Options, Server


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    started: list[Server] = []
    ready, stop = threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()

    async def run() -> None:
        async with Server(Parts(), Options(grpc=0, http=0, grace_s=0.1)) as served:
            started.append(served)
            ready.set()
            await stop.wait()

    def work() -> None:
        loop.run_until_complete(run())
        loop.close()

    thread = threading.Thread(target=work)
    thread.start()
    assert ready.wait(10)
    yield started[0]
    loop.call_soon_threadsafe(stop.set)
    thread.join(10)


@pytest.mark.parametrize("door", ["grpc", "http"])
def test_all_kinds(server: Server, door: str) -> None:
    target = str(server.grpc_address if door == "grpc" else server.http_url)
    with connect_sync(target) as plane:
        client = plane.client(CaptionerClient)
        assert client.list_styles(ListStylesRequest()).styles == [
            Style.STYLE_PLAIN,
            Style.STYLE_VIVID,
        ]
        chunks = client.caption(CaptionRequest(prompt="one two"), timeout_s=5)
        assert [chunk.text for chunk in chunks] == ["one", "two"]
        assert client.collect(CollectRequest(text=text) for text in "abc").text == "abc"
        lines = client.converse([ConverseRequest(line="a"), ConverseRequest(line="b")])
        assert [answer.line for answer in lines] == ["A", "B"]
        with pytest.raises(AttributeError, match="nonsense"):
            client.nonsense()


def test_events(server: Server) -> None:
    with connect_sync(str(server.grpc_address), http=server.http_url) as plane:
        id_ = plane.publish("forge/captions/9", CaptionFinished(request_id="9"))
        with plane.subscribe("forge/captions/9", after=Start.EARLIEST) as events:
            event = next(events)
            assert isinstance(event, Received)
            assert event.id == str(id_)


def test_an_error_is_the_same() -> None:
    with connect_sync("127.0.0.1:1") as plane, pytest.raises(PlaneError) as caught:
        plane.client(CaptionerClient).list_styles(ListStylesRequest())
    assert caught.value.code is Code.UNAVAILABLE
