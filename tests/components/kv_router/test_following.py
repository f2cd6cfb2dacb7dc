"""An index that follows workers' events: whatever is lost, it comes to what the workers hold."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import pytest
from prometheus_client import CollectorRegistry
from tests.components.kv_router.truth import Churn, eventually, indexed, state

from protoplane.router.v1 import KvEvent, KvStateResponse, Worker
from protoplane_base import Code, PlaneError
from protoplane_components.kv_router.following import KvFollower
from protoplane_components.kv_router.index import KvIndex, Target
from protoplane_components.kv_router.states import FetchedState, gather
from protoplane_components.kv_router.worker import KvWorker
from protoplane_runtime.engines.interface import EventId
from protoplane_runtime.engines.memory import MemoryLog
from protoplane_server import Host

pytestmark = pytest.mark.anyio

TARGET = Target("w")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class LossyLog(MemoryLog):
    """Loses some KV events on the way into the log, by their ids; and may be away."""

    lost: set[int]
    away = False

    async def publish(self, key: str, type_: str, data: bytes, json: str, **how: object) -> EventId:
        if self.away:
            raise PlaneError(Code.UNAVAILABLE, "the engine is away")
        if KvEvent.from_bytes(data).event_id in self.lost:
            return self.last
        return await super().publish(key, type_, data, json, durable=True)


@dataclass
class Scene:
    """A worker, an index that follows it, and what is between them."""

    log: LossyLog
    worker: KvWorker
    index: KvIndex
    follower: KvFollower
    faults: list[PlaneError | None] = field(default_factory=list[PlaneError | None])
    asked: int = 0

    async def fetch(self, target: Target) -> FetchedState | None:
        self.asked += 1
        fault = self.faults.pop(0) if self.faults else None
        if fault is not None:
            raise fault
        return await gather(each(self.worker.pieces(target.dp_rank)), 16)

    def same(self) -> bool:
        """Whether the index holds what the worker does."""
        course = self.follower.courses[TARGET]
        return course.in_sync and indexed(self.index, TARGET) == state(self.worker)


async def each(pieces: object) -> AsyncIterator[KvStateResponse]:
    for piece in pieces:  # type: ignore[attr-defined]
        yield piece


async def nobody(_: Target) -> FetchedState | None:
    return None


def host(log: MemoryLog) -> Host:
    async def none() -> object:
        raise AssertionError

    return Host("test/worker/w", log, None, none, CollectorRegistry())  # type: ignore[arg-type]


@asynccontextmanager
async def scene(lost: set[int] | None = None, *, silent: bool = False) -> AsyncGenerator[Scene]:
    log = LossyLog()
    log.lost = lost or set()
    worker = KvWorker(Worker(block_size=16))
    worker.hosted(host(log))
    index = KvIndex()
    made = Scene(log, worker, index, KvFollower(index, log, nobody, block_size=16))
    if not silent:
        made.follower = KvFollower(index, log, made.fetch, block_size=16)
    running = asyncio.create_task(made.follower.run())
    await asyncio.sleep(0)
    try:
        async with worker:
            yield made
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        await log.close()


async def published(scene: Scene) -> None:
    await eventually(lambda: scene.worker.waiting == 0)


async def test_events_in_order() -> None:
    async with scene() as s:
        s.follower.add(TARGET)
        await eventually(lambda: s.follower.courses[TARGET].in_sync)
        churn = Churn(s.worker)
        for _ in range(200):
            churn.step()
        await eventually(s.same)
        assert (s.asked, s.follower.gaps) == (1, 0)


async def test_what_was_before_is_fetched() -> None:
    async with scene() as s:
        churn = Churn(s.worker)
        for _ in range(50):
            churn.step()
        s.follower.add(TARGET)
        for _ in range(50):
            churn.step()
        await eventually(s.same)


async def test_an_event_that_is_in_the_log_is_replayed() -> None:
    async with scene() as s:
        s.follower.add(TARGET)
        await eventually(lambda: s.follower.courses[TARGET].in_sync)
        s.log.lost = {2}
        for block in (1, 2, 3):
            s.worker.stored([block], [block])
        await published(s)
        await eventually(lambda: s.follower.fetched == 2)
        s.log.lost = set()
        # Now one that only the reader did not see.
        course = s.follower.courses[TARGET]
        s.worker.stored([4], [4])
        await eventually(lambda: course.event_id == 4)
        course.event_id = 2
        s.worker.stored([5], [5])
        await eventually(s.same)
        assert s.follower.replayed == 2
        assert s.asked == 2


async def test_a_hole_is_fetched_and_nothing_is_believed_until_then() -> None:
    async with scene({3}) as s:
        s.follower.add(TARGET)
        await eventually(lambda: s.follower.courses[TARGET].in_sync)
        away = PlaneError(Code.UNAVAILABLE, "not now")
        s.faults = [away] * 3
        for block in range(1, 6):
            s.worker.stored([block], [block])
        await eventually(lambda: s.asked >= 2)
        await eventually(lambda: not indexed(s.index, TARGET) or not s.faults)
        await eventually(s.same)
        assert s.asked == 5


async def test_events_lost_at_random() -> None:
    chance = random.Random(5)
    async with scene({n for n in range(1, 400) if chance.random() < 0.1}) as s:
        s.follower.add(TARGET)
        churn = Churn(s.worker)
        for number in range(400):
            churn.step()
            if number % 20 == 0:
                await published(s)
        s.worker.stored([1], [1])
        await eventually(s.same)


async def test_the_engine_is_away_for_longer_than_the_worker_can_wait() -> None:
    async with scene() as s:
        s.follower.add(TARGET)
        await eventually(lambda: s.follower.courses[TARGET].in_sync)
        s.log.away = True
        churn = Churn(s.worker)
        for _ in range(12_000):
            churn.step()
        assert s.worker.waiting == 10_000
        await asyncio.sleep(0)
        s.log.away = False
        await eventually(s.same)
        assert s.follower.gaps >= 1


async def test_a_worker_that_starts_anew() -> None:
    async with scene() as s:
        s.follower.add(TARGET)
        s.worker.stored([1, 2], [1, 2])
        await eventually(s.same)
        again = KvWorker(Worker(block_size=16))
        again.hosted(host(s.log))
        s.worker, before = again, s.worker
        async with again:
            again.stored([3], [3])
            await eventually(s.same)
        before.stored([4], [4])
        await eventually(lambda: before.waiting == 0)
        await eventually(s.same)


async def test_nobody_to_ask() -> None:
    """All that there is of a worker is its events; the log has them from the beginning."""
    async with scene(silent=True) as s:
        for block in (1, 2, 3):
            s.worker.stored([block], [block])
        await published(s)
        s.follower.add(TARGET)
        await eventually(s.same)
        s.worker.stored([4], [4])
        await eventually(s.same)


async def test_other_block_sizes_are_refused(caplog: pytest.LogCaptureFixture) -> None:
    async with scene() as s:
        s.follower.add(TARGET)
        await eventually(lambda: s.follower.courses[TARGET].in_sync)
        s.worker.described.block_size = 32
        s.worker.stored([1], [1])
        s.worker.stored([2], [2])
        await eventually(lambda: "have 32 tokens, and this router's 16" in caplog.text)
        await published(s)
        assert s.index.count(TARGET) == 0


async def test_a_worker_that_is_removed_is_followed_no_more() -> None:
    async with scene() as s:
        s.follower.add(TARGET)
        s.worker.stored([1], [1])
        await eventually(s.same)
        s.follower.remove("w")
        assert s.index.count(TARGET) == 0
        s.worker.stored([2], [2])
        await published(s)
        assert s.index.count(TARGET) == 0
        assert not s.follower.courses
