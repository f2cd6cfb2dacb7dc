"""How a carrier behaves, whatever it moves its bytes by.

A test of a carrier derives from `CarrierSuite` and says how to listen and to connect; one that
crosses a machine's border derives from `TlsCarrierSuite`. What a carrier cannot do by its nature
its test overrides with a skip that says why.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.certificates import make_certificates, needs_openssl

from protoplane_base import Code, PlaneError
from protoplane_runtime.link.acceptor import Acceptor
from protoplane_runtime.link.call import LinkCall
from protoplane_runtime.link.caller import Caller
from protoplane_runtime.link.carriers.interface import Carrier, Listener, Receiver, Started
from protoplane_runtime.link.connection import Connection
from protoplane_runtime.link.headers import encode_open
from protoplane_runtime.link.settings import Identity, LinkSettings
from protoplane_runtime.tls import ClientTls, ServerTls

WAIT_S = 20.0
"""Longest that anything here may take; a fault otherwise hangs."""

CHUNK = 64 * 1024
MOST_UNTIL_CONGESTED = 256 * 1024 * 1024


class Recorder:
    """A `Receiver` that remembers all that it is told.

    Attributes:
        carrier: Whose receiver it is.
        data: The bytes that came.
        losses: What `lost` was called with, each time.
        congestions: How often it was told to be congested.
        pressed: Whether it is congested.
        late: What it was told after it was told of the loss.
    """

    def __init__(self, carrier: Carrier) -> None:
        self.carrier = carrier
        self.data = bytearray()
        self.losses: list[PlaneError | None] = []
        self.congestions = 0
        self.pressed = False
        self.late: list[str] = []
        self._changed = asyncio.Event()

    def received(self, data: bytes) -> None:
        assert isinstance(data, bytes)
        self._note("received")
        self.data += data

    def congested(self) -> None:
        self._note("congested")
        assert not self.pressed
        self.congestions += 1
        self.pressed = True

    def uncongested(self) -> None:
        self._note("uncongested")
        assert self.pressed
        self.pressed = False

    def lost(self, error: PlaneError | None) -> None:
        self._note("lost")
        self.losses.append(error)

    async def until(self, happened: Callable[[Recorder], bool]) -> None:
        """Wait until something is so."""
        async with asyncio.timeout(WAIT_S):
            while not happened(self):
                self._changed.clear()
                await self._changed.wait()

    async def takes(self, data: bytes) -> None:
        """Wait until as many bytes came in all; see that they are these."""
        await self.until(lambda recorder: len(recorder.data) >= len(data))
        assert self.data == data

    async def until_lost(self) -> PlaneError | None:
        """Wait for the loss, and give what it was told with."""
        await self.until(lambda recorder: bool(recorder.losses))
        return self.losses[0]

    def _note(self, what: str) -> None:
        if self.losses:
            self.late.append(what)
        self._changed.set()


@dataclass
class Carriers:
    """The open end of a carrier under test: where it listens, and every end that was made."""

    listener: Listener
    connect: Callable[[Started], Awaitable[None]]
    ends: list[Recorder] = field(default_factory=list[Recorder])
    accepted: asyncio.Queue[Recorder] = field(default_factory=asyncio.Queue[Recorder])

    def started(self, carrier: Carrier) -> Receiver:
        recorder = Recorder(carrier)
        self.ends.append(recorder)
        return recorder

    def taken(self, carrier: Carrier) -> Receiver:
        """What the listening end starts carriers with."""
        recorder = Recorder(carrier)
        self.ends.append(recorder)
        self.accepted.put_nowait(recorder)
        return recorder

    async def open(self) -> Recorder:
        """Connect, and give the end that connected."""
        made: list[Recorder] = []

        def started(carrier: Carrier) -> Receiver:
            assert not made, "started was called twice"
            recorder = Recorder(carrier)
            made.append(recorder)
            self.ends.append(recorder)
            return recorder

        async with asyncio.timeout(WAIT_S):
            await self.connect(started)
        assert made, "connect returned before started was called"
        return made[0]

    async def pair(self) -> tuple[Recorder, Recorder]:
        """Connect, and give the end that connected and the one that was connected to."""
        near = await self.open()
        async with asyncio.timeout(WAIT_S):
            return near, await self.accepted.get()


async def first(taken: list[Recorder]) -> Recorder:
    """The first end that a server took on, once it has: its client may know a little earlier."""
    async with asyncio.timeout(10):
        while not taken:  # noqa: ASYNC110  # who appends to a list sets no event
            await asyncio.sleep(0.005)
    return taken[0]


class CarrierSuite:
    """The behaviour cases; derive from it and define `listen`, `connect` and `nowhere`.

    Attributes:
        tells_close: Whether an end can tell an orderly close of the other one from a loss.
    """

    pytestmark = pytest.mark.anyio
    tells_close = True

    @pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
    def anyio_backend(self, request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
        # Their transports are different code, and behave differently at the end of a connection.
        if request.param:
            pytest.importorskip("uvloop")
        return "asyncio", {"use_uvloop": request.param}

    async def listen(self, started: Started, tls: ServerTls | None = None) -> Listener:
        """Listen anywhere; `Listener.aclose` undoes it all."""
        raise NotImplementedError

    async def connect(self, address: str, started: Started, tls: ClientTls | None = None) -> None:
        """Connect to an address that `listen` gave."""
        raise NotImplementedError

    def nowhere(self) -> str:
        """An address where nobody listens."""
        raise NotImplementedError

    @pytest.fixture
    async def carriers(self) -> AsyncIterator[Carriers]:
        """Listen; at the end abort everything, and see that nothing of it is left."""
        async with self.running(None, None) as carriers:
            yield carriers

    @asynccontextmanager
    async def running(
        self, server_tls: ServerTls | None, client_tls: ClientTls | None
    ) -> AsyncGenerator[Carriers, None]:
        before = _tasks()
        found: list[Carriers] = []

        def taken(carrier: Carrier) -> Receiver:
            return found[0].taken(carrier)

        listener = await self.listen(taken, server_tls)

        async def connect(started: Started) -> None:
            await self.connect(listener.address, started, client_tls)

        carriers = Carriers(listener, connect)
        found.append(carriers)
        try:
            yield carriers
        finally:
            for end in carriers.ends:
                end.carrier.abort()
            for end in carriers.ends:
                await end.until_lost()
            async with asyncio.timeout(WAIT_S):
                await listener.aclose()
            await _no_tasks_but(before)
        for end in carriers.ends:
            assert len(end.losses) == 1
            assert not end.late, f"told {end.late} after the loss"

    async def test_bytes_both_ways(self, carriers: Carriers) -> None:
        near, far = await carriers.pair()
        near.carrier.send(b"one")
        near.carrier.send(b"two")
        await far.takes(b"onetwo")
        far.carrier.send(b"three")
        await near.takes(b"three")
        near.carrier.send(b"four")
        await far.takes(b"onetwofour")
        assert near.carrier.peer
        assert far.carrier.peer
        assert far.carrier.identity == ""

    async def test_every_byte_value_and_every_small_size(self, carriers: Carriers) -> None:
        near, far = await carriers.pair()
        sent = [bytes((size + at) % 256 for at in range(size)) for size in range(1, 300)]
        for data in sent:
            near.carrier.send(data)
            far.carrier.send(data)
        await far.takes(b"".join(sent))
        await near.takes(b"".join(sent))

    async def test_the_end_that_was_connected_to_may_speak_first(self, carriers: Carriers) -> None:
        near, far = await carriers.pair()
        far.carrier.send(b"welcome")
        await near.takes(b"welcome")

    @pytest.mark.parametrize("upward", [True, False], ids=["up", "down"])
    async def test_a_slow_receiver_congests_the_sender(
        self, carriers: Carriers, upward: bool
    ) -> None:
        near, far = await carriers.pair()
        sender, receiver = (near, far) if upward else (far, near)
        receiver.carrier.pause_receiving()
        sent = bytearray()
        number = 0
        while not sender.pressed or len(sent) < 5 * 1024 * 1024:
            chunk = number.to_bytes(8, "big") * (CHUNK // 8)
            sender.carrier.send(chunk)
            sent += chunk
            number += 1
            await asyncio.sleep(0)
            assert len(sent) < MOST_UNTIL_CONGESTED, "it takes any amount"
        assert len(receiver.data) < len(sent)
        receiver.carrier.resume_receiving()
        await sender.until(lambda recorder: not recorder.pressed)
        await receiver.takes(bytes(sent))
        assert sender.congestions >= 1

    async def test_large_both_ways_at_once(self, carriers: Carriers) -> None:
        near, far = await carriers.pair()
        data = bytes(range(256)) * (4 * 1024 * 4)
        most = min(near.carrier.max_batch_bytes, far.carrier.max_batch_bytes)
        for start in range(0, len(data), most):
            near.carrier.send(data[start : start + most])
            far.carrier.send(data[start : start + most])
        await near.takes(data)
        await far.takes(data)

    async def test_the_largest_batch(self, carriers: Carriers) -> None:
        near, far = await carriers.pair()
        data = b"x" * min(near.carrier.max_batch_bytes, 8 * 1024 * 1024)
        near.carrier.send(data)
        far.carrier.send(data)
        await far.takes(data)
        await near.takes(data)

    @pytest.mark.parametrize("upward", [True, False], ids=["near", "far"])
    async def test_a_close_delivers_what_was_sent(self, carriers: Carriers, upward: bool) -> None:
        near, far = await carriers.pair()
        closes, stays = (near, far) if upward else (far, near)
        sent = b"".join(bytes([number]) * 10_000 for number in range(100))
        for start in range(0, len(sent), 10_000):
            closes.carrier.send(sent[start : start + 10_000])
        closes.carrier.close()
        assert await closes.until_lost() is None
        error = await stays.until_lost()
        assert stays.data == sent
        if self.tells_close:
            assert error is None

    async def test_both_close_at_once(self, carriers: Carriers) -> None:
        near, far = await carriers.pair()
        near.carrier.close()
        far.carrier.close()
        assert await near.until_lost() is None
        assert await far.until_lost() is None

    @pytest.mark.parametrize("upward", [True, False], ids=["near", "far"])
    async def test_an_abort_is_a_loss(self, carriers: Carriers, upward: bool) -> None:
        near, far = await carriers.pair()
        near.carrier.send(b"hello")
        await far.takes(b"hello")
        aborts, stays = (near, far) if upward else (far, near)
        aborts.carrier.abort()
        await aborts.until_lost()
        error = await stays.until_lost()
        assert error is None or error.code is Code.UNAVAILABLE

    async def test_an_abort_does_not_wait_for_the_other_end(self, carriers: Carriers) -> None:
        near, far = await carriers.pair()
        far.carrier.pause_receiving()
        while not near.pressed:
            near.carrier.send(b"x" * CHUNK)
            await asyncio.sleep(0)
        near.carrier.abort()
        await near.until_lost()

    async def test_what_is_sent_after_the_end_is_dropped(self, carriers: Carriers) -> None:
        near, far = await carriers.pair()
        near.carrier.send(b"last")
        near.carrier.close()
        await far.until_lost()
        await near.until_lost()
        for end in (near, far):
            end.carrier.send(b"too late")
            end.carrier.pause_receiving()
            end.carrier.resume_receiving()
            end.carrier.close()
            end.carrier.abort()
        await asyncio.sleep(0.05)
        assert far.data == b"last"

    async def test_ten_at_once_do_not_mix(self, carriers: Carriers) -> None:
        near = await asyncio.gather(*(carriers.open() for _ in range(10)))
        for number, end in enumerate(near):
            for _ in range(50):
                end.carrier.send(bytes([number]) * 1000)
        async with asyncio.timeout(WAIT_S):
            far = [await carriers.accepted.get() for _ in near]
        for end in far:
            await end.until(lambda recorder: len(recorder.data) >= 50_000)
            end.carrier.send(bytes(end.data))
        assert sorted(end.data for end in far) == [bytes([n]) * 50_000 for n in range(10)]
        for number, end in enumerate(near):
            await end.takes(bytes([number]) * 50_000)

    async def test_one_that_ends_leaves_the_others(self, carriers: Carriers) -> None:
        near, far = await carriers.pair()
        other, other_far = await carriers.pair()
        near.carrier.abort()
        await far.until_lost()
        other.carrier.send(b"still here")
        await other_far.takes(b"still here")

    async def test_connecting_to_nothing_fails(self) -> None:
        before = _tasks()

        async with asyncio.timeout(WAIT_S):
            with pytest.raises((OSError, PlaneError)) as caught:
                await self.connect(self.nowhere(), _never_started)
        if isinstance(caught.value, PlaneError):
            assert caught.value.code is Code.UNAVAILABLE
        assert str(caught.value)
        await _no_tasks_but(before)

    async def test_a_connect_can_be_cancelled(self, carriers: Carriers) -> None:
        for turns in range(12):
            task = asyncio.ensure_future(carriers.connect(carriers.started))
            for _ in range(turns):
                await asyncio.sleep(0)
            done = task.done()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert task.cancelled() or done or not task.exception()
        for end in carriers.ends:
            end.carrier.abort()
        for end in carriers.ends:
            await end.until_lost()

    async def test_a_session(self, carriers: Carriers) -> None:
        """Hellos, a call and a ping of two sessions over two `Connection`s."""
        links: list[Connection[Acceptor]] = []

        def taken(carrier: Carrier) -> Receiver:
            link: Connection[Acceptor] = Connection(serving=True)

            def accept(header: bytes, request: bytes | None) -> LinkCall:
                call = LinkCall()
                asyncio.get_running_loop().call_soon(answer, call, header + (request or b""))
                return call

            def answer(call: LinkCall, data: bytes) -> None:
                session.close(call, b"", data)

            session = Acceptor(_SETTINGS, wake=link.wake, accept=accept)
            link.start(session, carrier)
            links.append(link)
            return link

        before = _tasks()
        listener = await self.listen(taken)
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = loop.create_future()
        near: Connection[Caller] = Connection()

        def started(carrier: Carrier) -> Receiver:
            session = Caller(_SETTINGS, wake=near.wake, on_ready=lambda: ready.set_result(None))
            near.start(session, carrier)
            return near

        async with asyncio.timeout(WAIT_S):
            await self.connect(listener.address, started)
            await ready
            assert near.session.peer.name == "suite"
            header = encode_open("/a.B/C", {"x-n": "1"})
            for size in (0, 10, 200_000):
                call = _Call(loop.create_future())
                near.session.open(call, header, b"r" * size)
                assert await call.answer == header + b"r" * size
            near.session.ping()
            while near.session.pongs < 1:  # noqa: ASYNC110  (the session tells nobody)
                await asyncio.sleep(0.001)
            near.close()
            assert await near.closed is None
            assert await links[0].closed is None or not self.tells_close
            await listener.aclose()
        await _no_tasks_but(before)


class TlsCarrierSuite(CarrierSuite):
    """What a carrier that crosses a machine's border must keep out; adds to `CarrierSuite`."""

    @pytest.fixture(scope="session")
    @classmethod
    def certificates(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return make_certificates(tmp_path_factory.mktemp("certificates"))

    @pytest.fixture(scope="session")
    @classmethod
    def strangers(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return make_certificates(tmp_path_factory.mktemp("strangers"))

    @needs_openssl
    async def test_tls(self, certificates: Path) -> None:
        ours = ClientTls(ca=certificates / "ca.pem")
        async with self.running(server_tls(certificates, mutual=False), ours) as carriers:
            near, far = await carriers.pair()
            near.carrier.send(b"x" * 300_000)
            await far.takes(b"x" * 300_000)
            far.carrier.send(b"y" * 300_000)
            await near.takes(b"y" * 300_000)
            assert far.carrier.identity == ""

    @needs_openssl
    @pytest.mark.parametrize("upward", [True, False], ids=["near", "far"])
    async def test_tls_close(self, certificates: Path, upward: bool) -> None:
        ours = ClientTls(ca=certificates / "ca.pem")
        async with self.running(server_tls(certificates, mutual=False), ours) as carriers:
            near, far = await carriers.pair()
            closes, stays = (near, far) if upward else (far, near)
            closes.carrier.send(b"x" * 300_000)
            closes.carrier.close()
            assert await closes.until_lost() is None
            assert await stays.until_lost() is None
            assert stays.data == b"x" * 300_000

    @needs_openssl
    async def test_mutual_tls_says_who_it_is(self, certificates: Path) -> None:
        ours = client_tls(certificates)
        async with self.running(server_tls(certificates, mutual=True), ours) as carriers:
            near, far = await carriers.pair()
            near.carrier.send(b"hello")
            await far.takes(b"hello")
            assert far.carrier.identity == "client"

    @needs_openssl
    async def test_no_certificate_is_refused(self, certificates: Path) -> None:
        ours = ClientTls(ca=certificates / "ca.pem")
        await self._kept_out(server_tls(certificates, mutual=True), ours)

    @needs_openssl
    async def test_a_strangers_certificate_is_refused(
        self, certificates: Path, strangers: Path
    ) -> None:
        theirs = ClientTls(
            ca=certificates / "ca.pem",
            cert=strangers / "client.pem",
            key=strangers / "client.key",
        )
        await self._kept_out(server_tls(certificates, mutual=True), theirs)

    @needs_openssl
    async def test_a_server_of_a_strange_authority_is_refused(
        self, certificates: Path, strangers: Path
    ) -> None:
        theirs = ClientTls(ca=strangers / "ca.pem")
        await self._kept_out(server_tls(certificates, mutual=False), theirs)

    @needs_openssl
    async def test_the_name_that_the_server_must_bear(self, certificates: Path) -> None:
        ours = ClientTls(ca=certificates / "ca.pem", server_name="localhost")
        async with self.running(server_tls(certificates, mutual=False), ours) as carriers:
            near, far = await carriers.pair()
            near.carrier.send(b"hello")
            await far.takes(b"hello")
        theirs = ClientTls(ca=certificates / "ca.pem", server_name="elsewhere.example")
        await self._kept_out(server_tls(certificates, mutual=False), theirs)

    async def _kept_out(self, server: ServerTls, client: ClientTls) -> None:
        async with self.running(server, client) as carriers:
            try:
                near = await carriers.open()
            except (OSError, PlaneError):
                pass
            else:
                # With TLS 1.3 a client learns only after its handshake that it is refused.
                near.carrier.send(b"let me in")
                await near.until_lost()
            assert carriers.accepted.empty()


def server_tls(certificates: Path, *, mutual: bool) -> ServerTls:
    """The server of a folder of `make_certificates`."""
    return ServerTls(
        certificate=certificates / "server.pem",
        key=certificates / "server.key",
        client_ca=certificates / "ca.pem" if mutual else None,
    )


def client_tls(certificates: Path) -> ClientTls:
    """The client of a folder of `make_certificates`."""
    return ClientTls(
        ca=certificates / "ca.pem",
        cert=certificates / "client.pem",
        key=certificates / "client.key",
    )


_SETTINGS = LinkSettings(identity=Identity(name="suite"), compress_from_bytes=None)


class _Call(LinkCall):
    def __init__(self, answer: asyncio.Future[bytes | None]) -> None:
        self.answer = answer

    def closed(self, header: bytes, payload: bytes | None) -> None:
        assert header == b""
        self.answer.set_result(payload)

    def failed(self, error: PlaneError) -> None:
        self.answer.set_exception(error)


def _never_started(_carrier: Carrier) -> Receiver:
    raise AssertionError("nobody is there and it connected")


async def _no_tasks_but(before: set[asyncio.Task[Any]]) -> None:
    """See that no task is left; what was cancelled gets the time to end."""
    if left := _tasks() - before:
        await asyncio.wait(left, timeout=2)
    left = _tasks() - before
    assert not left, f"{len(left)} tasks are left: {left}"


def _tasks() -> set[asyncio.Task[Any]]:
    """The tasks of this loop, but for those in which anyio runs tests and fixtures."""
    return {task for task in asyncio.all_tasks() if "TestRunner" not in repr(task.get_coro())}
