"""Who gets to the planes, how a server with planes stops, and what HTTP alone needs."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.parts import Parts
from tests.server.planes.conftest import address, options

from protoplane.v1 import (
    DiscoveryClient,
    EventPlaneClient,
    InstancesRequest,
    ObjectHeader,
    ObjectsClient,
    ObjectsPutRequest,
    StateClient,
    StateGetRequest,
    StateWatchRequest,
    StatsRequest,
    SubscribeRequest,
)
from protoplane.v1 import MetricsClient as StatsClient
from protoplane_base import Code, PlaneError
from protoplane_client import connect
from protoplane_server import Options, Server

pytestmark = pytest.mark.anyio


async def test_a_component_offers_no_planes_unless_it_is_asked(door: str) -> None:
    async with (
        Server(Parts(), options(door, planes=False)) as server,
        connect(address(server, door)) as plane,
    ):
        with pytest.raises(PlaneError) as caught:
            await StateClient(plane).get(StateGetRequest(key="a"), timeout_s=20)
        assert caught.value.code is Code.UNIMPLEMENTED
        stats = (await StatsClient(plane).stats(StatsRequest(), timeout_s=20)).stats
        assert stats is not None
        assert stats.instance == server.name


async def test_tokens_open_the_planes_too(door: str) -> None:
    async with Server(Parts(), options(door, tokens={"secret": "me"})) as server:
        where = address(server, door)
        async with connect(where) as plane:
            for calling in (
                StateClient(plane).get(StateGetRequest(key="a"), timeout_s=20),
                StatsClient(plane).stats(StatsRequest(), timeout_s=20),
                anext(
                    EventPlaneClient(plane).subscribe(
                        SubscribeRequest(expressions=["**"]), timeout_s=20
                    )
                ),
            ):
                with pytest.raises(PlaneError) as caught:
                    await calling
                assert caught.value.code is Code.UNAUTHENTICATED
        async with connect(where, token="secret") as plane:
            stats = await StatsClient(plane).stats(StatsRequest(), timeout_s=20)
            assert stats.stats is not None


async def test_the_planes_alone() -> None:
    async with (
        Server((), options("grpc", engine=None, name=None)) as server,
        connect(address(server, "grpc")) as plane,
    ):
        assert server.name.startswith("protoplane/planes/")
        found = await DiscoveryClient(plane).instances(InstancesRequest(), timeout_s=20)
        assert [each.name for each in found.instances] == [server.name]


def test_nothing_at_all_is_no_server() -> None:
    with pytest.raises(ValueError, match="at least one service"):
        Server((), Options())


async def test_a_server_that_stops_does_not_wait_for_subscribers(door: str) -> None:
    server = Server(Parts(), options(door, grace_s=300))
    await server.start()
    try:
        async with connect(address(server, door)) as plane:
            events: Any = EventPlaneClient(plane).subscribe(SubscribeRequest(expressions=["**"]))
            changes: Any = StateClient(plane).watch(StateWatchRequest())
            for stream in (events, changes):
                await anext(stream)
            async with asyncio.timeout(60):
                await server.stop()
                for stream in (events, changes):
                    with pytest.raises(PlaneError) as caught:
                        await anext(stream)
                    assert caught.value.code is Code.UNAVAILABLE
    finally:
        await server.stop(0)


async def test_plain_http(tmp_path: Path) -> None:
    served = options("http", objects=f"file://{tmp_path}")
    async with (
        Server(Parts(), served) as server,
        httpx.AsyncClient(base_url=str(server.http_url), timeout=30) as http,
    ):
        value = base64.b64encode(b"three").decode()
        put = await http.put("/protoplane/v1/state/forge/router/plan", json={"value": value})
        assert put.json() == {"revision": "1"}
        got = await http.get("/protoplane/v1/state/forge/router/plan")
        assert got.json()["entry"]["value"] == value
        listed = await http.get("/protoplane/v1/state", params={"expression": "forge/**"})
        assert [entry["key"] for entry in listed.json()["entries"]] == ["forge/router/plan"]
        there = await http.get("/protoplane/v1/instances", params={"path": "forge"})
        assert [each["name"] for each in there.json()["instances"]] == [server.name]
        stats = (await http.get("/protoplane/v1/stats")).json()["stats"]
        assert stats["instance"] == server.name
        missing = await http.get("/protoplane/v1/objects/forge/model:head")
        assert (missing.status_code, missing.json()["code"]) == (404, "not_found")
        event = {"key": "mill/1", "type": "mill.v1.Ground", "jsonText": '{"kilos":3}'}
        told = (await http.post("/protoplane/v1/events", json=event)).json()
        asked = {"expressions": "mill/*", "after": "earliest", "form": "EVENT_FORM_JSON"}
        async with http.stream("GET", "/protoplane/v1/events", params=asked) as stream:
            assert stream.headers["content-type"].startswith("text/event-stream")
            lines = stream.aiter_lines()
            async with asyncio.timeout(30):
                while True:
                    line = await anext(lines)
                    if line.startswith("data:") and "mill/1" in line:
                        break
        [shown] = json.loads(line.removeprefix("data:"))["events"]
        assert (shown["id"], shown["jsonText"]) == (told["id"], '{"kilos":3}')
        documents = (await http.get("/openapi.json")).json()
        assert "/protoplane/v1/state/{key}" in documents["paths"]
        assert not [path for path in documents["paths"] if "LinkService" in path]


async def test_documents_hold_what_is_served_alone() -> None:
    async with (
        Server(Parts(), options("http", planes=False)) as server,
        httpx.AsyncClient(base_url=str(server.http_url), timeout=30) as http,
    ):
        paths = (await http.get("/openapi.json")).json()["paths"]
        assert "/protoplane/v1/stats" in paths
        assert not [path for path in paths if "state" in path or "objects" in path]


async def test_objects_lie_beside_the_engine(tmp_path: Path) -> None:
    served = options("grpc", engine=f"local:{tmp_path}")
    async with (
        Server(Parts(), served) as server,
        connect(address(server, "grpc")) as plane,
    ):

        async def sent() -> AsyncIterator[ObjectsPutRequest]:
            yield ObjectsPutRequest(header=ObjectHeader(key="a/b"))
            yield ObjectsPutRequest(data=b"bytes")

        await ObjectsClient(plane).put(sent(), timeout_s=20)
        assert [path for path in (tmp_path / "objects").rglob("*") if path.is_file()]
