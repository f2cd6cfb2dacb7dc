"""Links through a NATS server."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from tests.certificates import make_certificates, needs_openssl
from tests.nats_server import NatsServer, nats_server, needs_nats_server
from tests.runtime.link.carriers.carrier_suite import WAIT_S, Carriers, CarrierSuite, Recorder
from tests.runtime.link.carriers.processes import CONNECTS, process
from tests.runtime.link.carriers.test_tcp import free_port

from protoplane_base import Code, PlaneError
from protoplane_runtime.link.carriers.interface import Carrier, Listener, Started
from protoplane_runtime.link.carriers.opening import connector, listener
from protoplane_runtime.tls import ClientTls, ServerTls

pytest.importorskip("nats")

from nats.aio.client import Client
from nats.aio.msg import Msg


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with nats_server(tmp_path_factory.mktemp("nats")) as running:
        yield running


@needs_nats_server
class TestNats(CarrierSuite):
    @pytest.fixture(autouse=True)
    def with_server(self, server: NatsServer) -> None:
        self.server = server

    async def listen(self, started: Started, tls: ServerTls | None = None) -> Listener:
        address = f"link+{self.server.url}/suite.{uuid4().hex}"
        return await listener(address)(address, started, tls)

    async def connect(self, address: str, started: Started, tls: ClientTls | None = None) -> None:
        await connector(address)(address, started, tls)

    def nowhere(self) -> str:
        return f"link+{self.server.url}/nobody"

    async def test_listeners_of_one_subject_share_it(self) -> None:
        address = f"link+{self.server.url}/suite.{uuid4().hex}"
        taken: list[list[Recorder]] = [[], []]
        ends: list[Recorder] = []

        def taking(number: int) -> Started:
            def started(carrier: Carrier) -> Recorder:
                taken[number].append(Recorder(carrier))
                return taken[number][-1]

            return started

        def started(carrier: Carrier) -> Recorder:
            ends.append(Recorder(carrier))
            return ends[-1]

        both = [await listener(address)(address, taking(number), None) for number in (0, 1)]
        for _ in range(40):
            await self.connect(address, started)
        assert len(taken[0]) + len(taken[1]) == 40
        assert taken[0]
        assert taken[1]
        for end in ends:
            end.carrier.abort()
        for end in (*ends, *taken[0], *taken[1]):
            await end.until_lost()
        for one in both:
            await one.aclose()

    async def test_a_closed_listener_keeps_its_links_and_takes_no_more(
        self, carriers: Carriers
    ) -> None:
        near, far = await carriers.pair()
        await carriers.listener.aclose()
        with pytest.raises(PlaneError, match="nobody listens"):
            await carriers.open()
        near.carrier.send(b"still here")
        await far.takes(b"still here")

    async def test_a_caller_that_is_killed_is_lost(self, carriers: Carriers) -> None:
        async with process(CONNECTS, carriers.listener.address) as child:
            async with asyncio.timeout(WAIT_S):
                far = await carriers.accepted.get()
            await far.takes(b"hello")
            # The server may take this for the caller yet; nobody sends anything after it.
            far.carrier.send(b"are you there?")
            child.kill()
            await child.wait()
            error = await far.until_lost()
            assert error is not None
            assert "gone" in error.message

    @pytest.mark.parametrize("number", [0, 2, 0xFFFFFFFF])
    async def test_a_message_that_is_lost_ends_the_link(self, number: int) -> None:
        """What listens here answers, and then leaves a number out or repeats one."""
        async with await connected(self.server) as client:
            inbox = client.new_inbox()

            async def answer(message: Msg) -> None:
                if message.data[0] == 1:
                    opened = b"\2\0\0\0\0" + message.data[5:]
                    await client.publish(message.reply, opened, inbox)
                elif message.data[0] == 0:
                    data = b"\0" + number.to_bytes(4, "big") + b"hello"
                    await client.publish(message.reply, data, inbox)

            for subject in ("suite.forgetful", inbox):
                await client.subscribe(  # pyright: ignore[reportUnknownMemberType]
                    subject, cb=answer
                )
            await client.flush()
            made: list[Recorder] = []

            def started(carrier: Carrier) -> Recorder:
                made.append(Recorder(carrier))
                return made[0]

            await self.connect(f"link+{self.server.url}/suite.forgetful", started)
            made[0].carrier.send(b"go on")
            error = await made[0].until_lost()
            assert error is not None
            assert "lost" in error.message
            assert not made[0].data

    @pytest.mark.parametrize(
        "data",
        [b"", b"\1", b"\1\0\0\0\0", b"\1\0\0\0\0\2\0\1\0\0", b"\0\0\0\0\0data"],
    )
    async def test_what_is_no_link_is_left_alone(self, carriers: Carriers, data: bytes) -> None:
        async with await connected(self.server) as client:
            subject = carriers.listener.address.rpartition("/")[2]
            await client.publish(subject, data, client.new_inbox())
            await client.publish(subject, data)
            await client.flush()
            near, far = await carriers.pair()
            near.carrier.send(b"hello")
            await far.takes(b"hello")
            assert carriers.accepted.empty()

    @pytest.mark.parametrize(
        "address",
        [
            "link+nats://",
            "link+nats://here",
            "link+nats://here/",
            "link+nats://here:x/a",
            "link+nats:///a",
            "link+nats://here/a.*",
            "link+nats://here/a..b",
            "link+nats://here/a%20b",
            "link+nats://here/a?b=c",
        ],
    )
    async def test_no_address(self, address: str) -> None:
        with pytest.raises(PlaneError) as caught:
            await connector(address)(address, Recorder, None)
        assert caught.value.code is Code.INVALID_ARGUMENT

    async def test_no_server(self) -> None:
        address = f"link+nats://127.0.0.1:{free_port()}/a"
        for opening in (connector(address), listener(address)):
            with pytest.raises(
                PlaneError, match=address.partition("+")[2].rpartition("/")[0]
            ) as error:
                await opening(address, Recorder, None)
            assert error.value.code is Code.UNAVAILABLE


@needs_nats_server
class TestServers:
    """What becomes of links when it is the server that fails, or that keeps one out."""

    pytestmark = pytest.mark.anyio

    async def test_a_server_that_dies_takes_the_links_along(self, tmp_path: Path) -> None:
        (tmp_path / "a").mkdir()
        (tmp_path / "b").mkdir()
        ends: asyncio.Queue[Recorder] = asyncio.Queue()

        def started(carrier: Carrier) -> Recorder:
            recorder = Recorder(carrier)
            ends.put_nowait(recorder)
            return recorder

        with nats_server(tmp_path / "a") as server:
            address = f"link+{server.url}/a"
            listening = await listener(address)(address, started, None)
            await connector(address)(address, started, None)
            server.kill()
            for _ in range(2):
                error = await (await ends.get()).until_lost()
                assert error is not None
                assert error.code is Code.UNAVAILABLE
        with nats_server(tmp_path / "b", port=server.port):
            async with asyncio.timeout(WAIT_S):
                while ends.empty():
                    with contextlib.suppress(PlaneError):
                        await connector(address)(address, started, None)
                    await asyncio.sleep(0.05)
            near, far = await ends.get(), await ends.get()
            near.carrier.send(b"hello")
            far.carrier.send(b"hello")
            await near.takes(b"hello")
            await far.takes(b"hello")
            near.carrier.close()
            await far.until_lost()
            await near.until_lost()
            await listening.aclose()

    async def test_a_server_that_hangs_holds_nothing_up(self, tmp_path: Path) -> None:
        ends: list[Recorder] = []

        def started(carrier: Carrier) -> Recorder:
            ends.append(Recorder(carrier))
            return ends[-1]

        before = asyncio.all_tasks()
        with nats_server(tmp_path) as server:
            address = f"link+{server.url}/a"
            listening = await listener(address)(address, started, None)
            await connector(address)(address, started, None)
            server.pause()
            while not ends[0].pressed or not ends[1].pressed:
                for end in ends:
                    end.carrier.send(b"x" * 64 * 1024)
                await asyncio.sleep(0)
            for end in ends:
                end.carrier.abort()
                await end.until_lost()
            async with asyncio.timeout(WAIT_S):
                await listening.aclose()
                if left := asyncio.all_tasks() - before:
                    await asyncio.wait(left)

    async def test_a_token(self, tmp_path: Path) -> None:
        with nats_server(tmp_path, token="s3cret") as server:
            host = f"127.0.0.1:{server.port}"
            await talk(f"link+nats://s3cret@{host}/a")
            for wrong in ("", "other@", "user:s3cret@"):
                with pytest.raises(PlaneError, match=host) as caught:
                    await talk(f"link+nats://{wrong}{host}/a")
                assert caught.value.code is Code.UNAVAILABLE
                assert "s3cret" not in str(caught.value)

    @needs_openssl
    async def test_tls(self, certificates: Path, strangers: Path, tmp_path: Path) -> None:
        with nats_server(tmp_path, certificates=certificates) as server:
            address = f"link+{server.url}/a"
            await talk(f"{address}?ca={certificates / 'ca.pem'}")
            await talk(
                f"{address}?ca={certificates / 'ca.pem'}",
                connecting=address,
                tls=ClientTls(ca=certificates / "ca.pem"),
            )
            for wrong in (address, f"{address}?ca={strangers / 'ca.pem'}"):
                with pytest.raises(PlaneError) as caught:
                    await talk(wrong)
                assert caught.value.code is Code.UNAVAILABLE

    @needs_openssl
    async def test_mutual_tls(self, certificates: Path, strangers: Path, tmp_path: Path) -> None:
        with nats_server(tmp_path, certificates=certificates, mutual=True) as server:
            address = f"link+{server.url}/a?ca={certificates / 'ca.pem'}"
            ours, theirs = (
                f"&cert={folder / 'client.pem'}&key={folder / 'client.key'}"
                for folder in (certificates, strangers)
            )
            await talk(address + ours)
            for wrong in (address, address + theirs):
                with pytest.raises(PlaneError) as caught:
                    await talk(wrong)
                assert caught.value.code is Code.UNAVAILABLE

    @needs_openssl
    async def test_who_wants_tls_shuns_a_server_without(
        self, certificates: Path, server: NatsServer
    ) -> None:
        with pytest.raises(PlaneError, match=r"TLS|secure"):
            await talk(f"link+{server.url}/a?ca={certificates / 'ca.pem'}")

    @pytest.fixture(scope="session")
    @classmethod
    def certificates(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return make_certificates(tmp_path_factory.mktemp("certificates"))

    @pytest.fixture(scope="session")
    @classmethod
    def strangers(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return make_certificates(tmp_path_factory.mktemp("strangers"))


async def connected(server: NatsServer) -> Client:
    """A client of the library's own."""
    client = Client()
    await client.connect(server.url)
    return client


async def talk(
    listening: str, *, connecting: str | None = None, tls: ClientTls | None = None
) -> None:
    """Listen, connect, say a word each way and close."""
    ends: list[Recorder] = []

    def started(carrier: Carrier) -> Recorder:
        ends.append(Recorder(carrier))
        return ends[-1]

    there = await listener(listening)(listening, started, None)
    address = connecting or listening
    await connector(address)(address, started, tls)
    for end, other in (ends, ends[::-1]):
        end.carrier.send(b"hello")
        await other.takes(b"hello")
    ends[0].carrier.close()
    for end in ends:
        assert await end.until_lost() is None
    await there.aclose()
