"""`Plane.publish` and `Plane.subscribe` over several instances."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing
from typing import Any, cast

import pytest
from tests.component_suite import component_options
from tests.parts import Parts

from forge.captioner.v1 import CaptionFinished
from protoplane_base import Code, PlaneError
from protoplane_client import Plane, Received, connect
from protoplane_client.merging import merged
from protoplane_runtime.engines.interface import EventId, Gap, Start
from protoplane_runtime.entities import Entity
from protoplane_runtime.entities import EntityId as Id
from protoplane_server import Server

pytestmark = pytest.mark.anyio

ONE, TWO, AWAY = "forge/captioner/one", "forge/captioner/two", "forge/other/three"


@pytest.fixture
async def servers() -> AsyncIterator[list[Server]]:
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(
                Server(Parts(), component_options(http="127.0.0.1:0", name=name))
            )
            for name in (ONE, TWO, AWAY)
        ]


@pytest.fixture
async def plane(servers: list[Server]) -> AsyncIterator[Plane]:
    before = asyncio.all_tasks()
    targets = {server.name: str(server.http_url) for server in servers}
    async with connect(targets) as plane:
        yield plane
    # The servers' own tasks come and go; those that follow streams must all be gone.
    left = {repr(task) for task in asyncio.all_tasks() - before}
    assert not {task for task in left if "merged" in task}


def finished(words: int) -> CaptionFinished:
    return CaptionFinished(request_id=str(words), words=words)


async def take(events: AsyncIterator[Received | Gap], count: int) -> list[Received]:
    found: list[Any] = []
    async with asyncio.timeout(10), aclosing(cast("Any", events)) as stream:
        async for event in stream:
            found.append(event)
            if len(found) == count:
                break
    return found


async def in_logs(servers: list[Server]) -> list[int]:
    return [server.events.last.sequence for server in servers]


async def test_an_instance_means_that_one(plane: Plane, servers: list[Server]) -> None:
    for whom in (TWO, Entity.instance(TWO), Id.of(TWO)):
        await plane.publish("a/b", finished(1), entity=whom)
    assert await in_logs(servers) == [0, 3, 0]
    events = await take(plane.subscribe("**", entity=TWO, after=Start.EARLIEST), 3)
    assert {event.message.words for event in events} == {1}
    assert {event.instance for event in events} == {""}
    # An id is a place in that one's log, so it is a place to go on at.
    [last] = await take(plane.subscribe("**", entity=TWO, after=events[1].id), 1)
    assert last == events[2]


async def test_a_collection_means_all_of_it(plane: Plane, servers: list[Server]) -> None:
    id_ = await plane.publish("a/b", finished(1), entity="forge/captioner")
    assert await in_logs(servers) == [1, 1, 0]
    assert id_ == servers[0].events.last
    await plane.publish("a/b", finished(2), entity="forge")
    assert await in_logs(servers) == [2, 2, 1]
    events = await take(plane.subscribe("**", entity="forge/captioner", after="earliest"), 4)
    for name in (ONE, TWO):
        assert [e.message.words for e in events if e.instance == name] == [1, 2]


async def test_nobody_named_means_one_log_and_all_logs(plane: Plane, servers: list[Server]) -> None:
    await plane.publish("a/b", finished(1))
    assert await in_logs(servers) == [1, 0, 0]
    for number, server in enumerate(servers):
        await plane.publish("a/b", finished(10 + number), entity=server.name)
    events = await take(plane.subscribe("a/*", after=Start.EARLIEST), 4)
    assert sorted(event.message.words for event in events) == [1, 10, 11, 12]


async def test_many_logs_go_on_each_at_its_place(plane: Plane) -> None:
    for words in range(3):
        await plane.publish("a/b", finished(words), entity="forge/captioner")
    events = await take(plane.subscribe("**", entity="forge/captioner", after="earliest"), 6)
    places = {e.instance: EventId.parse(e.id) for e in events if e.message.words == 1}
    rest = await take(plane.subscribe("**", entity="forge/captioner", after=places), 2)
    assert {(event.instance, event.message.words) for event in rest} == {(ONE, 2), (TWO, 2)}


async def test_one_place_is_no_place_in_many_logs(plane: Plane) -> None:
    with pytest.raises(PlaneError, match="one instance") as caught:
        plane.subscribe("**", after="1-1")
    assert caught.value.code is Code.INVALID_ARGUMENT


async def test_live_events_of_all(plane: Plane, servers: list[Server]) -> None:
    following = asyncio.create_task(take(plane.subscribe("**", entity="forge"), 60))
    await asyncio.sleep(0.2)
    for words in range(20):
        await plane.publish("a/b", finished(words), entity="forge")
    events = await following
    for server in servers:
        mine = [event.message.words for event in events if event.instance == server.name]
        assert mine == list(range(20))


async def test_an_error_of_one_ends_all(plane: Plane) -> None:
    with pytest.raises(PlaneError) as caught:
        await take(plane.subscribe("a//b"), 1)
    assert caught.value.code is Code.INVALID_ARGUMENT


async def test_who_is_not_there(plane: Plane) -> None:
    with pytest.raises(PlaneError, match="forge/captioner/one") as caught:
        await plane.publish("a/b", finished(1), entity="forge/captioner/nine")
    assert caught.value.code is Code.NOT_FOUND
    with pytest.raises(PlaneError) as caught:
        plane.subscribe("**", entity=Id.of("nobody"))
    assert caught.value.code is Code.NOT_FOUND


async def test_one_that_is_away_is_passed_over_or_told(servers: list[Server]) -> None:
    await servers[0].stop()
    targets = {server.name: str(server.http_url) for server in servers}
    async with connect(targets) as plane:
        await plane.publish("a/b", finished(1))
        assert servers[1].events.last.sequence == 1
        with pytest.raises(PlaneError, match="1 of 2 instances have the event; forge/captioner/o"):
            await plane.publish("a/b", finished(1), entity="forge/captioner")
        assert servers[1].events.last.sequence == 2


async def test_doors_of_other_targets(servers: list[Server]) -> None:
    urls = [str(server.http_url) for server in servers]
    async with connect("127.0.0.1:1", http=urls) as plane:
        await plane.publish("a/b", finished(1))
        assert await in_logs(servers) == [1, 0, 0]
    async with connect("127.0.0.1:1", http=dict(zip((ONE, TWO), urls, strict=False))) as plane:
        await plane.publish("a/b", finished(1), entity=TWO)
        assert await in_logs(servers) == [1, 1, 0]
    async with connect({AWAY: "127.0.0.1:1"}, http=urls[2]) as plane:
        await plane.publish("a/b", finished(1), entity=AWAY)
        assert await in_logs(servers) == [1, 1, 1]
    with pytest.raises(PlaneError, match="is not an http://"):
        connect("127.0.0.1:1", http="grpc://127.0.0.1:2")


async def counted(upto: int, closed: list[int]) -> AsyncIterator[int]:
    try:
        for number in range(upto):
            yield number
            await asyncio.sleep(0)
    finally:
        closed.append(upto)


async def test_merging_ends_with_the_last_and_keeps_each_in_order() -> None:
    closed: list[int] = []
    items = [item async for item in merged([counted(3, closed), counted(200, closed)])]
    assert sorted(items) == sorted([*range(3), *range(200)])
    assert closed == [3, 200]
    assert [item async for item in merged(list[AsyncIterator[int]]())] == []


async def test_leaving_a_merged_stream_closes_them_all() -> None:
    closed: list[int] = []
    before = asyncio.all_tasks()
    async with aclosing(merged([counted(1000, closed), counted(2000, closed)])) as stream:
        async for _ in stream:
            break
    assert sorted(closed) == [1000, 2000]
    assert asyncio.all_tasks() == before


async def test_who_takes_nothing_holds_the_streams_back() -> None:
    taken = 0

    async def source() -> AsyncIterator[int]:
        nonlocal taken
        for number in range(10_000):
            taken += 1
            yield number

    async with aclosing(merged([source()])) as stream:
        assert await anext(stream) == 0
        await asyncio.sleep(0.05)
        assert taken < 100


async def test_cancelling_who_takes_cancels_all() -> None:
    closed: list[int] = []

    async def endless() -> AsyncIterator[int]:
        try:
            await asyncio.Event().wait()
            yield 1
        finally:
            closed.append(1)

    async def follow() -> None:
        async for _ in merged([endless(), endless()]):
            pass

    task = asyncio.create_task(follow())
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    for _ in range(5):
        await asyncio.sleep(0)
    assert closed == [1, 1]


async def test_closing_the_plane_ends_what_follows_many(servers: list[Server]) -> None:
    targets = {server.name: str(server.http_url) for server in servers}
    plane = connect(targets)
    following = asyncio.create_task(take(plane.subscribe("**", after=Start.EARLIEST), 2))
    await plane.publish("a/b", finished(1))
    await asyncio.sleep(0.1)
    await plane.aclose()
    with pytest.raises(PlaneError):
        await following
