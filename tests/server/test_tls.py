"""TLS and mutual TLS, with certificates made for the test."""

from __future__ import annotations

from pathlib import Path

import grpc
import grpc.aio
import httpx
import pytest
from tests.certificates import make_certificates, needs_openssl
from tests.component_suite import Harness, component_options
from tests.parts import Parts
from tests.server.plain_channel import PlainChannel

from protoplane_base import Code, PlaneError
from protoplane_server import Server, Tls

pytestmark = [pytest.mark.anyio, needs_openssl]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


def tls(folder: Path, *, mutual: bool) -> Tls:
    return Tls(
        certificate=folder / "server.pem",
        key=folder / "server.key",
        client_ca=folder / "ca.pem" if mutual else None,
    )


async def call(server: Server, folder: Path, *, identified: bool) -> None:
    credentials = grpc.ssl_channel_credentials(
        (folder / "ca.pem").read_bytes(),
        (folder / "client.key").read_bytes() if identified else None,
        (folder / "client.pem").read_bytes() if identified else None,
    )
    async with grpc.aio.secure_channel(str(server.grpc_address), credentials) as channel:
        await Harness(PlainChannel(channel), Parts(), server).serves_on()


@pytest.mark.parametrize("mutual", [False, True])
async def test_grpc(certificates: Path, *, mutual: bool) -> None:
    options = component_options(grpc=0, tls=tls(certificates, mutual=mutual))
    async with Server(Parts(), options) as server:
        await call(server, certificates, identified=True)
        if mutual:
            with pytest.raises(PlaneError) as caught:
                await call(server, certificates, identified=False)
            assert caught.value.code is Code.UNAVAILABLE
        else:
            await call(server, certificates, identified=False)


async def test_http(certificates: Path) -> None:
    options = component_options(http=0, tls=tls(certificates, mutual=False))
    async with Server(Parts(), options) as server:
        import ssl

        trust = ssl.create_default_context(cafile=str(certificates / "ca.pem"))
        async with httpx.AsyncClient(verify=trust) as http:
            assert (await http.get(f"{server.http_url}/healthz")).status_code == 200


@pytest.mark.parametrize("door", ["grpc", "http"])
async def test_a_certificate_that_is_not_there(door: str, tmp_path: Path) -> None:
    missing = Tls(certificate=tmp_path / "a.pem", key=tmp_path / "a.key")
    server = Server(Parts(), component_options(**{door: 0}, tls=missing))
    with pytest.raises(FileNotFoundError):
        await server.start()
