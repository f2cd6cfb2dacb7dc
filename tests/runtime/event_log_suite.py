"""What every event log does; the tests of an engine derive from `EventLogSuite`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence

import pytest

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.interface import (
    Event,
    EventId,
    EventLog,
    Gap,
    Publication,
    Since,
    Start,
)


async def publish(
    log: EventLog,
    key: str,
    text: str = "",
    *,
    durable: bool = False,
    publication: Publication | None = None,
) -> EventId:
    return await log.publish(
        key,
        "test.v1.Text",
        text.encode(),
        f'"{text}"',
        durable=durable,
        publication=publication,
    )


async def take(reader: AsyncIterator[Sequence[Event | Gap]], count: int) -> list[Event]:
    """The next events of a reader, which must come without a gap."""
    events: list[Event] = []
    async with asyncio.timeout(10):
        while len(events) < count:
            for event in await anext(reader):
                assert isinstance(event, Event)
                events.append(event)
    assert len(events) == count
    return events


class EventLogSuite:
    """The cases; `log` gives an empty log that keeps at least a thousand small events."""

    pytestmark = pytest.mark.anyio

    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"

    @pytest.fixture
    async def log(self) -> AsyncIterator[EventLog]:
        raise NotImplementedError
        yield  # type: ignore[unreachable]  # noqa: PT022  # an override yields

    async def test_reader_gets_what_comes(self, log: EventLog) -> None:
        await publish(log, "a/0")
        reader = log.read(["a/*"])
        ids = [await publish(log, f"a/{n}", f"text {n}") for n in (1, 2)]
        events = await take(reader, 2)
        assert [event.id for event in events] == ids
        first = events[0]
        assert (first.key, first.type, first.data, first.json) == (
            "a/1",
            "test.v1.Text",
            b"text 1",
            '"text 1"',
        )
        assert 0 < first.time_ns <= events[1].time_ns

    async def test_reader_waits(self, log: EventLog) -> None:
        reader = log.read(["a/*"])
        waiting = asyncio.create_task(take(reader, 1))
        await asyncio.sleep(0)
        await publish(log, "b/1")
        await asyncio.sleep(0.01)
        assert not waiting.done()
        await publish(log, "a/1")
        assert [event.key for event in await waiting] == ["a/1"]

    async def test_all_that_is_ready_comes_at_once(self, log: EventLog) -> None:
        reader = log.read(["a/*"])
        for number in range(100):
            await publish(log, f"a/{number}")
        async with asyncio.timeout(10):
            assert len(await anext(reader)) > 1

    async def test_reader_from_the_start(self, log: EventLog) -> None:
        for number in range(10):
            await publish(log, f"a/{number}")
        reader = log.read(["**"], after=Start.EARLIEST)
        assert [event.key for event in await take(reader, 10)] == [f"a/{n}" for n in range(10)]

    async def test_reader_resumes_after_an_id(self, log: EventLog) -> None:
        ids = [await publish(log, f"a/{number}") for number in range(10)]
        reader = log.read(["**"], after=ids[6])
        assert [event.id for event in await take(reader, 3)] == ids[7:]
        reader = log.read(["**"], after=ids[9])
        last = await publish(log, "a/10")
        assert [event.id for event in await take(reader, 1)] == [last]

    async def test_ids_are_ordered(self, log: EventLog) -> None:
        before = log.last
        assert before.sequence == 0
        ids = [await publish(log, "a") for _ in range(20)]
        assert sorted(ids) == ids
        assert len(set(ids)) == 20
        assert log.last == ids[-1]
        assert [EventId.parse(str(each)) for each in ids] == ids

    async def test_several_expressions(self, log: EventLog) -> None:
        reader = log.read(["a/*", "**/z"])
        for key in ("a/1", "b/1", "b/z", "a/z", "a/1/2"):
            await publish(log, key)
        assert [event.key for event in await take(reader, 3)] == ["a/1", "b/z", "a/z"]

    async def test_no_wildcard_stands_for_what_begins_with_an_at(self, log: EventLog) -> None:
        keys = ("@own/a", "a/@own/b", "a/b", "a@own")
        ids = [await publish(log, key, durable=True) for key in keys]
        for expressions, wanted in (
            (["**"], ids[2:]),
            (["a/**"], ids[2:3]),
            (["@own/*"], ids[:1]),
            (["*/@own/**", "@own/a"], ids[:2]),
        ):
            found = await take(log.read(expressions, after=Start.EARLIEST), len(wanted))
            assert [event.id for event in found] == wanted
        assert (await log.stats()).events == 2
        assert await log.purge(["**"]) == 2
        [left] = await take(log.read(["@own/a"], after=Start.EARLIEST), 1)
        assert left.id == ids[0]

    async def test_a_lost_epoch_is_a_gap(self, log: EventLog) -> None:
        first = await publish(log, "a/1")
        asked = EventId(first.epoch - 1, 5)
        reader = log.read(["**"], after=asked)
        batches: list[Event | Gap] = []
        async with asyncio.timeout(10):
            while len(batches) < 2:
                batches.extend(await anext(reader))
        assert batches[0] == Gap(asked, first, first)
        assert isinstance(batches[1], Event)

    async def test_many_publishers_and_readers(self, log: EventLog) -> None:
        readers = [log.read(["a/**"]) for _ in range(20)]
        taking = [asyncio.create_task(take(reader, 200)) for reader in readers]

        async def publisher(name: int) -> None:
            for number in range(20):
                await publish(log, f"a/{name}/{number}")
                await publish(log, f"b/{name}")
                await asyncio.sleep(0)

        await asyncio.gather(*(publisher(name) for name in range(10)))
        everything = [[event.id for event in await task] for task in taking]
        assert all(ids == everything[0] for ids in everything)
        assert sorted(everything[0]) == everything[0]

    async def test_cancelling_one_reader_leaves_the_others(self, log: EventLog) -> None:
        waiting = [asyncio.create_task(take(log.read(["a"]), 1)) for _ in range(3)]
        await asyncio.sleep(0.01)
        waiting[0].cancel()
        await publish(log, "a")
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert isinstance(results[0], asyncio.CancelledError)
        assert all(isinstance(result, list) for result in results[1:])

    async def test_closing_ends_readers(self, log: EventLog) -> None:
        reader = log.read(["a"])
        waiting = asyncio.create_task(anext(reader, None))
        await asyncio.sleep(0.01)
        await log.close()
        await log.close()
        async with asyncio.timeout(10):
            assert await waiting is None
        with pytest.raises(PlaneError) as caught:
            await publish(log, "a")
        assert caught.value.code is Code.UNAVAILABLE

    async def test_durable_and_ephemeral_events_are_in_one_order(self, log: EventLog) -> None:
        reader = log.read(["**"], after=Start.EARLIEST)
        ids = await asyncio.gather(
            *(publish(log, f"a/{number}", durable=number % 3 == 0) for number in range(200))
        )
        for read in (reader, log.read(["**"], after=Start.EARLIEST)):
            events = await take(read, 200)
            assert [event.id for event in events] == sorted(ids)
        resumed = await take(log.read(["**"], after=sorted(ids)[99]), 100)
        assert [event.id for event in resumed] == sorted(ids)[100:]

    async def test_reader_from_a_time(self, log: EventLog) -> None:
        await publish(log, "a/1", durable=True)
        await publish(log, "a/2")
        await asyncio.sleep(0.002)
        since = Since(time.time_ns())
        ids = [await publish(log, "a/3"), await publish(log, "a/4", durable=True)]
        assert [event.id for event in await take(log.read(["**"], after=since), 2)] == ids
        everything = await take(log.read(["**"], after=Since(0)), 4)
        assert [event.key for event in everything] == ["a/1", "a/2", "a/3", "a/4"]
        late = log.read(["**"], after=Since(time.time_ns() + 10**12))
        waiting = asyncio.create_task(take(late, 1))
        await asyncio.sleep(0.01)
        last = await publish(log, "a/5")
        assert [event.id for event in await waiting] == [last]

    async def test_a_publication_is_appended_once(self, log: EventLog) -> None:
        name = Publication("camera", 1)
        first = await publish(log, "a/1", durable=True, publication=name)
        again = await publish(log, "a/1", durable=True, publication=name)
        together = await asyncio.gather(
            *(
                publish(log, "a/2", durable=True, publication=Publication("camera", number // 2))
                for number in range(4, 8)
            )
        )
        other = await publish(log, "a/3", durable=True, publication=Publication("microphone", 1))
        assert first == again
        assert together[0] == together[1] < together[2] == together[3] < other
        events = await take(log.read(["**"], after=Start.EARLIEST), 4)
        assert [event.id for event in events] == [first, together[0], together[2], other]

    async def test_only_the_latest_of_each_key(self, log: EventLog) -> None:
        for number in range(30):
            await publish(log, f"a/{number % 3}", str(number), durable=number % 2 == 0)
        events = await take(log.read(["a/*"], after=Start.EARLIEST, latest=True), 3)
        assert [event.data for event in events] == [b"27", b"28", b"29"]

    async def test_an_id_from_the_future_is_a_gap(self, log: EventLog) -> None:
        first = await publish(log, "a/1", durable=True)
        asked = EventId(first.epoch, first.sequence + 7)
        reader = log.read(["**"], after=asked)
        async with asyncio.timeout(10):
            assert list(await anext(reader)) == [Gap(asked, first, first)]
        assert [event.id for event in await take(reader, 1)] == [first]

    async def test_bad_keys(self, log: EventLog) -> None:
        with pytest.raises(PlaneError) as caught:
            await publish(log, "a/*")
        assert caught.value.code is Code.INVALID_ARGUMENT
        with pytest.raises(PlaneError) as caught:
            log.read(["a//b"])
        assert caught.value.code is Code.INVALID_ARGUMENT

    async def test_stats_tell_what_is_kept(self, log: EventLog) -> None:
        empty = await log.stats()
        assert (empty.events, empty.oldest, empty.newest, list(empty.keys)) == (0, None, None, [])
        ids = [
            await publish(log, key, "text", durable=True) for key in ("b/1", "a", "b/1", "c/d/e")
        ]
        whole = await log.stats()
        assert whole.events == 4
        assert [(each.key, each.events) for each in whole.keys] == [
            ("a", 1),
            ("b/1", 2),
            ("c/d/e", 1),
        ]
        assert (whole.oldest, whole.newest) == (ids[0], ids[3])
        assert whole.oldest_ns is not None
        assert whole.newest_ns is not None
        assert 0 < whole.oldest_ns <= whole.newest_ns
        some = await log.stats(["b/*", "**/e"])
        assert (some.events, some.oldest, some.newest) == (3, ids[0], ids[3])
        assert (await log.stats(["**"], after=ids[1])).events == 2
        assert (await log.stats(["b/**"], after=ids[2])).events == 0
        with pytest.raises(PlaneError):
            await log.stats(["a//b"])

    async def test_purged_events_are_gone(self, log: EventLog) -> None:
        keys = ("b/1", "a", "b/1", "b/2", "a")
        ids = [await publish(log, key, durable=True) for key in keys]
        assert await log.purge(["b/*"], before=ids[3]) == 2
        assert (await log.stats()).events == 3
        found = await take(log.read(["**"], after=Start.EARLIEST), 3)
        assert [event.id for event in found] == [ids[1], ids[3], ids[4]]
        assert await log.purge(["**"], before=ids[0]) == 0
        assert await log.purge(["x/**/y"]) == 0
        assert await log.purge(["b/**", "c"]) == 1
        assert await log.purge(["**/a"]) == 2
        assert (await log.stats()).events == 0
        [later] = [await publish(log, "a", durable=True)]
        assert later > ids[4]
        [event] = await take(log.read(["a"], after=Start.EARLIEST), 1)
        assert event.id == later

    async def test_events_are_purged_up_to_a_time(self, log: EventLog) -> None:
        first = await publish(log, "a", durable=True)
        [event] = await take(log.read(["a"], after=Start.EARLIEST), 1)
        while time.time_ns() <= event.time_ns:  # noqa: ASYNC110  # a clock has no event
            await asyncio.sleep(0.001)
        second = await publish(log, "a", durable=True)
        [event] = await take(log.read(["a"], after=first), 1)
        assert await log.purge(["a"], before=Since(event.time_ns)) == 1
        [event] = await take(log.read(["a"], after=Start.EARLIEST), 1)
        assert event.id == second
        assert await log.purge(["a"], before=Since(0)) == 0
