"""Replicas of a router that share what they have placed, over an event plane that loses some."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from time import monotonic

import pytest
from tests.components.kv_router.lossy import LossyLog
from tests.components.kv_router.truth import eventually

from protoplane_components.kv_router.index import Target
from protoplane_components.kv_router.load import LoadTable, Reservation
from protoplane_components.kv_router.replicas import Replicas

pytestmark = pytest.mark.anyio

TARGETS = [Target("a"), Target("b", 1)]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Replica:
    """A replica without the router around it."""

    def __init__(self, log: LossyLog, name: str) -> None:
        self.loads = LoadTable()
        for target in TARGETS:
            self.loads.add(target)
        self.computed: list[str] = []
        self.shared = Replicas(
            self.loads,
            log,
            monotonic,
            name=name,
            interval_s=0.1,
            prefill_completed=self._prefill_completed,
        )

    def _prefill_completed(self, id_: str) -> None:
        self.computed.append(id_)
        self.loads.prefill_completed(id_, monotonic())

    def reserve(self, id_: str, target: Target = TARGETS[0], lease_s: float = 60) -> None:
        made = Reservation(id_, target, 100, 4, 0, lease_s, monotonic() + lease_s)
        self.loads.reserve(made)
        self.shared.changed(made)

    def wrote(self, id_: str, blocks: int) -> None:
        self.loads.prefill_completed(id_, monotonic())
        self.loads.output_blocks(id_, blocks, monotonic())
        found = self.loads.get(id_)
        assert found is not None
        self.shared.changed(found)

    def release(self, id_: str) -> None:
        found = self.loads.release(id_)
        if found is not None:
            self.shared.changed(found, released=True)

    def sees(self) -> object:
        return sorted(
            (each.id, each.target, each.prefill_tokens, each.decode_blocks) for each in self.loads
        )


@asynccontextmanager
async def replicas(log: LossyLog, *names: str) -> AsyncGenerator[list[Replica]]:
    made = [Replica(log, name) for name in names]
    tasks = [asyncio.create_task(each.shared.run()) for each in made]
    try:
        await eventually(lambda: all(len(each.shared.peers) == len(names) - 1 for each in made))
        yield made
    finally:
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def test_each_knows_what_the_other_places() -> None:
    async with replicas(LossyLog(), "one", "two") as (one, two):
        one.reserve("r", TARGETS[1])
        await eventually(lambda: two.sees() == [("r", TARGETS[1], 100, 4)])
        one.wrote("r", 3)
        await eventually(lambda: two.sees() == [("r", TARGETS[1], 0, 7)])
        # Who waits at the other replica is to be woken.
        assert two.computed == ["r"]
        one.release("r")
        await eventually(lambda: two.sees() == [])
        assert two.loads.loads()[1].active_requests == 0


async def test_a_request_may_end_at_another_replica() -> None:
    async with replicas(LossyLog(), "one", "two", "three") as (one, two, three):
        one.reserve("r")
        await eventually(lambda: len(two.loads) == len(three.loads) == 1)
        two.wrote("r", 2)
        await eventually(lambda: one.sees() == three.sees() == [("r", TARGETS[0], 0, 6)])
        three.release("r")
        await eventually(lambda: len(one.loads) == len(two.loads) == 0)


async def test_one_that_comes_later_learns_all() -> None:
    log = LossyLog()
    async with replicas(log, "one") as [one]:
        one.reserve("r")
        async with replicas(log, "two") as [two]:
            await eventually(lambda: two.sees() == one.sees() != [])


async def test_what_is_lost_heals() -> None:
    random.seed(7)
    log = LossyLog()
    async with replicas(log, "one", "two", "three") as made:
        log.share = 0.5
        for number in range(300):
            each = made[number % 3]
            each.reserve(f"r{number}", TARGETS[number % 2])
            if number % 4:
                each.wrote(f"r{number}", number % 5)
            if number % 3 == 0:
                made[(number + 1) % 3].release(f"r{number - 6}")
            await asyncio.sleep(0)
        log.share = 0
        one, two, three = made
        await eventually(lambda: one.sees() == two.sees() == three.sees())
        left = len(one.loads)
        assert 100 < left < 300
        assert one.loads.loads() == two.loads.loads() == three.loads.loads()


async def test_an_engine_that_is_away_for_a_while() -> None:
    log = LossyLog()
    async with replicas(log, "one", "two") as (one, two):
        one.reserve("before")
        await eventually(lambda: len(two.loads) == 1)
        log.away = True
        tries = log.published
        one.release("before")
        one.reserve("after")
        await eventually(lambda: log.published > tries + 2)
        log.away = False
        await eventually(lambda: one.sees() == two.sees() == [("after", TARGETS[0], 100, 4)])


async def test_reservations_of_one_that_died_end_with_their_leases() -> None:
    log = LossyLog()
    async with AsyncExitStack() as stack:
        [one] = await stack.enter_async_context(replicas(log, "one"))
        async with replicas(log, "two") as [two]:
            await eventually(lambda: len(one.shared.peers) == 1)
            two.reserve("short", lease_s=1)
            two.reserve("long")
            await eventually(lambda: len(one.loads) == 2)
        # It renews no lease any more, and is forgotten.
        await eventually(lambda: bool(one.loads.expire(monotonic())))
        assert [each.id for each in one.loads] == ["long"]
        await eventually(lambda: not one.shared.peers)
        assert [each.id for each in one.loads] == ["long"]


async def test_a_worker_that_only_one_knows_yet() -> None:
    async with replicas(LossyLog(), "one", "two") as (one, two):
        late = Target("late")
        one.loads.add(late)
        one.reserve("r", late)
        one.reserve("s")
        await eventually(lambda: len(two.loads) == 1)
        two.loads.add(late)
        await eventually(lambda: two.sees() == one.sees())
