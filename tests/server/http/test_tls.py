"""The HTTPS door: calls, streams and events; mutual TLS."""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from tests.certificates import make_certificates, needs_openssl
from tests.component_suite import component_options
from tests.parts import Parts

from protoplane_server import Server, Tls

pytestmark = [pytest.mark.anyio, needs_openssl]

SERVICE = "/forge.captioner.v1.CaptionerService"
EVENTS = "/events/forge/captions/42"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(params=[False, True], ids=["tls", "mutual"])
async def server(certificates: Path, request: pytest.FixtureRequest) -> AsyncIterator[Server]:
    tls = Tls(
        certificate=certificates / "server.pem",
        key=certificates / "server.key",
        client_ca=certificates / "ca.pem" if request.param else None,
    )
    async with Server(Parts(), component_options(http=0, tls=tls)) as server:
        assert str(server.http_url).startswith("https://")
        yield server


@asynccontextmanager
async def client(
    server: Server, certificates: Path, *, identified: bool
) -> AsyncGenerator[httpx.AsyncClient]:
    trust = ssl.create_default_context(cafile=str(certificates / "ca.pem"))
    if identified:
        trust.load_cert_chain(certificates / "client.pem", certificates / "client.key")
    base_url = str(server.http_url)
    async with httpx.AsyncClient(base_url=base_url, verify=trust, timeout=10) as http:
        yield http


async def test_a_call(server: Server, certificates: Path) -> None:
    async with client(server, certificates, identified=True) as http:
        answer = await http.post(f"{SERVICE}/ListStyles", json={})
        assert answer.json() == {"styles": ["STYLE_PLAIN", "STYLE_VIVID"]}


async def test_a_stream(server: Server, certificates: Path) -> None:
    async with client(server, certificates, identified=True) as http:
        accept = {"accept": "text/event-stream"}
        answer = await http.post(f"{SERVICE}/Caption", json={"prompt": "a b"}, headers=accept)
        assert answer.text == (
            'data: {"text":"a"}\n\ndata: {"text":"b","index":1}\n\nevent: end\ndata: {}\n\n'
        )


async def test_events(server: Server, certificates: Path) -> None:
    async with client(server, certificates, identified=True) as http:
        published = await http.post(EVENTS, json={"words": 7})
        assert published.status_code == 200
        async with http.stream("GET", f"{EVENTS}?after=earliest") as events:
            async for line in events.aiter_lines():
                if line.startswith("data: "):
                    assert line == 'data: {"words":7}'
                    break


@pytest.mark.parametrize("server", [True], ids=["mutual"], indirect=True)
async def test_who_shows_no_certificate_is_refused(server: Server, certificates: Path) -> None:
    async with client(server, certificates, identified=False) as http:
        with pytest.raises(httpx.TransportError) as caught:
            await http.get("/healthz")
        assert not isinstance(caught.value, httpx.TimeoutException)
    async with client(server, certificates, identified=True) as http:
        assert (await http.get("/healthz")).status_code == 200


async def test_plain_text_is_refused(server: Server, certificates: Path) -> None:
    place = urlsplit(str(server.http_url)).netloc
    async with httpx.AsyncClient(base_url=f"http://{place}", timeout=10) as http:
        with pytest.raises(httpx.RemoteProtocolError):
            await http.get("/healthz")
    async with client(server, certificates, identified=True) as http:
        assert (await http.get("/healthz")).status_code == 200
