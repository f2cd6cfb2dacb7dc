"""What an instance tells of its work, and who hears it."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.parts import Parts
from tests.server.planes.conftest import NAME, Offered, address, options

from forge.captioner.v1 import CaptionerClient, CaptionRequest, ListStylesRequest
from protoplane.v1 import InstanceStats, MetricsClient, StatsRequest
from protoplane_base import Code, PlaneError
from protoplane_client import connect, connect_sync
from protoplane_runtime.engines.interface import Event, Gap, Start
from protoplane_runtime.engines.opening import open_discovery
from protoplane_runtime.entities import Entity, EntityId
from protoplane_runtime.link.errors import UnsentError
from protoplane_server import Limits, Server
from protoplane_server.metrics import BUCKETS_S
from protoplane_server.planes.stats import quantile

pytestmark = pytest.mark.anyio

STYLES = "/forge.captioner.v1.CaptionerService/ListStyles"
CAPTION = "/forge.captioner.v1.CaptionerService/Caption"


class Queue(Parts):
    """A component in which four requests wait."""

    queued = 4


async def stats_of(offered: Offered) -> InstanceStats:
    answer = await MetricsClient(offered.plane).stats(StatsRequest(), timeout_s=20)
    assert answer.stats is not None
    return answer.stats


async def test_calls_are_counted(offered: Offered, door: str) -> None:
    client = CaptionerClient(offered.plane)
    for _ in range(3):
        await client.list_styles(ListStylesRequest(), timeout_s=20)
    with pytest.raises(PlaneError):
        await client.list_styles(ListStylesRequest(), timeout_s=20, metadata={"x-do": "fail"})
    asked = CaptionRequest(prompt="one two")
    assert len([chunk async for chunk in client.caption(asked, timeout_s=20)]) == 2
    stats = await stats_of(offered)
    assert stats.instance == NAME
    assert stats.since is not None
    assert stats.taken_at is not None
    assert stats.since.seconds <= stats.taken_at.seconds
    assert stats.in_flight == 1  # The question itself.
    assert stats.queued == 0
    assert 0 <= stats.load <= 1
    assert stats.links == (1 if door == "link" else 0)
    methods = {method.method: method for method in stats.methods}
    styles = methods[STYLES]
    assert styles.ended == {"OK": 3, "FAILED_PRECONDITION": 1}
    assert styles.door.startswith(door)
    assert sum(styles.buckets) == 4
    assert len(styles.buckets) == len(stats.bounds_s) + 1
    assert 0 < styles.p50_s <= styles.p90_s <= styles.p99_s
    assert methods[CAPTION].messages_sent == 2


async def test_memory_and_queues() -> None:
    limits = Limits(max_concurrent_calls=4)
    async with (
        Server(Queue(), options("grpc", planes=False, limits=limits)) as server,
        connect(address(server, "grpc")) as plane,
    ):
        stats = await stats_of(Offered(plane, server))
        assert stats.queued == 4
        assert stats.load >= 0.25
        assert stats.resident_bytes > 1_000_000 or stats.resident_bytes == 0


async def test_they_are_published(tmp_path: Path) -> None:
    served = options("grpc", engine=f"local:{tmp_path}", stats_interval_s=0.05)
    async with Server(Parts(), served) as server:
        events: Any = server.events.read(["@protoplane/stats/**"], after=Start.EARLIEST)
        async with asyncio.timeout(30), aclosing(events) as batches:
            event = next(each for each in await anext(batches) if isinstance(each, Event))
        # Who asks for everything does not mean these.
        last = await server.events.publish("a", "test.v1.Text", b"", '""')
        found: list[Event | Gap] = []
        everything: Any = server.events.read(["**"], after=Start.EARLIEST)
        async with asyncio.timeout(30), aclosing(everything) as batches:
            while not found:
                found += await anext(batches)
        assert [each.id for each in found if isinstance(each, Event)] == [last]
    assert event.key == f"@protoplane/stats/{NAME}"
    assert event.type == "protoplane.v1.InstanceStats"
    stats = InstanceStats.from_bytes(event.data)
    assert stats.instance == NAME
    assert InstanceStats.model_validate_json(event.json) == stats


async def test_load_is_told_to_discovery(tmp_path: Path) -> None:
    parts = Parts()
    served = options(
        "grpc",
        engine=f"local:{tmp_path}",
        stats_interval_s=0.05,
        limits=Limits(max_concurrent_calls=2),
    )
    async with Server(parts, served) as server, connect(address(server, "grpc")) as plane:
        wait = {"x-do": "wait"}
        calls = [
            asyncio.ensure_future(
                CaptionerClient(plane).list_styles(ListStylesRequest(), metadata=wait)
            )
            for _ in range(2)
        ]
        await parts.until(hanging=2)
        # All that it takes are open, so nobody else may ask; discovery says it.
        discovery = await open_discovery(f"local:{tmp_path}")
        try:
            async with asyncio.timeout(30):
                watching: Any = discovery.watch(NAME)
                async with aclosing(watching) as changes:
                    async for batch in changes:
                        if any(change.instance.load == 1.0 for change in batch):
                            break
        finally:
            await discovery.close()
        parts.release.set()
        await asyncio.gather(*calls)


async def test_no_interval_no_reports(tmp_path: Path) -> None:
    before = asyncio.all_tasks()
    served = options("grpc", engine=f"local:{tmp_path}", stats_interval_s=None)
    async with Server(Parts(), served) as server:
        names = {getattr(task.get_coro(), "__name__", "") for task in asyncio.all_tasks() - before}
        assert "_report" not in names
        assert server.ready


async def test_a_collection_in_one_call(tmp_path: Path) -> None:
    engine = f"local:{tmp_path}"
    doors = {"one": "grpc", "two": "link", "three": "http"}
    names = [f"forge/captioner/{name}" for name in doors]

    def server(name: str) -> Server:
        door = doors[name.rpartition("/")[2]]
        return Server(Parts(), options(door, engine=engine, name=name, planes=False))

    one, two, three = map(server, names)
    async with one, two, three, connect("forge", engine=engine) as plane:
        await _until(plane, 3)
        found = await plane.collect_stats(timeout_s=20)
        assert [*found.stats] == sorted(names)
        assert not found.missing
        for whom in (names[1], Entity.instance(names[1]), EntityId.of(names[1])):
            assert [*(await plane.collect_stats(whom, timeout_s=20)).stats] == [names[1]]
        assert len((await plane.collect_stats("forge/captioner", timeout_s=20)).stats) == 3
        assert not (await plane.collect_stats("mill", timeout_s=20)).stats
        with pytest.raises(PlaneError) as caught:
            await plane.collect_stats("a//b")
        assert caught.value.code is Code.INVALID_ARGUMENT


async def _until(plane: Any, count: int) -> None:
    async with asyncio.timeout(30):
        while True:
            found = await plane.collect_stats(timeout_s=20)
            if len(found.stats) == count:
                return
            await asyncio.sleep(0.01)


async def test_who_does_not_answer_is_told() -> None:
    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    silent = await asyncio.start_server(hold, "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    async with Server(Parts(), options("grpc", planes=False)) as server, silent:
        targets = {NAME: address(server, "grpc"), "forge/captioner/two": f"http://127.0.0.1:{port}"}
        async with connect(targets) as plane:
            found = await plane.collect_stats(timeout_s=1)
            assert [*found.stats] == [NAME]
            assert {name: error.code for name, error in found.missing.items()} == {
                "forge/captioner/two": Code.DEADLINE_EXCEEDED
            }


async def test_an_address_says_who_it_is(door: str) -> None:
    async with (
        Server(Parts(), options(door, planes=False)) as server,
        connect(address(server, door)) as plane,
    ):
        assert [*(await plane.collect_stats("forge", timeout_s=20)).stats] == [NAME]
        assert not (await plane.collect_stats("mill", timeout_s=20)).stats


async def test_nobody_there(tmp_path: Path) -> None:
    async with connect("forge", engine=f"local:{tmp_path}") as plane:
        with pytest.raises(UnsentError):
            await plane.collect_stats(timeout_s=0.1)


async def test_without_async() -> None:
    async with Server(Parts(), options("grpc", planes=False)) as server:
        where = address(server, "grpc")

        def ask() -> list[str]:
            with connect_sync(where) as plane:
                return [*plane.collect_stats(timeout_s=20).stats]

        assert await asyncio.to_thread(ask) == [NAME]


@given(
    st.lists(st.integers(0, 1000), min_size=len(BUCKETS_S) + 1, max_size=len(BUCKETS_S) + 1),
    st.floats(0, 1),
)
def test_quantiles_are_in_their_bucket(buckets: list[int], share: float) -> None:
    found = quantile(buckets, share)
    total = sum(buckets)
    if not total:
        assert found == 0
        return
    at_most = sum(
        count
        for count, bound in zip(buckets, [*BUCKETS_S, BUCKETS_S[-1]], strict=True)
        if bound <= found
    )
    below = sum(count for count, low in zip(buckets, [0.0, *BUCKETS_S], strict=True) if low < found)
    assert at_most <= total
    assert below >= share * total - 1e-6 or found == BUCKETS_S[-1]


def test_quantiles_by_hand() -> None:
    buckets = [0] * (len(BUCKETS_S) + 1)
    buckets[1] = 10
    assert quantile(buckets, 0.5) == pytest.approx(0.00075)
    assert quantile(buckets, 1.0) == pytest.approx(0.001)
    buckets[-1] = 10
    assert quantile(buckets, 0.99) == BUCKETS_S[-1]
