"""Calls from pages of other origins."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import httpx
import pytest
from tests.component_suite import component_options
from tests.parts import Parts

from protoplane_server import Server
from protoplane_server.http.cors import Cors

pytestmark = pytest.mark.anyio

HERE = "https://app.example:8443"
ALLOW = "access-control-allow-origin"
PATH = "/forge.captioner.v1.CaptionerService/ListStyles"
PREFLIGHT = {
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type",
}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@asynccontextmanager
async def client(*origins: str, **options: object) -> AsyncGenerator[httpx.AsyncClient]:
    made = component_options(http="127.0.0.1:0", cors_origins=origins, **options)
    async with (
        Server(Parts(), made) as server,
        httpx.AsyncClient(base_url=str(server.http_url), timeout=30) as http,
    ):
        yield http


async def test_a_page_that_may_call() -> None:
    async with client(HERE) as http:
        asked = await http.options(PATH, headers={"origin": HERE, **PREFLIGHT})
        assert (asked.status_code, asked.content) == (204, b"")
        assert asked.headers[ALLOW] == HERE
        assert asked.headers["access-control-allow-headers"] == "authorization,content-type"
        assert "POST" in asked.headers["access-control-allow-methods"]
        assert asked.headers["vary"] == "origin"
        assert "access-control-allow-credentials" not in asked.headers
        answer = await http.post(PATH, json={}, headers={"origin": HERE})
        assert answer.status_code == 200
        assert answer.headers[ALLOW] == HERE
        assert "x-request-id" in answer.headers["access-control-expose-headers"]


async def test_a_page_that_may_not() -> None:
    async with client(HERE) as http:
        for origin in ("https://evil.example", "https://app.example", "null"):
            asked = await http.options(PATH, headers={"origin": origin, **PREFLIGHT})
            answer = await http.post(PATH, json={}, headers={"origin": origin})
            for each in (asked, answer):
                assert not [name for name in each.headers if name.startswith("access-control")]
                assert each.headers["vary"] == "origin"


async def test_all_pages() -> None:
    async with client("*") as http:
        for origin in (HERE, "null"):
            asked = await http.options(PATH, headers={"origin": origin, **PREFLIGHT})
            answer = await http.post(PATH, json={}, headers={"origin": origin})
            assert asked.headers[ALLOW] == answer.headers[ALLOW] == "*"
        answer = await http.post(PATH, json={})
        assert ALLOW not in answer.headers


async def test_errors_and_streams_can_be_read_too() -> None:
    async with client(HERE, tokens={"secret-token": "me"}) as http:
        # A browser sends no token with its question.
        asked = await http.options(PATH, headers={"origin": HERE, **PREFLIGHT})
        assert asked.status_code == 204
        refused = await http.post(PATH, json={}, headers={"origin": HERE})
        assert (refused.status_code, refused.headers[ALLOW]) == (401, HERE)
        headers = {
            "origin": HERE,
            "accept": "text/event-stream",
            "authorization": "Bearer secret-token",
        }
        stream = await http.post(
            PATH.replace("ListStyles", "Caption"), json={"prompt": "a b"}, headers=headers
        )
        assert stream.text.count("data: ") == 3
        assert stream.headers[ALLOW] == HERE


async def test_a_mercure_hub() -> None:
    hub = "/.well-known/mercure"
    async with client(HERE, engine="memory:") as http:
        published = await http.post(hub, data={"topic": "a", "data": "b"}, headers={"origin": HERE})
        assert (published.status_code, published.headers[ALLOW]) == (200, HERE)
        headers = {"origin": HERE, "last-event-id": "#1-1"}
        async with http.stream("GET", hub, params={"topic": "a"}, headers=headers) as stream:
            # What it tells of the place where it resumes, the page can read.
            assert stream.headers["last-event-id"] == "earliest"
            assert "last-event-id" in stream.headers["access-control-expose-headers"].split(", ")
            assert stream.headers[ALLOW] == HERE


async def test_without_the_option_there_is_nothing() -> None:
    async with client() as http:
        asked = await http.options(PATH, headers={"origin": HERE, **PREFLIGHT})
        assert asked.status_code == 405
        assert ALLOW not in asked.headers


@pytest.mark.parametrize("origin", ["app.example", "https://app.example/", "https://*", ""])
def test_what_is_no_origin(origin: str) -> None:
    async def app(*_: object) -> None:
        """Never called."""

    with pytest.raises(ValueError, match="is no origin"):
        Cors(app, [origin])
