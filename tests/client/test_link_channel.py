"""Links keep the component suite, whatever carries them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.certificates import make_certificates, needs_openssl
from tests.component_suite import ComponentSuite, Harness, component_options
from tests.nats_server import nats_server, needs_nats_server
from tests.parts import Parts

from forge.captioner.v1 import CollectRequest
from protoplane_base import Code, PlaneError
from protoplane_client import Tls as ClientTls
from protoplane_client import connect
from protoplane_client.inprocess_channel import InprocessChannel
from protoplane_client.link_channel import LinkChannel
from protoplane_runtime.link.settings import LinkLimits, LinkSettings
from protoplane_server import Server, Tls

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with nats_server(tmp_path_factory.mktemp("nats")) as running:
        yield running.url


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


class LinkSuite(ComponentSuite):
    """What a component does over a link, and how large messages and tokens fare there."""

    @pytest.fixture
    def options(self, tmp_path: Path) -> dict[str, Any]:
        """Options of the server."""
        raise NotImplementedError

    def address(self, server: Server) -> str:
        """Where a link to the server goes."""
        return server.link_addresses[0]

    @pytest.fixture
    def client_tls(self) -> ClientTls | None:
        return None

    @pytest.fixture
    async def harness(
        self, options: dict[str, Any], client_tls: ClientTls | None
    ) -> AsyncIterator[Harness]:
        parts = Parts()
        async with Server(parts, component_options(**options)) as server:
            channel = LinkChannel(self.address(server), tls=client_tls)
            yield Harness(channel, parts, server)
            parts.release.set()
            await channel.aclose()

    async def test_many_large_messages_one_after_the_other(self, harness: Harness) -> None:
        # More than the window of the link, so that it stalls if any of it is not given back.
        for _ in range(40):
            [answer] = await harness.call(
                "client_stream", send=[CollectRequest(text="x" * 450_000)], timeout_s=10
            )
            assert len(answer.text) == 450_000

    async def test_limit_of_the_caller(
        self, harness: Harness, client_tls: ClientTls | None
    ) -> None:
        settings = LinkSettings(limits=LinkLimits(max_message_bytes=1000))
        small = LinkChannel(self.address(harness.server), settings=settings, tls=client_tls)
        tight = Harness(small, harness.parts, harness.server)
        try:
            assert len(await tight.call("client_stream")) == 1
            with pytest.raises(PlaneError) as caught:
                await tight.call("client_stream", send=[CollectRequest(text="x" * 2000)])
        finally:
            await small.aclose()
        assert caught.value.code is Code.RESOURCE_EXHAUSTED
        assert "1000" in caught.value.message

    async def test_bearer_token(
        self, options: dict[str, Any], client_tls: ClientTls | None
    ) -> None:
        parts = Parts()
        guarded = component_options(**options, tokens={"s3cret": "alice"})
        async with Server(parts, guarded) as server:
            address = self.address(server)
            async with connect(address, tls=client_tls, token="s3cret") as plane:
                assert await Harness(plane, parts, server).call("unary")
            for token in ("wrong", None):
                async with connect(address, tls=client_tls, token=token) as plane:
                    with pytest.raises(PlaneError) as caught:
                        await Harness(plane, parts, server).call("unary", timeout_s=10)
                assert caught.value.code is Code.UNAUTHENTICATED, caught.value
                assert "s3cret" not in str(caught.value)


class TestUnix(LinkSuite):
    @pytest.fixture
    def options(self, tmp_path: Path) -> dict[str, Any]:
        return {"link": (f"link+unix:{tmp_path / 'link.sock'}",)}


class TestTcp(LinkSuite):
    @pytest.fixture
    def options(self, tmp_path: Path) -> dict[str, Any]:
        return {"link": ("link+tcp://127.0.0.1:0",)}


class TestGrpc(LinkSuite):
    @pytest.fixture
    def options(self, tmp_path: Path) -> dict[str, Any]:
        return {"grpc": "127.0.0.1:0"}

    def address(self, server: Server) -> str:
        return f"link+grpc://{server.grpc_address}"


class TestHttp(LinkSuite):
    @pytest.fixture
    def options(self, tmp_path: Path) -> dict[str, Any]:
        return {"http": "127.0.0.1:0"}

    def address(self, server: Server) -> str:
        return f"link+{server.http_url}"


class TestZeroMq(LinkSuite):
    @pytest.fixture
    def options(self, tmp_path: Path) -> dict[str, Any]:
        pytest.importorskip("zmq", reason="pyzmq is missing")
        return {"link": ("link+zmq://127.0.0.1:0",)}


@needs_nats_server
class TestNats(LinkSuite):
    @pytest.fixture
    def options(self, broker: str, tmp_path: Path) -> dict[str, Any]:
        return {"link": (f"link+{broker}/parts.{tmp_path.name}",)}


class TestZenoh(LinkSuite):
    @pytest.fixture
    def options(self, tmp_path: Path) -> dict[str, Any]:
        pytest.importorskip("zenoh", reason="eclipse-zenoh is missing")
        return {"link": ("link+zenoh:parts?listen=tcp/127.0.0.1:0",)}


class MutualTls(LinkSuite):
    """The same, where both ends show certificates."""

    @pytest.fixture
    def client_tls(self, certificates: Path) -> ClientTls | None:
        return ClientTls(
            ca=certificates / "ca.pem",
            cert=certificates / "client.pem",
            key=certificates / "client.key",
        )

    @pytest.fixture
    def tls(self, certificates: Path) -> Tls:
        return Tls(
            certificate=certificates / "server.pem",
            key=certificates / "server.key",
            client_ca=certificates / "ca.pem",
        )


@needs_openssl
class TestTcpWithTls(MutualTls):
    @pytest.fixture
    def options(self, tls: Tls) -> dict[str, Any]:
        return {"link": ("link+tls://127.0.0.1:0",), "tls": tls}


@needs_openssl
class TestGrpcWithTls(MutualTls):
    @pytest.fixture
    def options(self, tls: Tls) -> dict[str, Any]:
        return {"grpc": "127.0.0.1:0", "tls": tls}

    def address(self, server: Server) -> str:
        return f"link+grpcs://{server.grpc_address}"


@needs_openssl
class TestHttpWithTls(MutualTls):
    @pytest.fixture
    def options(self, tls: Tls) -> dict[str, Any]:
        return {"http": "127.0.0.1:0", "tls": tls}

    def address(self, server: Server) -> str:
        return f"link+{server.http_url}"


_NO_SIZE = "nothing is serialized inside a process, so nothing has a size"


class TestInprocess(ComponentSuite):
    @pytest.fixture
    async def harness(self) -> AsyncIterator[Harness]:
        parts = Parts()
        async with Server(parts, component_options(inproc="parts")) as server:
            channel = InprocessChannel("inproc:parts")
            yield Harness(channel, parts, server)
            parts.release.set()
            await channel.aclose()

    @pytest.mark.skip(_NO_SIZE)
    async def test_request_past_the_limit(self) -> None: ...  # type: ignore[override]

    @pytest.mark.skip(_NO_SIZE)
    async def test_answer_past_the_limit(self) -> None: ...  # type: ignore[override]
