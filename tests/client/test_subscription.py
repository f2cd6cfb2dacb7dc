"""Subscriptions: nothing is lost or seen twice, whatever happens to the connection."""

from __future__ import annotations

import asyncio
import random
import re
import socket
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, cast

import pytest
from tests.parts import Parts

from forge.captioner.v1 import CaptionFinished
from protoplane_base import Code, PlaneError
from protoplane_client import Received, Reconnect, connect
from protoplane_client.backoff import Backoff
from protoplane_runtime.engines.interface import Gap, Since, Start
from protoplane_runtime.engines.memory import MemoryLog
from protoplane_server import Options, Server

pytestmark = pytest.mark.anyio


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def server_at(port: int, events: Any = None) -> Server:
    options = Options(grpc=None, http=f"127.0.0.1:{port}", grace_s=0.2)
    return Server(Parts(), options, events=events)


async def publish(log: MemoryLog, number: int) -> None:
    event = CaptionFinished(request_id=str(number), words=number)
    await log.publish(
        f"forge/captions/{number}",
        "forge.captioner.v1.CaptionFinished",
        event.to_bytes(),
        event.model_dump_json(),
    )


async def take(events: AsyncIterator[Received | Gap], count: int) -> list[Any]:
    found: list[Any] = []
    async with asyncio.timeout(20), aclosing(cast("Any", events)) as stream:
        async for event in stream:
            found.append(event)
            if len(found) == count:
                break
    return found


async def test_publish_and_receive() -> None:
    async with server_at(0) as server, connect(str(server.http_url)) as plane:
        first = await plane.publish("forge/captions/1", CaptionFinished(request_id="1", words=3))
        [event] = await take(plane.subscribe("forge/*/1", after=Start.EARLIEST), 1)
        assert event.id == str(first)
        assert event.key == "forge/captions/1"
        assert event.type == "forge.captioner.v1.CaptionFinished"
        assert event.message == CaptionFinished(request_id="1", words=3)
        second = await plane.publish("forge/captions/1", CaptionFinished(words=4))
        [event] = await take(plane.subscribe("**", after=first), 1)
        assert event.id == str(second)


async def test_restarts_of_the_server_lose_nothing_and_repeat_nothing() -> None:
    log, port, total = MemoryLog(), free_port(), 300
    up = asyncio.Event()

    async def publisher() -> None:
        await up.wait()
        for number in range(total):
            await publish(log, number)
            await asyncio.sleep(0.005)

    async def restarts() -> None:
        for _ in range(3):
            async with server_at(port, log):
                await asyncio.sleep(0.3)
                up.set()
                await asyncio.sleep(0.3)
            await asyncio.sleep(0.1)
        async with server_at(port, log):
            await asyncio.sleep(60)

    lost: list[Reconnect] = []
    async with connect(f"http://127.0.0.1:{port}") as plane:
        tasks = [asyncio.create_task(publisher()), asyncio.create_task(restarts())]
        try:
            # From now on, so the place to resume at is what the server says at once.
            events = await take(plane.subscribe("forge/**", on_reconnect=lost.append), total)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
    assert [event.message.words for event in events] == list(range(total))
    assert len(lost) >= 2
    await log.close()


async def test_a_connection_cut_at_any_byte_loses_nothing() -> None:
    log, total = MemoryLog(), 200
    for number in range(total):
        await publish(log, number)
    choices = random.Random(7)
    async with server_at(0, log) as server:
        upstream = int(str(server.http_url).rpartition(":")[2])

        async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            back, forth = await asyncio.open_connection("127.0.0.1", upstream)
            forth.write(await reader.readuntil(b"\r\n\r\n"))
            left = choices.randrange(200, 12_000)
            while left > 0 and (data := await back.read(min(left, 64))):
                writer.write(data)
                left -= len(data)
            await writer.drain()
            forth.close()
            writer.close()

        async with await asyncio.start_server(cut, "127.0.0.1", 0) as proxy:
            port = proxy.sockets[0].getsockname()[1]
            async with connect(f"http://127.0.0.1:{port}") as plane:
                events = await take(plane.subscribe("**", after=Start.EARLIEST), total)
    assert [event.message.words for event in events] == list(range(total))
    await log.close()


async def test_a_gap_is_told() -> None:
    async with server_at(0) as server, connect(str(server.http_url)) as plane:
        await plane.publish("forge/captions/1", CaptionFinished(request_id="1"))
        gap, event = await take(plane.subscribe("**", after="1-1"), 2)
        assert isinstance(gap, Gap)
        assert str(gap.asked) == "1-1"
        assert event.key == "forge/captions/1"


async def test_what_the_server_refuses_is_raised_at_once() -> None:
    async with server_at(0) as server, connect(str(server.http_url)) as plane:
        with pytest.raises(PlaneError) as caught:
            await take(plane.subscribe("a//b"), 1)
        assert caught.value.code is Code.INVALID_ARGUMENT


async def test_giving_up() -> None:
    async with connect(f"http://127.0.0.1:{free_port()}") as plane:
        with pytest.raises(PlaneError, match="gave up") as caught:
            await take(plane.subscribe("**", give_up_s=0.3), 1)
    assert caught.value.code is Code.UNAVAILABLE


async def test_a_grpc_target_says_that_events_need_http() -> None:
    async with connect("127.0.0.1:1") as plane:
        with pytest.raises(PlaneError, match="http="):
            plane.subscribe("**")


async def test_a_silent_connection_is_given_up() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n:\n")
        await reader.read()
        writer.close()

    lost: list[Reconnect] = []
    async with await asyncio.start_server(silent, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with connect(f"http://127.0.0.1:{port}") as plane:
            events = plane.subscribe("**", on_reconnect=lost.append, idle_s=0.1)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(take(events, 1), 1)
    assert len(lost) >= 2


def test_backoff_doubles_to_its_limit() -> None:
    backoff = Backoff()
    delays = [backoff.next_s() for _ in range(12)]
    for number, delay in enumerate(delays):
        ceiling = min(30.0, 0.1 * 2**number)
        assert ceiling / 2 <= delay <= ceiling
    backoff.reset()
    assert backoff.next_s() <= 0.1


async def test_several_expressions_from_a_time_and_only_the_latest() -> None:
    log = MemoryLog()
    async with server_at(0, log) as server, connect(str(server.http_url)) as plane:
        for number in (1, 2):
            await publish(log, number)
        since = Since(time.time_ns())
        for number in (1, 2, 1, 3):
            await publish(log, number)
        keys = ["forge/captions/1", "forge/captions/2"]
        events = await take(plane.subscribe(keys, after=since), 3)
        assert [event.message.words for event in events] == [1, 2, 1]
        events = await take(plane.subscribe(keys, after=Start.EARLIEST, latest=True), 2)
        assert [event.message.words for event in events] == [2, 1]
        with pytest.raises(PlaneError, match="at least one"):
            await take(plane.subscribe([]), 1)
    await log.close()


async def test_a_stream_that_breaks_before_its_first_event_begins_where_it_was_to() -> None:
    """The place that it was asked for, as the server repeats it, is kept over the reconnect."""
    cases = ((Start.EARLIEST, "earliest"), (Since(17), "0.000000017"), ("1-5", "1-5"))
    for asked, sent in cases:
        seen: list[str] = []

        async def cut(
            reader: asyncio.StreamReader, writer: asyncio.StreamWriter, into: list[str] = seen
        ) -> None:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            into.append(re.findall(r"(?im)^last-event-id: (.*)\r$", head)[0])
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")
            writer.write(b"retry: 1\nid: %s\n\n:\n" % into[-1].encode())
            await writer.drain()
            writer.close()

        async with await asyncio.start_server(cut, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            async with connect(f"http://127.0.0.1:{port}") as plane:
                taking = asyncio.ensure_future(take(plane.subscribe("**", after=asked), 1))
                async with asyncio.timeout(20):
                    while len(seen) < 3:  # noqa: ASYNC110
                        await asyncio.sleep(0.01)
                taking.cancel()
                await asyncio.wait([taking])
        assert set(seen) == {sent}
