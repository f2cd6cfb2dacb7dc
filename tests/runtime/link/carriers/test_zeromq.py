"""Links over ZeroMQ."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.runtime.link.carriers.carrier_suite import WAIT_S, Carriers, CarrierSuite, Recorder
from tests.runtime.link.carriers.processes import CONNECTS, LISTENS, process
from tests.runtime.link.carriers.test_tcp import free_port

from protoplane_base import Code, PlaneError
from protoplane_runtime.link.carriers.interface import Carrier, Listener, Started
from protoplane_runtime.link.carriers.opening import connector, listener
from protoplane_runtime.tls import ClientTls, ServerTls

pytest.importorskip("zmq")

import zmq
import zmq.auth


class ZmqSuite(CarrierSuite):
    query = ""
    client_query: str | None = None

    async def listen(self, started: Started, tls: ServerTls | None = None) -> Listener:
        address = f"link+zmq://127.0.0.1:0{self.query}"
        return await listener(address)(address, started, tls)

    async def connect(self, address: str, started: Started, tls: ClientTls | None = None) -> None:
        if self.client_query is not None:
            address = address.partition("?")[0] + self.client_query
        await connector(address)(address, started, tls)

    def nowhere(self) -> str:
        return f"link+zmq://127.0.0.1:{free_port()}"


class TestZmq(ZmqSuite):
    async def test_a_name_that_is_no_host(self) -> None:
        with pytest.raises(OSError, match=r"known|resol|address"):
            await self.connect("link+zmq://link.invalid:1", Recorder)

    async def test_a_port_that_is_taken(self, carriers: Carriers) -> None:
        with pytest.raises(OSError, match="in use"):
            await listener(carriers.listener.address)(carriers.listener.address, Recorder, None)

    async def test_a_closed_listener_keeps_its_links_and_takes_no_more(
        self, carriers: Carriers
    ) -> None:
        near, far = await carriers.pair()
        await carriers.listener.aclose()
        with pytest.raises(PlaneError, match="takes no more"):
            await carriers.open()
        near.carrier.send(b"still here")
        await far.takes(b"still here")
        near.carrier.abort()
        await far.until_lost()
        with pytest.raises(PlaneError) as caught:
            await carriers.open()
        assert caught.value.code is Code.UNAVAILABLE

    @pytest.mark.parametrize(
        "parts",
        [
            [b"data before the link is open"],
            [b"\1"],
            [b"\1", b""],
            [b"\1", b"\2\0\0\0\1"],
            [b"\1", b"\1\0\0\0\0"],
            [b"\1", b"\1\0\0\1\0", b"more"],
            [b"", b"", b"", b""],
            [b"\xff", b"x"],
        ],
    )
    async def test_what_is_no_link_is_left_alone(
        self, carriers: Carriers, parts: list[bytes]
    ) -> None:
        with stranger_to(carriers) as stranger:
            stranger.send_multipart(parts)
            near, far = await carriers.pair()
            near.carrier.send(b"hello")
            await far.takes(b"hello")
            assert carriers.accepted.empty()

    async def test_who_sends_more_than_the_window_is_cut_off(self, carriers: Carriers) -> None:
        with stranger_to(carriers) as stranger:
            stranger.send_multipart([b"\1", b"\1\0\0\1\0"])
            async with asyncio.timeout(WAIT_S):
                far = await carriers.accepted.get()
            far.carrier.pause_receiving()
            for _ in range(40):
                stranger.send(b"x" * 64 * 1024)
            error = await far.until_lost()
            assert error is not None
            assert "window" in error.message

    async def test_unknown_frames_of_a_link_are_skipped(self, carriers: Carriers) -> None:
        with stranger_to(carriers) as stranger:
            stranger.send_multipart([b"\1", b"\1\0\0\1\0"])
            for parts in ([b"\x09", b"?"], [b"\3", b"odd"], [b"a", b"b", b"c"], [b"\5", b""]):
                stranger.send_multipart(parts)
            stranger.send(b"hello")
            async with asyncio.timeout(WAIT_S):
                far = await carriers.accepted.get()
            await far.takes(b"hello")

    async def test_a_caller_that_is_killed_is_lost(self, carriers: Carriers) -> None:
        async with process(CONNECTS, carriers.listener.address) as child:
            async with asyncio.timeout(WAIT_S):
                far = await carriers.accepted.get()
            await far.takes(b"hello")
            child.kill()
            error = await far.until_lost()
            assert error is not None
            assert error.code is Code.UNAVAILABLE

    async def test_a_server_that_is_killed_is_lost(self) -> None:
        made: list[Recorder] = []

        def started(carrier: Carrier) -> Recorder:
            made.append(Recorder(carrier))
            return made[0]

        async with process(LISTENS, "link+zmq://127.0.0.1:0") as child:
            assert child.stdout is not None
            address = (await child.stdout.readline()).decode().strip()
            await self.connect(address, started)
            await made[0].takes(b"hello")
            child.kill()
            error = await made[0].until_lost()
            assert error is not None
            assert error.code is Code.UNAVAILABLE

    @pytest.mark.parametrize(
        "address",
        [
            "link+zmq://",
            "link+zmq://here",
            "link+zmq://here:65536",
            "link+zmq://:1",
            "link+zmq://here:1?clients=/tmp",
            "link+zmq://here:1?kee=/tmp/x",
        ],
    )
    async def test_no_address(self, address: str) -> None:
        with pytest.raises(PlaneError) as caught:
            await connector(address)(address, Recorder, None)
        assert caught.value.code is Code.INVALID_ARGUMENT

    async def test_listening_without_a_key_for_all_machines_is_told(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        open_to_all = await listener("link+zmq:")("link+zmq://0.0.0.0:0", Recorder, None)
        await open_to_all.aclose()
        assert "without a key" in caplog.text


class TestCurve(ZmqSuite):
    """With keys that are checked both ways."""

    @pytest.fixture(scope="class")
    @classmethod
    def keys(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        folder = tmp_path_factory.mktemp("keys")
        (folder / "clients").mkdir()
        for name in ("server", "client", "stranger"):
            zmq.auth.create_certificates(folder, name)  # pyright: ignore[reportUnknownMemberType]
        (folder / "client.key").rename(folder / "clients" / "client.key")
        return folder

    @pytest.fixture(autouse=True)
    def with_keys(self, keys: Path) -> None:
        self.query = f"?key={keys / 'server.key_secret'}&clients={keys / 'clients'}"
        self.client_query = f"?server_key={keys / 'server.key'}&key={keys / 'client.key_secret'}"

    async def test_bytes_both_ways(self, carriers: Carriers) -> None:
        near, far = await carriers.pair()
        near.carrier.send(b"one")
        await far.takes(b"one")
        far.carrier.send(b"two")
        await near.takes(b"two")
        assert far.carrier.identity == "client"

    async def test_the_address_says_the_key(self, keys: Path) -> None:
        self.query = f"?key={keys / 'server.key_secret'}"
        self.client_query = None
        async with self.running(None, None) as carriers:
            near, far = await carriers.pair()
            near.carrier.send(b"hello")
            await far.takes(b"hello")
            assert far.carrier.identity == ""

    @pytest.mark.parametrize(
        "query",
        [
            "",
            "?server_key={0}/server.key",
            "?server_key={0}/server.key&key={0}/stranger.key_secret",
            "?server_key={0}/stranger.key&key={0}/client.key_secret",
        ],
        ids=["no key", "a key of the moment", "a stranger's key", "another server's key"],
    )
    async def test_others_are_kept_out(self, keys: Path, query: str) -> None:
        self.client_query = query.format(keys)
        async with self.running(None, None) as carriers:
            with pytest.raises(PlaneError) as caught:
                await carriers.open()
            assert caught.value.code is Code.UNAVAILABLE
            assert carriers.accepted.empty()

    async def test_a_client_must_know_whose_key_it_wants(self, keys: Path) -> None:
        self.client_query = None
        address = f"link+zmq://127.0.0.1:1?key={keys / 'client.key_secret'}"
        with pytest.raises(PlaneError, match="server_key") as caught:
            await self.connect(address, Recorder)
        assert caught.value.code is Code.INVALID_ARGUMENT

    async def test_a_public_key_is_no_secret_one(self, keys: Path) -> None:
        self.query = f"?key={keys / 'server.key'}"
        with pytest.raises(PlaneError, match="no secret key"):
            await self.listen(Recorder)

    async def test_a_key_file_that_is_missing(self, keys: Path) -> None:
        self.query = f"?key={keys / 'nothing'}"
        with pytest.raises(OSError, match="nothing"):
            await self.listen(Recorder)


@contextmanager
def stranger_to(carriers: Carriers) -> Generator[zmq.Socket[bytes]]:
    """A socket that is connected and knows nothing of links."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as stranger:
        stranger.linger = 0
        stranger.connect(carriers.listener.address.replace("link+zmq", "tcp"))
        yield stranger
