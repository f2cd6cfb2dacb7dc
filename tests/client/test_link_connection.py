"""A link that is kept open: what becomes of it and its calls, whatever happens to the server."""

from __future__ import annotations

import asyncio
import os
import tracemalloc
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any, cast

import pytest
from tests.client.desk import ASK, Desk
from tests.component_suite import CAPTION, LIST_STYLES, component_options, do, eventually
from tests.parts import Parts
from tests.runtime.link.wire import frame, hello

from forge.captioner.v1 import (
    CaptionChunk,
    CaptionRequest,
    CollectRequest,
    ListStylesRequest,
    ListStylesResponse,
)
from protoplane_base import CallOptions, Code, Context, PlaneError, Service
from protoplane_client import ConnectionState, LinkChannel, Plane, connect
from protoplane_runtime.link.settings import LinkSettings
from protoplane_runtime.tracing import TraceContext
from protoplane_server import Options, Server

pytestmark = pytest.mark.anyio

LOCAL = "link+tcp://127.0.0.1:0"


def serving(component: Service, *addresses: str, **changes: Any) -> Server:
    options = Options(grpc=None, http=None, link=addresses or (LOCAL,))
    return Server(component, replace(options, **changes))


async def ask(plane: Plane | LinkChannel, text: str = "hello", **options: Any) -> str:
    """One call that may not be made twice."""
    chosen = cast(CallOptions, options)
    return (await plane.unary(ASK, CollectRequest(text=text), chosen)).text


@asynccontextmanager
async def listening(
    talk: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]],
) -> AsyncGenerator[str]:
    """Something that is no server of ours; gives the address of a link to it."""
    talks: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talks.add(asyncio.create_task(talk(reader, writer)))

    async with await asyncio.start_server(connected, "127.0.0.1", 0) as server:
        yield f"link+tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with asyncio.timeout(30):
        await asyncio.gather(*talks)


class TestState:
    async def test_from_disconnected_to_connected_and_back(self) -> None:
        async with serving(Desk()) as server:
            route = LinkChannel(server.link_addresses[0])
            began = route.stats.since_s
            seen = [route.state]
            assert await ask(route) == "olleh"
            seen.append(route.state)
            assert route.stats.since_s > began
            assert route.name == server.name
            await route.aclose()
            seen.append(route.state)
            assert [state.value for state in seen] == ["disconnected", "connected", "disconnected"]
            with pytest.raises(PlaneError) as caught:
                await ask(route)
            assert caught.value.code is Code.FAILED_PRECONDITION

    async def test_connecting_until_the_hello_is_there(self) -> None:
        said: asyncio.Event = asyncio.Event()

        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await said.wait()
            writer.write(hello(name="late"))
            await reader.read()
            writer.close()

        async with listening(talk) as address:
            route = LinkChannel(address)
            call = asyncio.create_task(ask(route))
            await eventually(lambda: route.state is ConnectionState.CONNECTING)
            said.set()
            await eventually(lambda: route.state is ConnectionState.CONNECTED)
            assert route.name == "late"
            call.cancel()
            await route.aclose()

    async def test_reconnects_when_the_server_is_back(self) -> None:
        desk = Desk()
        async with serving(desk) as server:
            address = server.link_addresses[0]
            route = LinkChannel(address)
            await ask(route)
        await eventually(lambda: route.state is ConnectionState.RECONNECTING)
        await eventually(lambda: route.stats.errors >= 1)
        with pytest.raises(PlaneError, match="cannot reach") as caught:
            await ask(route)
        assert caught.value.code is Code.UNAVAILABLE
        assert route.stats.reconnects == 0
        async with serving(desk, address):
            await eventually(lambda: route.state is ConnectionState.CONNECTED)
            assert route.stats.reconnects == 1
            assert await ask(route, "again") == "niaga"
            await route.aclose()

    async def test_backs_off_from_who_hangs_up(self) -> None:
        tries: list[float] = []

        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            tries.append(monotonic())
            writer.close()

        async with listening(talk) as address:
            await grows(address, tries)

    async def test_backs_off_from_who_hangs_up_after_the_hello(self) -> None:
        tries: list[float] = []

        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            tries.append(monotonic())
            writer.write(hello())
            await writer.drain()
            writer.close()

        async with listening(talk) as address:
            await grows(address, tries)

    async def test_backs_off_from_who_is_going_away_at_once(self) -> None:
        tries: list[float] = []

        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            tries.append(monotonic())
            writer.write(hello() + frame("GO_AWAY", message="not today"))
            await reader.read()
            writer.close()

        async with listening(talk) as address:
            await grows(address, tries)

    async def test_a_token_that_is_wrong(self) -> None:
        async with (
            serving(Desk(), tokens={"right": "ann"}) as server,
            connect(server.link_addresses[0], token="wrong") as wrong,
            connect(server.link_addresses[0], token="right") as right,
        ):
            for _ in range(2):
                with pytest.raises(PlaneError, match="not known here") as caught:
                    await ask(wrong)
                assert caught.value.code is Code.UNAUTHENTICATED
                assert wrong.routes[0].state is ConnectionState.FAILED
            assert await ask(right) == "olleh"

    async def test_a_version_that_does_not_fit(self) -> None:
        connections = 0

        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal connections
            connections += 1
            writer.write(hello(version_min=7, version_max=9))
            await reader.read()
            writer.close()

        async with listening(talk) as address, connect(address) as plane:
            for _ in range(2):
                with pytest.raises(PlaneError, match="versions 7 to 9") as caught:
                    await ask(plane)
                assert caught.value.code is Code.FAILED_PRECONDITION
            assert plane.routes[0].state is ConnectionState.FAILED
            assert connections == 1

    async def test_a_host_that_cannot_be(self) -> None:
        async with connect("link+tcp://a..b:1") as plane:
            with pytest.raises(PlaneError) as caught:
                await ask(plane)
            assert caught.value.code in (Code.INVALID_ARGUMENT, Code.UNAVAILABLE)

    async def test_one_broken_link_is_not_the_end(self) -> None:
        """The other end breaks the rules once; the next link is a good one."""
        broken = asyncio.Event()
        async with serving(Desk()) as server:
            _, _, port = server.link_addresses[0].rpartition(":")

            async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                if not broken.is_set():
                    broken.set()
                    writer.write(hello())
                    await reader.readexactly(16)
                    writer.write(hello())
                    await reader.read()
                else:
                    theirs = await asyncio.open_connection("127.0.0.1", int(port))
                    await asyncio.gather(pipe(reader, theirs[1]), pipe(theirs[0], writer))
                writer.close()

            async with listening(talk) as address:
                route = LinkChannel(address)
                with pytest.raises(PlaneError):
                    await ask(route)
                await eventually(lambda: route.stats.reconnects == 1)
                assert route.state is ConnectionState.CONNECTED
                assert await ask(route) == "olleh"
                await route.aclose()


async def grows(address: str, tries: list[float]) -> None:
    """See that tries come ever later: no two of them sooner than the backoff lets them."""
    route = LinkChannel(address)
    with pytest.raises(PlaneError):
        await ask(route, timeout_s=5)
    await eventually(lambda: len(tries) >= 5)
    await route.aclose()
    # The delays are at least half of 100, 200, 400 and 800 ms; one loop's clock is not exact.
    assert tries[4] - tries[0] >= 0.05 + 0.1 + 0.2 + 0.4 - 0.05
    assert route.stats.errors >= 4
    count = len(tries)
    await asyncio.sleep(0.05)
    assert len(tries) == count


async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
    writer.close()


class Callers:
    """Tasks that call without a pause, each call once, until they are told to stop."""

    def __init__(self, plane: Plane, count: int, **options: Any) -> None:
        self._plane = plane
        self._options = options
        self._stop = False
        self._number = 0
        self.asked: list[str] = []
        self.answered = 0
        self._tasks = [asyncio.create_task(self._call()) for _ in range(count)]

    async def more(self, count: int) -> None:
        """Wait for so many more answers."""
        until = self.answered + count
        async with asyncio.timeout(20):
            while self.answered < until:
                for task in self._tasks:
                    if task.done():
                        task.result()
                await asyncio.sleep(0.002)

    async def stop(self) -> None:
        """Let the last calls end; raises what went wrong in any."""
        self._stop = True
        async with asyncio.timeout(20):
            await asyncio.gather(*self._tasks)

    async def _call(self) -> None:
        while not self._stop:
            self._number += 1
            text = f"call {self._number}"
            self.asked.append(text)
            assert await ask(self._plane, text, **self._options) == text[::-1]
            self.answered += 1


class TestGoingAway:
    async def test_a_server_that_stops_loses_no_call(self) -> None:
        """None of them may be repeated once a handler saw it, and none fails."""
        leaving, staying = Desk(release=asyncio.Event()), Desk(pause_s=0.001)
        async with serving(leaving) as one, serving(staying) as two:
            async with connect([one.link_addresses[0], two.link_addresses[0]]) as plane:
                callers = Callers(plane, 400)
                await eventually(lambda: sum(leaving.runs.values()) >= 190)
                stopping = asyncio.create_task(one.stop())
                await callers.more(500)
                assert plane.routes[0].draining
                assert not stopping.done()
                assert leaving.release is not None
                leaving.release.set()
                await stopping
                await callers.more(500)
                await callers.stop()
            runs = leaving.runs + staying.runs
            assert set(runs) == set(callers.asked)
            assert max(runs.values()) == 1
            assert callers.answered == len(callers.asked)

    async def test_a_request_that_is_still_coming_goes_elsewhere(self) -> None:
        """The link took the call on, but no handler saw it: it is safe to make it again."""
        leaving, staying = Desk(), Desk()
        async with serving(leaving) as one, serving(staying) as two:
            async with connect([one.link_addresses[0], two.link_addresses[0]]) as plane:
                for number in range(20):
                    await ask(plane, str(number))
                large = [f"{number} " + os.urandom(600_000).hex() for number in range(6)]
                calls = [asyncio.create_task(ask(plane, text)) for text in large]
                # Once the first of them are on their way.
                await asyncio.sleep(0.001)
                stopping = asyncio.create_task(one.stop())
                answers = await asyncio.gather(*calls)
                await stopping
            assert answers == [text[::-1] for text in large]
            runs = leaving.runs + staying.runs
            assert max(runs.values()) == 1

    async def test_moving_between_carriers_under_load(self, tmp_path: Path) -> None:
        desk = Desk(pause_s=0.002)
        unix = f"link+unix:{tmp_path / 'l.sock'}"
        async with serving(desk) as server, connect(server.link_addresses[0]) as plane:
            route = cast(LinkChannel, plane.routes[0])
            callers = Callers(plane, 64)
            await callers.more(200)
            for address in (unix, LOCAL, unix, LOCAL):
                await server.relink([address])
                await callers.more(300)
                assert route.address == server.link_addresses[0]
                assert route.state is ConnectionState.CONNECTED
            await callers.stop()
            assert route.stats.reconnects == 4
            assert route.stats.errors == 0
            assert set(desk.runs) == set(callers.asked)
            assert max(desk.runs.values()) == 1
            numbers = server.dispatcher.metrics
            assert (numbers.links("tcp").opened, numbers.links("unix").opened) == (3, 2)
            await eventually(lambda: numbers.links("unix").open == 0)
            assert numbers.links("tcp").open == 1

    async def test_an_address_that_only_the_server_can_use_is_passed_over(
        self, tmp_path: Path
    ) -> None:
        """It says where its unix socket is first, which for others is nowhere."""
        desk = Desk()
        path = tmp_path / "l.sock"
        async with serving(desk) as server, connect(server.link_addresses[0]) as plane:
            await ask(plane)
            # As if the client were on another machine.
            moved = asyncio.create_task(
                server.relink([f"link+unix:{path}", "link+tcp://localhost:0"])
            )
            await moved
            path.unlink()
            assert await ask(plane, timeout_s=10) == "olleh"
            route = cast(LinkChannel, plane.routes[0])
            assert route.address == server.link_addresses[1]

    async def test_moving_while_it_connects(self) -> None:
        """The new address counts, though the old one answers."""
        old, new = Desk(), Desk()
        async with serving(old) as one, serving(new) as two:
            route = LinkChannel(one.link_addresses[0])
            call = asyncio.create_task(ask(route))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert route.state is ConnectionState.CONNECTING
            route.move(two.link_addresses[0])
            assert await call == "olleh"
            assert (old.runs.total(), new.runs.total()) == (0, 1)
            links = one.dispatcher.metrics.links("tcp")
            await eventually(lambda: links.open == 0)
            await route.aclose()

    async def test_a_failed_connection_is_revived_by_moving_it(self) -> None:
        async with serving(Desk(), tokens={"t": "ann"}) as locked, serving(Desk()) as open_:
            route = LinkChannel(locked.link_addresses[0])
            with pytest.raises(PlaneError):
                await ask(route)
            assert route.state is ConnectionState.FAILED
            route.move(open_.link_addresses[0])
            assert await ask(route) == "olleh"
            await route.aclose()


class TestCounters:
    async def test_both_ends_count_the_same(self) -> None:
        async with serving(Desk()) as server, connect(server.link_addresses[0]) as plane:
            for _ in range(10):
                await ask(plane)
            stats = plane.routes[0].stats
            assert (stats.messages_sent, stats.messages_received) == (10, 10)
            assert (stats.errors, stats.reconnects) == (0, 0)
            theirs = server.dispatcher.metrics.links("tcp")
            await eventually(lambda: theirs.moved()[1] == plane.routes[0].stats.bytes_sent)
            assert theirs.moved() == (stats.bytes_received, stats.bytes_sent, 10, 10)
            with pytest.raises(PlaneError):
                await plane.unary(LIST_STYLES, ListStylesRequest(), {})
            # A call that fails is no fault of the connection.
            assert plane.routes[0].stats.errors == 0

    async def test_counts_outlive_their_links(self) -> None:
        desk = Desk()
        async with serving(desk) as server:
            address = server.link_addresses[0]
            route = LinkChannel(address)
            for _ in range(3):
                await ask(route)
            before = route.stats
        await eventually(lambda: route.state is ConnectionState.RECONNECTING)
        async with serving(desk, address):
            await eventually(lambda: route.state is ConnectionState.CONNECTED)
            await ask(route)
            after = route.stats
            assert (after.messages_sent, after.messages_received) == (4, 4)
            assert after.bytes_sent > before.bytes_sent
            assert after.since_s > before.since_s
            await route.aclose()
        assert route.stats.messages_sent == 4

    @pytest.mark.parametrize("kind", ["request", "answer"])
    async def test_compression_saves_bytes(self, kind: str) -> None:
        desk = Desk()
        text = "a" * 200_000
        if kind == "answer":
            text, desk.answer = "", "a" * 200_000
        moved: dict[bool, int] = {}
        for compresses in (True, False):
            settings = LinkSettings(compress_from_bytes=32_768 if compresses else None)
            async with serving(desk) as server:
                route = LinkChannel(server.link_addresses[0], settings=settings)
                assert len(await ask(route, text)) == 200_000
                stats = route.stats
                moved[compresses] = stats.bytes_sent if kind == "request" else stats.bytes_received
                await route.aclose()
        assert moved[True] < 5_000
        if kind == "request":
            # What the server sends is for the server to compress.
            assert moved[False] > 200_000


class TestClosing:
    async def test_in_the_middle_of_everything(self) -> None:
        before = asyncio.all_tasks()
        parts = Parts()

        async def everything(plane: Plane) -> None:
            async for _ in plane.server_stream(
                CAPTION, CaptionRequest(prompt="a b"), {"metadata": do("hang")}
            ):
                pass

        async with Server(parts, component_options(link=(LOCAL, LOCAL))) as server:
            plane = connect(server.link_addresses[0])
            calls = [asyncio.create_task(everything(plane)) for _ in range(20)]
            calls += [
                asyncio.create_task(
                    plane.unary(LIST_STYLES, ListStylesRequest(), {"metadata": do("hang")})
                )
                for _ in range(20)
            ]
            await parts.until(hanging=40)
            async with asyncio.timeout(30):
                await plane.aclose()
                results = await asyncio.gather(*calls, return_exceptions=True)
            assert {getattr(result, "code", None) for result in results} == {Code.CANCELLED}
            await parts.until(hanging=0, cancelled=40)
            await eventually(lambda: server.dispatcher.open_calls == 0)
        assert asyncio.all_tasks() == before

    @pytest.mark.parametrize("timeout_s", [None, 30.0])
    async def test_while_it_connects(self, timeout_s: float | None) -> None:
        before = asyncio.all_tasks()
        open_ = asyncio.Event()

        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            open_.set()
            await reader.read()
            writer.close()

        async with listening(talk) as address:
            plane = connect(address)
            calls = [asyncio.create_task(ask(plane, timeout_s=timeout_s)) for _ in range(3)]
            await open_.wait()
            async with asyncio.timeout(30):
                await plane.aclose()
                results = await asyncio.gather(*calls, return_exceptions=True)
            assert all(isinstance(result, PlaneError) for result in results), results
            await plane.aclose()
        await eventually(lambda: asyncio.all_tasks() == before)

    async def test_while_it_waits_to_connect_again(self) -> None:
        before = asyncio.all_tasks()
        async with serving(Desk()) as server:
            plane = connect(server.link_addresses[0])
            await ask(plane)
        await eventually(lambda: plane.routes[0].state is ConnectionState.RECONNECTING)
        async with asyncio.timeout(30):
            await plane.aclose()
        assert asyncio.all_tasks() == before


class Relay(Parts):
    """Asks another component before it answers."""

    def __init__(self, behind: Plane) -> None:
        super().__init__()
        self.behind = behind

    async def list_styles(self, request: ListStylesRequest, ctx: Context) -> ListStylesResponse:
        self._note(ctx)
        metadata = {"x-do": ctx.metadata["x-do"]} if "x-do" in ctx.metadata else {}
        return await self.behind.unary(LIST_STYLES, request, {"metadata": metadata})


class Hops:
    """A caller, a component, and another one behind it."""

    def __init__(self, plane: Plane, relay: Relay, last: Parts) -> None:
        self.plane, self.relay, self.last = plane, relay, last

    async def ask(self, **options: Any) -> None:
        chosen = cast(CallOptions, options)
        await self.plane.unary(LIST_STYLES, ListStylesRequest(), chosen)


@pytest.fixture
async def hops() -> AsyncIterator[Hops]:
    last = Parts()
    async with (
        Server(last, component_options(link=(LOCAL,))) as second,
        connect(second.link_addresses[0]) as behind,
    ):
        relay = Relay(behind)
        async with (
            Server(relay, component_options(link=(LOCAL,))) as first,
            connect(first.link_addresses[0]) as plane,
        ):
            yield Hops(plane, relay, last)


class TestTwoHops:
    async def test_cancelling_reaches_what_the_handler_called(self, hops: Hops) -> None:
        call = asyncio.create_task(hops.ask(metadata=do("hang")))
        await hops.last.until(hanging=1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await hops.last.until(hanging=0, cancelled=1)

    async def test_a_caller_that_is_gone_cancels_it_too(self, hops: Hops) -> None:
        call = asyncio.create_task(hops.ask(metadata=do("hang")))
        await hops.last.until(hanging=1)
        await hops.plane.aclose()
        with pytest.raises(PlaneError):
            await call
        await hops.last.until(hanging=0, cancelled=1)

    async def test_the_deadline_shrinks(self, hops: Hops) -> None:
        await hops.ask(timeout_s=20)
        [first], [last] = hops.relay.remaining_s, hops.last.remaining_s
        assert first is not None
        assert last is not None
        assert 10 < last < first < 20

    async def test_the_deadline_ends_the_last_handler(self, hops: Hops) -> None:
        for timeout_s in (0.2, 2, 10):
            with pytest.raises(PlaneError) as caught:
                await hops.ask(timeout_s=timeout_s, metadata=do("hang"))
            assert caught.value.code is Code.DEADLINE_EXCEEDED
            # On a busy machine the time may be over before the last handler has begun.
            if hops.last.contexts:
                break
        await hops.last.until(hanging=0, cancelled=1)

    async def test_the_trace_goes_on(self, hops: Hops) -> None:
        sent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        await hops.ask(metadata={"traceparent": sent, "tracestate": "forge=1"})
        seen = [
            TraceContext.parse(
                parts.contexts[0].metadata["traceparent"], parts.contexts[0].metadata["tracestate"]
            )
            for parts in (hops.relay, hops.last)
        ]
        assert seen[0] is not None
        assert seen[1] is not None
        assert {trace.trace_id for trace in seen if trace} == {"0af7651916cd43dd8448eb211c80319c"}
        assert seen[0].span_id == "b7ad6b7169203331"
        assert seen[1].span_id != seen[0].span_id
        assert (seen[1].sampled, seen[1].state) == (True, "forge=1")


CHUNK = 64 * 1024
OFFERED = 200 * 1024 * 1024


class Flood(Parts):
    """Answers as fast as it is let."""

    made = 0

    async def caption(self, request: CaptionRequest, ctx: Context) -> AsyncIterator[CaptionChunk]:
        text = os.urandom(CHUNK // 2).hex()
        for index in range(OFFERED // CHUNK):
            self.made += CHUNK
            yield CaptionChunk(text=text, index=index)


class TestFlow:
    async def test_who_does_not_read_neither_stalls_others_nor_takes_memory(self) -> None:
        flood = Flood()
        async with (
            Server(flood, component_options(link=(LOCAL,))) as server,
            connect(server.link_addresses[0]) as plane,
        ):
            await plane.unary(LIST_STYLES, ListStylesRequest(), {})
            slow = [
                cast(
                    "AsyncGenerator[CaptionChunk, None]",
                    plane.server_stream(CAPTION, CaptionRequest(), {}),
                )
                for _ in range(4)
            ]  # Compressed, a chunk takes half of its size, and a window of 256 KiB eight of them.
            tracemalloc.start()
            try:
                for answers in slow:
                    assert (await anext(answers)).index == 0
                for _ in range(200):
                    await plane.unary(LIST_STYLES, ListStylesRequest(), {"timeout_s": 5})
                made = flood.made
                for _ in range(50):
                    await plane.unary(LIST_STYLES, ListStylesRequest(), {"timeout_s": 5})
                _, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
            assert flood.made == made  # They stand still.
            assert made < len(slow) * 12 * CHUNK
            assert peak < 8 * 1024 * 1024
            async with asyncio.timeout(30), aclosing(slow[0]):
                assert len([answer async for answer in slow[0]]) == OFFERED // CHUNK - 1
            for answers in slow[1:]:
                await answers.aclose()
            await eventually(lambda: server.dispatcher.open_calls == 0)

    async def test_large_answers_do_not_use_the_link_up(self) -> None:
        """Each is more than a frame that ends a call takes, all together more than the window."""
        desk = Desk()
        async with serving(desk) as server, connect(server.link_addresses[0]) as plane:
            for _ in range(200):
                # Too random to be compressed well.
                desk.answer = os.urandom(100_000).hex()
                async with asyncio.timeout(10):
                    assert await ask(plane) == desk.answer
            route = cast(LinkChannel, plane.routes[0])
            assert route.stats.bytes_received > 200 * 100_000

    @pytest.mark.parametrize("size", [40_000, 250_000])
    async def test_unread_messages_stay_small(self, size: int) -> None:
        """What is compressed well would fill the memory, were it undone before it is asked for."""

        class Zeros(Parts):
            made = 0

            async def caption(
                self, request: CaptionRequest, ctx: Context
            ) -> AsyncIterator[CaptionChunk]:
                while self.made < OFFERED:
                    self.made += size
                    yield CaptionChunk(text="0" * size)

        zeros = Zeros()
        async with (
            Server(zeros, component_options(link=(LOCAL,))) as server,
            connect(server.link_addresses[0]) as plane,
        ):
            answers: Any = plane.server_stream(CAPTION, CaptionRequest(), {})
            tracemalloc.start()
            try:
                assert len((await anext(answers)).text) == size
                for _ in range(50):
                    await plane.unary(LIST_STYLES, ListStylesRequest(), {"timeout_s": 5})
                _, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
            assert peak < 8 * 1024 * 1024
            await answers.aclose()
            await eventually(lambda: server.dispatcher.open_calls == 0)

    async def test_ten_megabytes_each_way(self) -> None:
        most = 10 * 1024 * 1024
        desk = Desk()
        async with serving(desk) as server, connect(server.link_addresses[0]) as plane:
            with pytest.raises(PlaneError, match=str(most)) as caught:
                await ask(plane, "x" * (most + 1))
            assert caught.value.code is Code.RESOURCE_EXHAUSTED
            assert not desk.runs
            desk.answer = "x" * (most + 1)
            with pytest.raises(PlaneError, match=str(most)) as caught:
                await ask(plane)
            assert caught.value.code is Code.RESOURCE_EXHAUSTED
            desk.answer = "x" * (most - 100)
            assert len(await ask(plane)) == most - 100
            assert plane.routes[0].stats.errors == 0

    async def test_a_caller_that_takes_less(self) -> None:
        desk = Desk()
        desk.answer = "x" * 5_000
        async with (
            serving(desk) as server,
            connect(server.link_addresses[0], max_message_bytes=4_000) as plane,
        ):
            with pytest.raises(PlaneError, match="4000") as caught:
                await ask(plane)
            assert caught.value.code is Code.RESOURCE_EXHAUSTED
            desk.answer = "x" * 3_000
            assert len(await ask(plane)) == 3_000
