"""The memory engine keeps the suite of event logs, its bounds, and its promise to be cheap."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.runtime.event_log_suite import EventLogSuite, publish, take

from protoplane_runtime.engines.interface import Event, EventId, EventLog, Gap, Start
from protoplane_runtime.engines.memory import MAX_BATCH, Batch, MemoryLog

pytestmark = pytest.mark.anyio


class TestMemoryLog(EventLogSuite):
    @pytest.fixture
    async def log(self) -> AsyncIterator[EventLog]:
        log = MemoryLog(epoch=7)
        yield log
        await log.close()


async def test_the_number_of_events_is_bounded() -> None:
    log = MemoryLog(max_events=4, epoch=1)
    ids = [await publish(log, f"a/{number}") for number in range(10)]
    reader = log.read(["**"], after=Start.EARLIEST)
    assert [event.id for event in await take(reader, 4)] == ids[6:]


@given(st.lists(st.sampled_from(["a", "b", "purge a"]), max_size=40), st.integers(1, 8))
def test_purges_and_a_full_ring(steps: list[str], most: int) -> None:
    async def follow() -> None:
        log = MemoryLog(max_events=most, epoch=1)
        kept: dict[EventId, str] = {}
        for step in steps:
            if step in ("a", "b"):
                kept[await publish(log, step, durable=True)] = step
                last = log.last.sequence
                kept = {each: key for each, key in kept.items() if each.sequence > last - most}
            else:
                assert await log.purge(["a"]) == [*kept.values()].count("a")
                kept = {each: key for each, key in kept.items() if key != "a"}
        stats = await log.stats()
        assert (stats.events, stats.oldest) == (len(kept), next(iter(kept), None))
        assert bool(stats.bytes) is bool(kept)
        if kept:
            found = await take(log.read(["**"], after=Start.EARLIEST), len(kept))
            assert {event.id: event.key for event in found} == kept

    asyncio.run(follow())


async def test_the_collector_of_cycles_sees_no_events() -> None:
    log = MemoryLog()
    await publish(log, "a", "text")
    [event] = await take(log.read(["a"], after=Start.EARLIEST), 1)
    assert not gc.is_tracked(event)
    assert not gc.is_tracked(event.id)


async def test_the_bytes_are_bounded() -> None:
    log = MemoryLog(max_bytes=10_000, epoch=1)
    for number in range(100):
        await publish(log, f"a/{number}", "x" * 1000)
    kept = await anext(log.read(["**"], after=Start.EARLIEST))
    assert 1 <= len(kept) <= 5
    await publish(log, "a/large", "x" * 20_000)
    [last] = await anext(log.read(["**"], after=Start.EARLIEST))
    assert isinstance(last, Event)
    assert last.key == "a/large"


async def test_a_slow_reader_is_told_what_it_missed() -> None:
    log = MemoryLog(max_events=4, epoch=1)
    reader = log.read(["**"])
    first = await publish(log, "a/0")
    assert [event.id for event in await take(reader, 1)] == [first]
    ids = [await publish(log, f"a/{number}") for number in range(1, 11)]
    [gap] = await anext(reader)
    assert gap == Gap(asked=first, oldest=ids[6], next=ids[6])
    assert [event.id for event in await take(reader, 4)] == ids[6:]


async def test_an_id_that_is_no_longer_kept_is_a_gap() -> None:
    log = MemoryLog(max_events=2, epoch=1)
    ids = [await publish(log, "a") for _ in range(5)]
    [gap] = await anext(log.read(["a"], after=ids[0]))
    assert gap == Gap(ids[0], ids[3], ids[3])
    assert len(await take(log.read(["a"], after=ids[2]), 2)) == 2


async def test_a_gap_in_an_empty_log() -> None:
    log = MemoryLog(epoch=2)
    asked = EventId(1, 99)
    reader = log.read(["a"], after=asked)
    [gap] = await anext(reader)
    assert gap == Gap(asked, None, EventId(2, 1))
    event_id = await publish(log, "a")
    assert event_id == EventId(2, 1)
    assert len(await take(reader, 1)) == 1


async def test_events_of_others_do_not_make_a_gap() -> None:
    log = MemoryLog(max_events=4, epoch=1)
    reader = log.read(["mine"])
    waiting = asyncio.ensure_future(anext(reader))
    await asyncio.sleep(0)
    for _ in range(5):
        for _ in range(3):
            await publish(log, "other")
        await asyncio.sleep(0)
    await publish(log, "mine")
    [event] = await waiting
    assert isinstance(event, Event)
    assert event.key == "mine"


async def test_overtaken_while_waiting() -> None:
    log = MemoryLog(max_events=4, epoch=1)
    reader = log.read(["mine"])
    waiting = asyncio.ensure_future(anext(reader))
    await asyncio.sleep(0)
    await publish(log, "mine")
    for _ in range(10):
        await publish(log, "other")
    [gap] = await waiting
    assert isinstance(gap, Gap)


async def test_readers_at_the_same_place_share_a_batch() -> None:
    log = MemoryLog(epoch=1)
    readers = [log.read(["a/*"]) for _ in range(1000)]
    waiting = [asyncio.ensure_future(anext(reader)) for reader in readers]
    await asyncio.sleep(0)
    for number in range(10):
        await publish(log, f"a/{number}")
    batches = await asyncio.gather(*waiting)
    assert len(batches[0]) == 10
    assert all(batch is batches[0] for batch in batches)
    assert isinstance(batches[0], Batch)
    batches[0].encodings = {}
    assert batches[1].encodings is batches[0].encodings


async def test_batches_are_bounded() -> None:
    log = MemoryLog(epoch=1)
    for _ in range(MAX_BATCH + 10):
        await publish(log, "a")
    reader = log.read(["a"], after=Start.EARLIEST)
    assert [len(await anext(reader)) for _ in range(2)] == [MAX_BATCH, 10]


async def test_readers_that_left_leave_nothing() -> None:
    log = MemoryLog(epoch=1)
    waiting = [asyncio.create_task(take(log.read([f"a/{n}"]), 1)) for n in range(50)]
    await asyncio.sleep(0)
    assert log.readers == 50
    assert all(task.cancel() for task in waiting)
    await asyncio.gather(*waiting, return_exceptions=True)
    del waiting
    gc.collect()
    assert log.readers == 0


@pytest.mark.parametrize(("max_events", "max_bytes"), [(0, 1), (1, 0)])
def test_bounds_must_leave_room(max_events: int, max_bytes: int) -> None:
    with pytest.raises(ValueError, match="at least one"):
        MemoryLog(max_events=max_events, max_bytes=max_bytes)


@pytest.mark.parametrize("text", ["", "1", "-1", "1-", "1-2-3", "a-b", "１-1", "+1-1"])
def test_bad_event_ids(text: str) -> None:
    with pytest.raises(ValueError, match="no event id"):
        EventId.parse(text)
