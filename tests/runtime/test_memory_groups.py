"""The groups of ``memory:`` keep the suite; what becomes of them where an engine fails them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace

import pytest
from tests.runtime.event_log_suite import publish
from tests.runtime.groups_suite import EARLIEST, Batches, GroupsSuite, take

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.engine import Engine
from protoplane_runtime.engines.groups import Delivery, GroupSettings
from protoplane_runtime.engines.interface import EventId, Gap, Start
from protoplane_runtime.engines.log_groups import LogGroups
from protoplane_runtime.engines.memory import MemoryLog
from protoplane_runtime.engines.memory_state import MemoryState
from protoplane_runtime.engines.opening import open_engine

pytestmark = pytest.mark.anyio


class TestMemoryGroups(GroupsSuite):
    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[Engine]:
        engine = await open_engine("memory:")
        yield engine
        await engine.close()

    @asynccontextmanager
    async def other(self, engine: Engine) -> AsyncGenerator[Engine]:
        groups = LogGroups(engine.events, engine.state, engine.discovery)
        yield replace(engine, groups=groups)
        await groups.close()


async def gap_and_one(batches: Batches) -> tuple[Gap, Delivery]:
    found: list[Delivery | Gap] = []
    async with asyncio.timeout(10):
        while len(found) < 2:
            found += await anext(batches)
    gap, one = found
    assert isinstance(gap, Gap)
    assert isinstance(one, Delivery)
    return gap, one


async def test_a_group_is_told_what_it_missed() -> None:
    log, state = MemoryLog(max_events=4, epoch=3), MemoryState()
    groups = LogGroups(log, state)
    async with aclosing(groups.consume("g", ["a"], EARLIEST)) as batches:
        first = await publish(log, "a")
        [one] = await take(batches, 1)
        assert one.event.id == first
        await groups.acknowledge([one.token])
    ids = [await publish(log, "a") for _ in range(9)]
    async with aclosing(groups.consume("g", ["a"], EARLIEST)) as batches:
        gap, one = await gap_and_one(batches)
        assert gap == Gap(first, ids[5], ids[5])
        for expected in ids[5:]:
            assert one.event.id == expected
            await groups.acknowledge([one.token])
            if expected != ids[-1]:
                [one] = await take(batches, 1)
    await groups.close()


async def test_a_group_goes_on_in_a_new_log() -> None:
    state = MemoryState()
    ids: list[EventId] = []
    for epoch in (1, 2):
        log = MemoryLog(epoch=epoch)
        groups = LogGroups(log, state)
        ids.append(await publish(log, "a"))
        async with aclosing(groups.consume("g", ["a"], EARLIEST)) as batches:
            if epoch == 2:
                gap, one = await gap_and_one(batches)
                assert gap == Gap(ids[0], ids[1], ids[1])
            else:
                [one] = await take(batches, 1)
            assert one.event.id == ids[-1]
            await groups.acknowledge([one.token])
        await groups.close()
        await log.close()
    await state.close()


class _Lossy(MemoryState):
    """Stores what it is given, and then does not say so, every other time."""

    def __init__(self) -> None:
        super().__init__()
        self.puts = 0

    async def put(
        self, key: str, value: bytes, *, expected: int | None = None, ttl_s: float | None = None
    ) -> int:
        self.puts += 1
        revision = await super().put(key, value, expected=expected, ttl_s=ttl_s)
        if self.puts % 2:
            raise PlaneError(Code.UNAVAILABLE, "the answer was lost")
        return revision


async def test_an_engine_that_comes_and_goes_loses_nothing() -> None:
    log, state = MemoryLog(epoch=1), _Lossy()
    groups = LogGroups(log, state)
    ids = [await publish(log, f"a/{number}") for number in range(5)]
    settings = GroupSettings(start=Start.EARLIEST, max_in_flight=2)
    seen: list[EventId] = []
    async with aclosing(groups.consume("g", ["a/*"], settings)) as batches:
        while len(seen) < 5:
            async with asyncio.timeout(20):
                batch = await anext(batches)
            for each in batch:
                assert isinstance(each, Delivery)
                assert each.attempt == 1
                seen.append(each.event.id)
                async with asyncio.timeout(20):
                    while True:
                        try:
                            await groups.acknowledge([each.token])
                            break
                        except PlaneError as error:
                            if error.code is not Code.UNAVAILABLE:
                                raise
    assert seen == ids
    await groups.close()
