"""Workers that are registered at one replica of a router, over an event plane that loses some."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

import pytest
from tests.components.kv_router.lossy import LossyLog
from tests.components.kv_router.truth import eventually

from protoplane.router.v1 import Worker
from protoplane_base import Code, PlaneError
from protoplane_components.kv_router.membership import Membership
from protoplane_components.kv_router.registrations import Registrations
from protoplane_components.kv_router.router import Router

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Replica:
    """A replica that only knows workers."""

    def __init__(self, log: LossyLog, name: str, router: str = "default:router") -> None:
        self.router = Router(block_size=16)
        self.members = Membership(self.router, None, "default")
        self.told = Registrations(self.members, log, router=router, name=name, interval_s=0.1)
        self.members.registrations = self.told

    def add(self, id_: str, **more: object) -> None:
        self.members.add(Worker.model_validate({"id": id_, "block_size": 16, **more}))

    def sees(self) -> dict[str, str]:
        assert {*self.router.workers} == {*self.members.members}
        return {id_: each.worker.endpoint for id_, each in sorted(self.members.members.items())}


@asynccontextmanager
async def running(*replicas: Replica) -> AsyncGenerator[None]:
    tasks = [asyncio.create_task(each.told.run()) for each in replicas]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def test_all_know_who_was_registered_at_one_and_who_was_removed() -> None:
    log = LossyLog()
    one, two = Replica(log, "one"), Replica(log, "two")
    async with running(one, two):
        one.add("a", endpoint="here")
        two.add("b")
        await eventually(lambda: one.sees() == two.sees() == {"a": "here", "b": ""})
        two.add("a", endpoint="there")
        await eventually(lambda: one.sees() == two.sees() == {"a": "there", "b": ""})
        one.members.remove("a")
        await eventually(lambda: one.sees() == two.sees() == {"b": ""})
        two.add("a", endpoint="again")
        await eventually(lambda: one.sees() == two.sees() == {"a": "again", "b": ""})
        assert one.told.fingerprint == two.told.fingerprint != 0


async def test_one_that_comes_later_learns_all() -> None:
    log = LossyLog()
    one, two = Replica(log, "one"), Replica(log, "two")
    async with running(one):
        for number in range(1234):
            one.add(f"w{number}")
        one.members.remove("w7")
        async with running(two):
            await eventually(lambda: len(two.members.members) == 1233 and one.sees() == two.sees())
    # What it hears is no news that is told on and on.
    published = log.published
    async with running(one, two):
        await eventually(lambda: log.published >= published + 12)
    assert log.published - published < 40


async def test_what_a_snapshot_says_is_older_than_what_anybody_says() -> None:
    log = LossyLog()
    one, two = Replica(log, "one"), Replica(log, "two")
    one.add("gone")
    one.add("moved", endpoint="new")
    one.members.remove("gone")
    for id_ in ("gone", "moved", "kept"):
        worker = Worker(id=id_, block_size=16, endpoint="old")
        two.members.put(worker)
        two.told.kept(worker)
    async with running(one, two):
        await eventually(lambda: one.sees() == two.sees() == {"kept": "old", "moved": "new"})


async def test_what_is_lost_heals() -> None:
    log = LossyLog()
    log.share = 0.5
    one, two, three = (Replica(log, name) for name in ("one", "two", "three"))
    async with running(one, two, three):
        for number in range(30):
            [one, two, three][number % 3].add(f"w{number}")
            if number % 4 == 0:
                [two, three, one][number % 3].members.remove(f"w{number}")
            await asyncio.sleep(0)
        log.share = 0.2
        await eventually(lambda: one.sees() == two.sees() == three.sees() != {})
        log.away = True
        one.add("late")
        two.members.remove("w1")
        log.away = False
        await eventually(lambda: one.sees() == two.sees() == three.sees())
        assert "late" in two.sees()
        assert "w1" not in one.sees()


async def test_a_worker_of_discovery_that_was_removed_is_removed_everywhere() -> None:
    log = LossyLog()
    one, two = Replica(log, "one"), Replica(log, "two")
    for each in (one, two):
        each.members.put(Worker(id="w", block_size=16), "test/worker/w")
        each.members.put(Worker(id="v", block_size=16), f"test/{each.told.replica}/v")
    async with running(one, two):
        one.members.remove("v")
        one.members.remove("w")
        await eventually(lambda: "w" not in two.sees())
        # There it is another instance.
        assert "v" in two.sees()


async def test_other_routers_are_passed_over() -> None:
    log = LossyLog()
    one, other = Replica(log, "one"), Replica(log, "other", router="prod:router")
    two = Replica(log, "two")
    async with running(one, two, other):
        one.add("a")
        await eventually(lambda: two.sees() == {"a": ""})
        assert other.sees() == {}


@pytest.mark.parametrize(
    "id_", ["", "a/b", "*", ".", "..", "@x", "a\nb", "\0", "a#b", "a?", "$", "x" * 257]
)
def test_what_is_no_id_is_refused(id_: str) -> None:
    replica = Replica(LossyLog(), "one")
    with pytest.raises(PlaneError, match="is no id of a worker") as caught:
        replica.add(id_)
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert replica.sees() == {}


@pytest.mark.parametrize(
    "ranks", [{"dp_size": 1025}, {"dp_size": 1 << 31}, {"dp_start": (1 << 32) - 1, "dp_size": 2}]
)
def test_ranks_that_cannot_be_are_refused(ranks: dict[str, int]) -> None:
    replica = Replica(LossyLog(), "one")
    with pytest.raises(PlaneError, match="below 2") as caught:
        replica.add("a", **ranks)
    assert caught.value.code is Code.INVALID_ARGUMENT
    replica.add("ünïcode ☃", dp_start=(1 << 32) - 1)
    assert len(replica.router.loads.targets) == 1


def test_models_are_counted() -> None:
    replica = Replica(LossyLog(), "one")
    replica.add("a", model="small")
    replica.add("b", model="large")
    with pytest.raises(PlaneError, match="large, small"):
        replica.members.of_model("", ())
    replica.add("b", model="small")
    assert not replica.members.of_model("", ())
    replica.members.remove("a")
    replica.members.remove("b")
    assert not replica.members.of_model("other", ())
