"""Links over Zenoh."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from tests.certificates import make_certificates, needs_openssl
from tests.runtime.link.carriers.carrier_suite import (
    WAIT_S,
    Carriers,
    CarrierSuite,
    Recorder,
    client_tls,
    first,
    server_tls,
)
from tests.runtime.link.carriers.processes import CONNECTS, LISTENS, process
from tests.runtime.link.carriers.test_tcp import free_port

from protoplane_base import Code, PlaneError
from protoplane_runtime.link.carriers.interface import Carrier, Listener, Started
from protoplane_runtime.link.carriers.opening import connector, listener
from protoplane_runtime.tls import ClientTls, ServerTls

pytest.importorskip("zenoh")

import zenoh

ROUTES = """
import json, sys, time, zenoh
config = zenoh.Config()
for name, value in {
    "mode": "router",
    "listen/endpoints": [sys.argv[1]],
    "scouting/multicast/enabled": False,
}.items():
    config.insert_json5(name, json.dumps(value))
with zenoh.open(config):
    print("open", flush=True)
    time.sleep(60)
"""
OPEN = "@protoplane/link/open"
INBOX = f"@protoplane/link/inbox/{'a' * 32}/{'b' * 32}"


async def listen(address: str, started: Started, tls: ServerTls | None = None) -> Listener:
    return await listener(address)(address, started, tls)


async def connect(address: str, started: Started, tls: ClientTls | None = None) -> None:
    await connector(address)(address, started, tls)


def named(query: str = "listen=tcp/127.0.0.1:0") -> str:
    """The address of a listener that is there once."""
    return f"link+zenoh:suite/{uuid4().hex}?{query}"


class TestZenoh(CarrierSuite):
    async def listen(self, started: Started, tls: ServerTls | None = None) -> Listener:
        return await listen(named(), started, tls)

    async def connect(self, address: str, started: Started, tls: ClientTls | None = None) -> None:
        await connect(address, started, tls)

    def nowhere(self) -> str:
        return named()

    async def test_a_closed_listener_keeps_its_links_and_takes_no_more(
        self, carriers: Carriers
    ) -> None:
        near, far = await carriers.pair()
        await carriers.listener.aclose()
        with pytest.raises(PlaneError, match=r"nobody listens|no more links"):
            await carriers.open()
        near.carrier.send(b"still here")
        await far.takes(b"still here")

    async def test_a_caller_that_is_killed_is_lost(self, carriers: Carriers) -> None:
        async with process(CONNECTS, carriers.listener.address) as child:
            async with asyncio.timeout(WAIT_S):
                far = await carriers.accepted.get()
            await far.takes(b"hello")
            child.kill()
            error = await far.until_lost()
            assert error is not None
            assert "gone" in error.message

    async def test_a_listener_that_is_killed_is_lost(self) -> None:
        ends: list[Recorder] = []
        async with process(LISTENS, named()) as child:
            assert child.stdout is not None
            async with asyncio.timeout(WAIT_S):
                address = (await child.stdout.readline()).decode().strip()
            await connect(address, lambda carrier: keep(ends, carrier))
            await ends[0].takes(b"hello")
            child.kill()
            error = await ends[0].until_lost()
            assert error is not None
            assert "gone" in error.message

    async def test_one_that_takes_nothing_holds_nothing_up(self, carriers: Carriers) -> None:
        """It is stopped, not killed: Zenoh blocks who sends to it, which must not be the loop."""
        async with process(CONNECTS, carriers.listener.address) as child:
            async with asyncio.timeout(WAIT_S):
                far = await carriers.accepted.get()
            await far.takes(b"hello")
            os.kill(child.pid, signal.SIGSTOP)
            while not far.pressed:
                far.carrier.send(b"x" * 64 * 1024)
                await asyncio.sleep(0)
            far.carrier.abort()
            await far.until_lost()

    @pytest.mark.parametrize("number", [0, 2, 0xFFFFFFFF])
    async def test_a_message_that_is_lost_ends_the_link(self, number: int) -> None:
        """What listens here answers, and then leaves a number out or repeats one."""
        port = free_port()
        with stranger(listen=[f"tcp/127.0.0.1:{port}"]) as session:

            def opened(query: Any) -> None:
                theirs = query.attachment.to_string()
                answer = b"\2\0\0\0\0" + query.payload.to_bytes()[5:]
                with query:
                    query.reply(query.key_expr, b"")
                session.put(theirs, answer, attachment=INBOX)
                session.put(theirs, b"\0" + number.to_bytes(4, "big") + b"hello")

            session.declare_queryable(
                f"{OPEN}/forgetful", zenoh.handlers.Callback(opened), complete=True
            )
            ends: list[Recorder] = []
            address = f"link+zenoh:forgetful?connect=tcp/127.0.0.1:{port}"
            lost: PlaneError | None
            try:
                await connect(address, lambda carrier: keep(ends, carrier))
                lost = await ends[0].until_lost()
            except PlaneError as error:
                # It came before the link was there.
                lost = error
            assert lost is not None
            assert "was lost" in lost.message
            assert not any(end.data for end in ends)

    @pytest.mark.parametrize("data", [b"", b"\1", b"\0\0\0\0\0data", b"\2\0\0\0\0"])
    async def test_what_is_no_link_is_left_alone(self, carriers: Carriers, data: bytes) -> None:
        name, _, locator = carriers.listener.address.removeprefix("link+zenoh:").partition("?")
        with stranger(connect=[locator.removeprefix("connect=")]) as session:
            for inbox in ("", INBOX, "elsewhere"):
                for reply in session.get(f"{OPEN}/{name}", payload=data, attachment=inbox):
                    assert reply.ok is None or data[:1] == b"\1"
            near, far = await carriers.pair()
            near.carrier.send(b"hello")
            await far.takes(b"hello")
            assert carriers.accepted.empty()

    async def test_who_subscribes_everything_gets_no_links(self, carriers: Carriers) -> None:
        locator = carriers.listener.address.partition("?connect=")[2]
        with stranger(connect=[locator]) as session:
            everything = session.declare_subscriber("**")
            near, far = await carriers.pair()
            near.carrier.send(b"hello")
            await far.takes(b"hello")
            far.carrier.send(b"hello")
            await near.takes(b"hello")
            assert everything.try_recv() is None

    @pytest.mark.parametrize(
        "address",
        [
            "link+zenoh:",
            "link+zenoh://a",
            "link+zenoh:a/*",
            "link+zenoh:a//b",
            "link+zenoh:a?b=c",
            "link+zenoh:a?connect=here",
            "link+zenoh:a?connect=",
            "link+zenoh:a?cert=/a.pem",
            "link+zenoh:a?ca=/ca.pem",
            "link+zenoh:a?ca=/ca.pem&connect=tcp/host:1",
        ],
    )
    async def test_no_address(self, address: str) -> None:
        with pytest.raises(PlaneError) as caught:
            await connect(address, Recorder)
        assert caught.value.code is Code.INVALID_ARGUMENT


class TestNetworks:
    """What is between the ends, and what keeps others out of it."""

    pytestmark = pytest.mark.anyio

    async def test_a_router_that_dies_takes_the_links_along(self) -> None:
        locator = f"tcp/127.0.0.1:{free_port()}"
        address = named(f"connect={locator}")
        far: list[Recorder] = []
        near: list[Recorder] = []
        async with router(locator):
            # Its own settings, so that it has its own session.
            listening = await listen(
                f"{address}&listen=tcp/127.0.0.1:0", lambda carrier: keep(far, carrier)
            )
            await connect(address, lambda carrier: keep(near, carrier))
            near[0].carrier.send(b"hello")
            await (await first(far)).takes(b"hello")
            far[0].carrier.send(b"hello")
            await near[0].takes(b"hello")
        for end in (near[0], far[0]):
            error = await end.until_lost()
            assert error is not None
            assert error.code is Code.UNAVAILABLE
        async with router(locator), asyncio.timeout(WAIT_S):
            while len(near) == 1:
                with suppress(PlaneError):
                    await connect(address, lambda carrier: keep(near, carrier))
                await asyncio.sleep(0.05)
            near[1].carrier.send(b"again")
            while len(far) == 1:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            await far[1].takes(b"again")
            near[1].carrier.close()
            assert await near[1].until_lost() is None
            assert await far[1].until_lost() is None
            await listening.aclose()

    async def test_scouting_finds_who_listens(self) -> None:
        if not await asyncio.to_thread(multicast):
            pytest.skip("this machine has no multicast")
        ends: list[Recorder] = []
        async with process(LISTENS, named("")) as child:
            assert child.stdout is not None
            async with asyncio.timeout(WAIT_S):
                address = (await child.stdout.readline()).decode().strip()
                assert "?" not in address
                while not ends:
                    with suppress(PlaneError):
                        await connect(address, lambda carrier: keep(ends, carrier))
            await ends[0].takes(b"hello")
            ends[0].carrier.abort()
            await ends[0].until_lost()

    async def test_no_router(self) -> None:
        address = named(f"connect=tcp/127.0.0.1:{free_port()}")
        for opening in (connect, listen):
            with pytest.raises(PlaneError, match="zenoh") as caught:
                await opening(address, Recorder)
            assert caught.value.code is Code.UNAVAILABLE
            assert "/root/" not in caught.value.message

    async def test_a_port_that_is_taken(self) -> None:
        listening = await listen(named(), Recorder)
        taken = named(listening.address.partition("?")[2].replace("connect=", "listen="))
        with pytest.raises(PlaneError, match="zenoh") as caught:
            await listen(taken, Recorder)
        assert caught.value.code is Code.UNAVAILABLE
        await listening.aclose()

    @needs_openssl
    async def test_tls(self, certificates: Path, strangers: Path) -> None:
        listens = named("listen=tls/127.0.0.1:0")
        ours = ClientTls(ca=certificates / "ca.pem")
        await talk(listens, server_tls(certificates, mutual=False), ours)
        files = f"&cert={certificates / 'server.pem'}&key={certificates / 'server.key'}"
        await talk(listens + files, None, ours)
        with pytest.raises(PlaneError) as caught:
            await talk(
                listens,
                server_tls(certificates, mutual=False),
                ClientTls(ca=strangers / "ca.pem"),
            )
        assert caught.value.code is Code.UNAVAILABLE
        with pytest.raises(PlaneError, match="server_name"):
            await talk(
                listens,
                server_tls(certificates, mutual=False),
                ClientTls(ca=certificates / "ca.pem", server_name="localhost"),
            )

    @needs_openssl
    async def test_mutual_tls(self, certificates: Path, strangers: Path) -> None:
        listens = named("listen=tls/127.0.0.1:0")
        await talk(listens, server_tls(certificates, mutual=True), client_tls(certificates))
        for wrong in (
            ClientTls(ca=certificates / "ca.pem"),
            ClientTls(
                ca=certificates / "ca.pem",
                cert=strangers / "client.pem",
                key=strangers / "client.key",
            ),
        ):
            with pytest.raises(PlaneError) as caught:
                await talk(listens, server_tls(certificates, mutual=True), wrong)
            assert caught.value.code is Code.UNAVAILABLE

    @pytest.fixture(scope="session")
    @classmethod
    def certificates(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return make_certificates(tmp_path_factory.mktemp("certificates"))

    @pytest.fixture(scope="session")
    @classmethod
    def strangers(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return make_certificates(tmp_path_factory.mktemp("strangers"))


def keep(ends: list[Recorder], carrier: Carrier) -> Recorder:
    """Record what a carrier brings, and remember who does."""
    ends.append(Recorder(carrier))
    return ends[-1]


def stranger(**endpoints: list[str]) -> Any:
    """A session of the library's own."""
    config: Any = zenoh.Config()
    config.insert_json5("scouting/multicast/enabled", "false")
    for which in ("connect", "listen"):
        config.insert_json5(f"{which}/endpoints", json.dumps(endpoints.get(which, [])))
    return zenoh.open(config)


def multicast() -> bool:
    """Whether what is sent to Zenoh's group comes back on this machine."""
    group = "224.0.0.224"
    with (
        socket.socket(type=socket.SOCK_DGRAM) as takes,
        socket.socket(type=socket.SOCK_DGRAM) as gives,
    ):
        takes.settimeout(2)
        takes.bind(("", 0))
        member = socket.inet_aton(group) + socket.inet_aton("0.0.0.0")
        try:
            takes.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
            gives.sendto(b"x", (group, takes.getsockname()[1]))
            return takes.recv(1) == b"x"
        except OSError:
            return False


@asynccontextmanager
async def router(locator: str) -> AsyncGenerator[None]:
    """A router in a process of its own; it is killed at the end of the block."""
    async with process(ROUTES, locator) as child:
        assert child.stdout is not None
        async with asyncio.timeout(WAIT_S):
            assert await child.stdout.readline()
        yield


async def talk(listens: str, server: ServerTls | None, client: ClientTls) -> None:
    """Listen, connect, say a word each way and close."""
    far: list[Recorder] = []
    near: list[Recorder] = []
    there = await listen(listens, lambda carrier: keep(far, carrier), server)
    try:
        await connect(there.address, lambda carrier: keep(near, carrier), client)
        near[0].carrier.send(b"hello")
        await far[0].takes(b"hello")
        far[0].carrier.send(b"hello")
        await near[0].takes(b"hello")
        near[0].carrier.close()
        for end in (*near, *far):
            assert await end.until_lost() is None
    finally:
        await there.aclose()
