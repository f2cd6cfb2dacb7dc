"""The door over HTTP/2: many streams on one connection."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest
from tests.certificates import make_certificates, needs_openssl
from tests.parts import Parts
from tests.server.http.board import NAME, running
from tests.server.http.test_events import SSE, TELL, events, publish

from forge.captioner.v1 import CaptionerClient, ListStylesRequest
from protoplane_client import connect
from protoplane_server import Options, Server, Tls

pytestmark = pytest.mark.anyio


def client(url: str) -> httpx.AsyncClient:
    """Speaks HTTP/2 without asking for it first."""
    return httpx.AsyncClient(base_url=url, http1=False, http2=True, timeout=20)


async def first(stream: AsyncIterator[dict[str, str]]) -> int:
    async with asyncio.timeout(20):
        number: int = json.loads((await anext(stream))["data"])["words"]
        return number


async def test_many_streams_share_a_connection_and_end_whole() -> None:
    async with running(http2=True) as run, client(run.url) as http, AsyncExitStack() as stack:
        streams: list[AsyncIterator[dict[str, str]]] = []
        ports: set[int] = set()
        for _ in range(50):
            response = await stack.enter_async_context(http.stream("GET", "/events/forge/**"))
            assert response.http_version == "HTTP/2"
            ports.add(response.extensions["network_stream"].get_extra_info("client_addr")[1])
            streams.append(events(response))
        assert len(ports) == 1
        # One that is left makes room, and harms no other.
        left = await stack.enter_async_context(AsyncExitStack())
        await left.enter_async_context(http.stream("GET", "/events/**"))
        await left.aclose()
        await publish(run, 1, start=7)
        assert [await first(stream) for stream in streams] == [7] * 50
        run.door.stop()
        async with asyncio.timeout(20):
            for stream in streams:
                assert [event async for event in stream] == []
        assert run.log.readers == 0


async def test_a_replay_goes_at_the_pace_of_its_stream() -> None:
    async with running(http2=True) as run, client(run.url) as http:
        await publish(run, 20_000)
        # One stream that nobody reads takes up its window, and holds up nobody.
        async with (
            http.stream("GET", "/events/**?after=earliest"),
            http.stream("GET", "/events/**?after=earliest") as response,
        ):
            found = 0
            async with asyncio.timeout(60):
                async for event in events(response):
                    assert json.loads(event["data"]).get("words", 0) == found
                    found += 1
                    if found == 20_000:
                        break


async def test_calls_and_errors() -> None:
    async with running(http2=True) as run, client(run.url) as http:
        say = await http.post(f"/{NAME}/Say", json={"prompt": "hi"})
        assert (say.http_version, say.json()["text"]) == ("HTTP/2", "hi")
        assert (await http.delete("/events/a")).status_code == 405
        large = await http.post(f"/{NAME}/Say", json={"prompt": "x" * (2 << 20)})
        assert large.status_code == 413  # With a header that HTTP/2 forbids, over HTTP/1.1.
        told = await http.post(TELL, json={"prompt": "a b"}, headers=SSE)
        assert told.text.count("data: ") == 3
        async with httpx.AsyncClient(base_url=run.url) as plain:
            answer = await plain.get("/healthz")
            assert (answer.http_version, answer.text) == ("HTTP/1.1", "ok\n")


@needs_openssl
async def test_over_tls_the_protocol_is_agreed_on(tmp_path: Path) -> None:
    files = make_certificates(tmp_path)
    tls = Tls(certificate=files / "server.pem", key=files / "server.key")
    options = Options(grpc=None, http="127.0.0.1:0", http2=True, tls=tls, grace_s=0.2)
    verify = ssl.create_default_context(cafile=files / "ca.pem")
    async with Server(Parts(), options) as server:
        for http2, version in ((True, "HTTP/2"), (False, "HTTP/1.1")):
            async with httpx.AsyncClient(
                base_url=str(server.http_url), http2=http2, verify=verify
            ) as http:
                assert (await http.get("/healthz")).http_version == version


async def test_links_come_in_there_too_and_nothing_holds_up_the_end() -> None:
    options = Options(grpc=None, http="127.0.0.1:0", http2=True, grace_s=0.2)
    server = Server(Parts(), options)
    await server.start()
    url = str(server.http_url)
    host, _, port = url.removeprefix("http://").rpartition(":")
    # One that says nothing, and one that opened a stream and does not read it.
    _, idle = await asyncio.open_connection(host, int(port))
    async with client(url) as http, http.stream("GET", "/events/**"):
        async with connect(f"link+{url}") as plane:
            styles = await CaptionerClient(plane).list_styles(ListStylesRequest())
            assert len(styles.styles) == 2
        async with asyncio.timeout(20):
            await server.stop()
    idle.close()
