"""A recorded conversation whose connection is cut at every byte."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.runtime.link.memory_carrier import Wire
from tests.runtime.link.pair import settings

from protoplane_base import Code, PlaneError
from protoplane_runtime.link.acceptor import Acceptor
from protoplane_runtime.link.call import LinkCall
from protoplane_runtime.link.caller import Caller
from protoplane_runtime.link.carriers.interface import Carrier, Receiver
from protoplane_runtime.link.carriers.unix import connect, listen
from protoplane_runtime.link.connection import Connection
from protoplane_runtime.link.errors import UnsentError
from protoplane_runtime.link.headers import decode_close, decode_open, encode_close, encode_open
from protoplane_runtime.link.streams import StreamCall

WAIT_S = 20.0
LIMITS = settings(call_window_bytes=150, link_window_bytes=600, max_frame_bytes=64)
DOWN = [b"down %d" % index for index in range(4)]
SAMPLES = 50

pytestmark = pytest.mark.anyio


class NearCall(StreamCall):
    """A call as its caller sees it."""

    answer: bytes | None = None

    def closed(self, header: bytes, payload: bytes | None) -> None:
        self.error, _ = decode_close(header)
        self.answer = payload
        self.half_closed()


class FarCall(StreamCall):
    """A call as its handler sees it."""

    task: asyncio.Task[None]

    def cancelled(self) -> None:
        self.task.cancel()

    def failed(self, error: PlaneError) -> None:
        self.task.cancel()


class Serving:
    """A component on one link: each call has a task."""

    def __init__(self) -> None:
        self.link: Connection[Acceptor] = Connection(serving=True)
        self.tasks: set[asyncio.Task[None]] = set()

    def started(self, carrier: Carrier) -> Receiver:
        session = Acceptor(
            LIMITS,
            wake=self.link.wake,
            accept=self.accept,
            welcome=lambda _: self.link.watch(),
        )
        self.link.start(session, carrier)
        return self.link

    def accept(self, header: bytes, request: bytes | None) -> LinkCall:
        call = FarCall(self.link.session)
        handler = {"/Echo": self.echo, "/Stream": self.stream, "/Wait": self.wait}[
            decode_open(header).method
        ]
        call.task = asyncio.get_running_loop().create_task(handler(call, request))
        self.tasks.add(call.task)
        call.task.add_done_callback(self.tasks.discard)
        return call

    async def echo(self, call: FarCall, request: bytes | None) -> None:
        assert request is not None
        self.link.session.close(call, encode_close(None, {"served-by": "me"}), request[::-1])

    async def stream(self, call: FarCall, _: bytes | None) -> None:
        got: list[bytes] = []
        while (message := await call.receive()) is not None:
            got.append(message)
        for message in DOWN:
            await call.send(message, "response")
        self.link.session.close(call, b"", b"%d" % len(b"".join(got)))

    async def wait(self, call: FarCall, _: bytes | None) -> None:
        await call.send(b"begun", "response")
        await asyncio.Event().wait()


async def unary(session: Caller) -> None:
    call = NearCall(session)
    session.open(call, encode_open("/Echo", {"a": "b"}, 30.0), b"ask")
    try:
        assert await call.receive() is None
        if call.error is not None:
            raise call.error
        assert call.answer == b"ksa"
    finally:
        session.cancel(call)


async def streams(session: Caller) -> None:
    call = NearCall(session)
    session.open(call, encode_open("/Stream", {}), None)
    try:
        for message in (b"up 0", b"x" * 100, b"y" * 60):
            await call.send(message, "request")
        session.half_close(call)
        got: list[bytes] = []
        while (answer := await call.receive()) is not None:
            got.append(answer)
        if call.error is not None:
            raise call.error
        assert got == DOWN
        assert call.answer == b"164"
    finally:
        session.cancel(call)


async def cancelled(session: Caller) -> None:
    call = NearCall(session)
    session.open(call, encode_open("/Wait", {}), b"")
    try:
        if await call.receive() is None:
            assert call.error is not None
            raise call.error
    finally:
        session.cancel(call)


async def pinged(session: Caller, link: Connection[Caller]) -> None:
    session.ping()
    while session.pongs < session.pings:
        if link.closed.done():
            raise PlaneError(Code.UNAVAILABLE, "the link is over")
        await asyncio.sleep(0)


async def converse(
    open_: Callable[[Callable[[Carrier], Receiver]], Coroutine[Any, Any, None]],
) -> list[BaseException | None]:
    """The conversation; how each of its calls ended, nothing where it went well."""
    link: Connection[Caller] = Connection()
    ready = asyncio.Event()

    def started(carrier: Carrier) -> Receiver:
        link.start(Caller(LIMITS, wake=link.wake, on_ready=ready.set), carrier)
        link.closed.add_done_callback(lambda _: ready.set())
        return link

    await open_(started)
    await ready.wait()
    session = link.session
    if session.ready:
        link.watch()
    ends: list[BaseException | None] = []
    for group in ((unary, streams), (cancelled, unary)):
        tasks = [asyncio.ensure_future(task(session)) for task in group]
        ends += await asyncio.gather(*tasks, return_exceptions=True)
    ends += await asyncio.gather(pinged(session, link), return_exceptions=True)
    link.close()
    await asyncio.shield(link.closed)
    return ends


def check(ends: list[BaseException | None], whole: bool) -> None:
    """Every call ended well or with UNAVAILABLE."""
    for end in ends:
        if end is not None:
            assert isinstance(end, PlaneError), end
            assert end.code is Code.UNAVAILABLE
    assert whole == (ends == [None] * 5)


@asynccontextmanager
async def nothing_left() -> AsyncGenerator[None]:
    """See that no task stays, and that nothing went wrong where nobody looks."""
    wrong: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: wrong.append(context))
    before = asyncio.all_tasks()
    try:
        async with asyncio.timeout(WAIT_S):
            yield
            while asyncio.all_tasks() - before:  # noqa: ASYNC110
                await asyncio.sleep(0)
    finally:
        loop.set_exception_handler(None)
    assert wrong == []


async def in_memory(cut_after: int | None) -> tuple[int, list[BaseException | None]]:
    """The conversation in memory; how many bytes it took, and how it ended."""
    async with nothing_left():
        wire = Wire(cut_after)
        serving = Serving()
        wire.far.receiver = serving.started(wire.far)

        async def open_(started: Callable[[Carrier], Receiver]) -> None:
            wire.near.receiver = started(wire.near)

        ends = await converse(open_)
        await asyncio.shield(serving.link.closed)
        while serving.tasks:  # noqa: ASYNC110
            await asyncio.sleep(0)
        assert serving.link.session.open_calls == 0
        return wire.carried, ends


async def test_cut_at_every_byte() -> None:
    total, ends = await in_memory(None)
    check(ends, whole=True)
    assert total > 800
    unsent = 0
    for offset in range(total):
        carried, ends = await in_memory(offset)
        assert carried == offset
        check(ends, whole=False)
        unsent += any(isinstance(end, UnsentError) for end in ends)
    assert unsent, "calls that were made after the cut are told apart as safe to repeat"


class Proxy:
    """Passes bytes between two unix sockets, and cuts both after some of them."""

    def __init__(self, to: Path, cut_after: int | None) -> None:
        self.to = to
        self.cut_after = cut_after
        self.carried = 0
        self.writers: list[asyncio.StreamWriter] = []
        self.tasks: list[asyncio.Task[None]] = []

    async def accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_unix_connection(self.to)
        self.writers += [writer, far_writer]
        if self.cut_after == 0:
            self.cut()
        self.tasks = [
            asyncio.ensure_future(self.pass_on(reader, far_writer)),
            asyncio.ensure_future(self.pass_on(far_reader, writer)),
        ]
        await asyncio.wait(self.tasks)
        self.cut()

    async def pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(4096):
                if self.cut_after is not None:
                    data = data[: self.cut_after - self.carried]
                self.carried += len(data)
                writer.write(data)
                await writer.drain()
                if self.carried == self.cut_after:
                    self.cut()
                    return
            writer.close()
        except OSError:
            return

    def cut(self) -> None:
        for writer in self.writers:
            writer.transport.abort()


async def over_sockets(
    folder: Path, cut_after: int | None
) -> tuple[int, list[BaseException | None]]:
    async with nothing_left():
        servings: list[Serving] = []

        def started(carrier: Carrier) -> Receiver:
            servings.append(Serving())
            return servings[-1].started(carrier)

        listener = await listen(f"link+unix:{folder / 'far'}", started, None)
        proxy = Proxy(folder / "far", cut_after)
        server = await asyncio.start_unix_server(proxy.accepted, folder / "near")
        ends = await converse(lambda begun: connect(f"link+unix:{folder / 'near'}", begun, None))
        for serving in servings:
            await asyncio.shield(serving.link.closed)
        server.close()
        await listener.aclose()
        return proxy.carried, ends


async def test_cut_on_real_sockets(tmp_path: Path) -> None:
    total, ends = await over_sockets(tmp_path, None)
    check(ends, whole=True)
    for index in range(SAMPLES):
        offset = index * total // SAMPLES
        _, ends = await over_sockets(tmp_path, offset)
        check(ends, whole=False)
