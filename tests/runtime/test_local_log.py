"""The local engine keeps the suite of event logs, its promises to the disk, and its bounds."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest
from tests.runtime.event_log_suite import EventLogSuite, publish, take

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.interface import Event, EventId, EventLog, Gap, Publication, Start
from protoplane_runtime.engines.local import frames
from protoplane_runtime.engines.local.log import MAX_EVENT_BYTES, LocalLog
from protoplane_runtime.engines.local.retention import Retention
from protoplane_runtime.engines.local.ring import Ring, Word
from protoplane_runtime.engines.local.store import Appender

pytestmark = pytest.mark.anyio


class TestLocalLog(EventLogSuite):
    @pytest.fixture
    async def log(self, tmp_path: Path) -> AsyncIterator[EventLog]:
        log = await LocalLog.open(tmp_path)
        yield log
        await log.close()


async def batch(reader: AsyncIterator[Sequence[Event | Gap]]) -> list[Event | Gap]:
    async with asyncio.timeout(10):
        return list(await anext(reader))


async def test_two_logs_of_one_folder_are_one(tmp_path: Path) -> None:
    one, other = await LocalLog.open(tmp_path), await LocalLog.open(tmp_path)
    readers = [one.read(["**"]), other.read(["**"])]
    taking = [asyncio.create_task(take(reader, 400)) for reader in readers]
    await asyncio.sleep(0)
    ids = await asyncio.gather(
        *(publish(log, f"a/{n}", durable=n % 2 == 0) for n in range(200) for log in (one, other))
    )
    for task in taking:
        assert [event.id for event in await task] == sorted(ids)
    assert one.last == other.last == max(ids)
    name = Publication("p", 1)
    first = await publish(one, "a", durable=True, publication=name)
    assert await publish(other, "a", durable=True, publication=name) == first
    await one.close()
    await other.close()
    assert not list((tmp_path / "bells").iterdir())


async def test_a_log_goes_on_where_it_was(tmp_path: Path) -> None:
    # The loop of synchronous planes has a thread for as long as the process lives.
    before = set(threading.enumerate())
    log = await LocalLog.open(tmp_path)
    ids = [await publish(log, f"a/{n}", durable=True) for n in range(5)]
    await log.close()
    log = await LocalLog.open(tmp_path)
    assert log.last == ids[-1]
    reader = log.read(["**"], after=ids[1])
    assert [event.id for event in await take(reader, 3)] == ids[2:]
    last = await publish(log, "a/5")
    assert last > ids[-1]
    assert [event.id for event in await take(reader, 1)] == [last]
    await log.close()
    started = set(threading.enumerate()) - before
    assert not [thread for thread in started if thread.name.startswith("protoplane")]


async def test_ephemeral_ids_are_not_used_again(tmp_path: Path) -> None:
    log = await LocalLog.open(tmp_path)
    await publish(log, "a", durable=True)
    gone = await publish(log, "a")
    await log.close()
    (tmp_path / "events.ring").unlink()
    log = await LocalLog.open(tmp_path)
    reader = log.read(["**"], after=gone)
    event_id = await publish(log, "a", durable=True)
    assert event_id > gone
    found = [item for _ in range(2) for item in await batch(reader)]
    assert isinstance(found[0], Gap)
    assert found[0].ephemeral
    assert isinstance(found[1], Event)
    assert found[1].id == event_id == found[0].next
    await log.close()


async def test_a_lost_folder_is_another_epoch(tmp_path: Path) -> None:
    folder = tmp_path / "engine"
    log = await LocalLog.open(folder)
    old = await publish(log, "a", durable=True)
    shutil.rmtree(folder)
    with pytest.raises(PlaneError, match="removed or replaced") as caught:
        await publish(log, "a", durable=True)
    assert caught.value.code is Code.UNAVAILABLE
    await log.close()
    log = await LocalLog.open(folder)
    new = await publish(log, "a", durable=True)
    assert new.epoch > old.epoch
    assert await batch(log.read(["**"], after=old)) == [Gap(old, new, new)]
    await log.close()


async def test_a_late_reader_misses_nothing_that_is_durable(tmp_path: Path) -> None:
    log = await LocalLog.open(tmp_path, ring_bytes=64 * 1024)
    other = await LocalLog.open(tmp_path)
    first = await publish(other, "a/first")
    durable: list[EventId] = []
    for number in range(40):
        durable.append(await publish(other, "a/kept", str(number), durable=True))
        await publish(other, "a/lost", "x" * 4000)
    late = log.read(["a/kept"], after=first)
    found: list[Event | Gap] = []
    while not any(isinstance(each, Event) and each.id == durable[-1] for each in found):
        found += await batch(late)
    gap, *events = found
    assert isinstance(gap, Gap)
    assert (gap.asked, gap.next, gap.ephemeral) == (first, durable[0], True)
    assert [event.id for event in events if isinstance(event, Event)] == durable
    await other.close()
    await log.close()


@pytest.mark.parametrize("durable", [True, False])
async def test_an_event_larger_than_the_ring(tmp_path: Path, durable: bool) -> None:
    log = await LocalLog.open(tmp_path, ring_bytes=64 * 1024)
    other = await LocalLog.open(tmp_path)
    readers = [log.read(["a"]), other.read(["a"])]
    waiting = [asyncio.create_task(batch(reader)) for reader in readers]
    await asyncio.sleep(0.01)
    text = "x" * 100_000
    event_id = await publish(log, "a", text, durable=durable)
    [own], [foreign] = [await each for each in waiting]
    assert isinstance(own, Event)
    assert own.json == f'"{text}"'
    if durable:
        assert foreign == own
    else:
        assert isinstance(foreign, Gap)
        assert foreign.ephemeral
        assert foreign.next > event_id
    await log.close()
    await other.close()


async def test_readers_at_the_same_place_share_a_batch(tmp_path: Path) -> None:
    log = await LocalLog.open(tmp_path)
    live = [asyncio.ensure_future(anext(log.read(["a/*"]))) for _ in range(100)]
    await asyncio.sleep(0)
    await asyncio.gather(*(publish(log, f"a/{n}", durable=True) for n in range(10)))
    late = [
        asyncio.ensure_future(anext(log.read(["a/*"], after=Start.EARLIEST))) for _ in range(99)
    ]
    for waiting in (live, late):
        batches = await asyncio.gather(*waiting)
        assert len(batches[0]) == 10
        assert all(each is batches[0] for each in batches)
    await log.close()


def test_a_damaged_frame_is_noticed() -> None:
    event = Event(EventId(1, 5), "a", "t", b"data", "{}", 7)
    frame = frames.encode([event], 5)
    [whole] = frames.whole(frame + frame[:-1])
    assert frames.decode(whole, 1) == [event]
    for at in range(len(frame)):
        damaged = bytearray(frame)
        damaged[at] ^= 0xFF
        try:
            found = list(frames.whole(bytes(damaged)))
        except ValueError:
            continue
        assert not found


@pytest.mark.parametrize("durable", [True, False])
async def test_overtaken_by_another_process(tmp_path: Path, durable: bool) -> None:
    log = await LocalLog.open(tmp_path, ring_bytes=64 * 1024)
    reader = log.read(["**"])
    first = await publish(log, "a")
    assert len(await take(reader, 1)) == 1
    waiting = asyncio.create_task(batch(reader))
    await asyncio.sleep(0.01)
    command = [sys.executable, "-m", "tests.runtime.local_worker", "publish"]
    # The event loop stands still meanwhile, so nothing is read in time.
    subprocess.run(  # noqa: ASYNC221
        [*command, str(tmp_path), "b", "3000", str(int(durable))],
        check=True,
        cwd=Path(__file__).parents[2],
        stdout=subprocess.DEVNULL,
    )
    found = await waiting
    while len(found) < 3000 and durable:
        found += await batch(reader)
    if durable:
        assert len({each.key for each in found if isinstance(each, Event)}) == 3000
    else:
        assert isinstance(found[0], Gap)
        assert found[0].asked == first
        assert found[0].ephemeral
        last = await publish(log, "c")
        while not (isinstance(found[-1], Event) and found[-1].id == last):
            found += await batch(reader)
        assert all(isinstance(each, Event) for each in found[1:])
    await log.close()


async def test_a_writer_killed_between_disk_and_ring(tmp_path: Path) -> None:
    log = await LocalLog.open(tmp_path)
    reader = log.read(["**"])
    first = await publish(log, "a", durable=True)
    assert len(await take(reader, 1)) == 1
    # What such a process leaves: a committed event, and a ring that knows nothing of it.
    ring, appender = Ring(tmp_path / "events.ring"), Appender(tmp_path / "events.db")
    committed = EventId(first.epoch, first.sequence + 1)
    with ring.turn():
        ring[Word.DIRTY] = 1
        appender.append([Event(committed, "b", "test.v1.Text", b"", '""', 1)], [None])
    appender.close()
    ring.close()
    last = await publish(log, "c", durable=True)
    found: list[Event | Gap] = []
    while len(found) < 2:
        found += await batch(reader)
    assert [each.id for each in found if isinstance(each, Event)] == [committed, last]
    await log.close()


async def test_a_folder_with_a_long_path(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 30)
    log, other = await LocalLog.open(folder), await LocalLog.open(folder)
    waiting = asyncio.create_task(take(log.read(["**"]), 1))
    await asyncio.sleep(0.01)
    event_id = await publish(other, "a")
    assert [event.id for event in await waiting] == [event_id]
    await log.close()
    await other.close()


async def test_large_and_odd_events(tmp_path: Path) -> None:
    log = await LocalLog.open(tmp_path)
    with pytest.raises(PlaneError) as caught:
        await publish(log, "a", "x" * MAX_EVENT_BYTES)
    assert caught.value.code is Code.RESOURCE_EXHAUSTED
    with pytest.raises(PlaneError) as caught:
        await log.publish("a", "t", b"", '"\ud800"')
    assert caught.value.code is Code.INVALID_ARGUMENT
    with pytest.raises(PlaneError) as caught:
        await log.publish("a", "t" * 2000, b"", "1")
    assert caught.value.code is Code.INVALID_ARGUMENT
    odd = [("a", b"\0\xff", '"\0ü€😀"'), ("ключ/😀", b"", "")]
    for key, data, json in odd:
        await log.publish(key, "тип", data, json, durable=True)
    await log.close()
    log = await LocalLog.open(tmp_path)
    for _ in range(2):  # From the ring, then from the disk.
        events = await take(log.read(["**"], after=Start.EARLIEST), 2)
        assert [(event.key, event.data, event.json) for event in events] == odd
        assert {event.type for event in events} == {"тип"}
        await log.close()
        (tmp_path / "events.ring").unlink()
        log = await LocalLog.open(tmp_path)
    await log.close()


async def test_many_keys(tmp_path: Path) -> None:
    log = await LocalLog.open(tmp_path, retention=[Retention(max_events=100)])
    for start in range(0, 12_000, 1000):
        await asyncio.gather(
            *(publish(log, f"a/{n}", durable=True) for n in range(start, start + 1000))
        )
        await log.enforce_retention()
    other = await LocalLog.open(tmp_path)
    ids = [await publish(each, "a/0", durable=True) for each in (log, other, log)]
    with closing(sqlite3.connect(tmp_path / "events.db")) as database:
        assert database.execute("SELECT count(*) FROM key").fetchone()[0] < 10_000
    # Else what is deleted while they are read is a gap.
    await log.enforce_retention()
    events = await take(log.read(["a/0"], after=Start.EARLIEST), 3)
    assert [event.id for event in events] == ids
    await other.close()
    await log.close()


async def test_many_publishers(tmp_path: Path) -> None:
    log = await LocalLog.open(tmp_path, retention=[Retention(max_events=100)])
    other = await LocalLog.open(tmp_path)
    first = await publish(other, "a", durable=True, publication=Publication("p0", 1))
    for start in range(0, 10_000, 1000):
        numbers = range(start, start + 1000)
        await asyncio.gather(
            *(publish(log, "a", durable=True, publication=Publication(f"p{n}", 2)) for n in numbers)
        )
        await log.enforce_retention()
    with closing(sqlite3.connect(tmp_path / "events.db")) as database:
        assert database.execute("SELECT count(*) FROM publisher").fetchone()[0] < 5000
    # One whose events are gone publishes as any other, from each process.
    for each, number in ((other, 1), (log, 2), (other, 3)):
        name = Publication("p0", number)
        again = await publish(each, "a", durable=True, publication=name)
        assert again > first
        for either in (log, other):
            assert await publish(either, "a", durable=True, publication=name) == again
    await other.close()
    await log.close()


async def test_few_of_many_events_and_then_all(tmp_path: Path) -> None:
    log = await LocalLog.open(tmp_path, ring_bytes=64 * 1024)
    keys = [f"b/{n}" if n % 20 else "a/0" for n in range(4000)] + ["a/1"] * 3000
    ids = [
        each
        for start in range(0, len(keys), 1000)
        for each in await asyncio.gather(
            *(publish(log, key, durable=True) for key in keys[start : start + 1000])
        )
    ]
    by_key = list(zip(keys, ids, strict=True))
    for _ in range(2):
        for expression, wanted in (
            ("a/*", [each for key, each in by_key if key[0] == "a"]),
            ("a/0", [each for key, each in by_key if key == "a/0"]),
            ("b/**", [each for key, each in by_key if key[0] == "b"]),
        ):
            events = await take(log.read([expression], after=Start.EARLIEST), len(wanted))
            assert [event.id for event in events] == wanted
    await log.close()


async def test_a_log_that_had_too_many_keys_takes_no_new_ones(tmp_path: Path) -> None:
    log = await LocalLog.open(tmp_path)
    first = await publish(log, "a", durable=True)
    with closing(sqlite3.connect(tmp_path / "events.db")) as database:
        database.execute("UPDATE sqlite_sequence SET seq = ? WHERE name = 'key'", (1 << 40,))
        database.commit()
    with pytest.raises(PlaneError, match="new folder") as caught:
        await publish(log, "b", durable=True)
    assert caught.value.code is Code.RESOURCE_EXHAUSTED
    second = await publish(log, "a", durable=True)
    events = await take(log.read(["**"], after=Start.EARLIEST), 2)
    assert [event.id for event in events] == [first, second]
    await log.close()


async def test_cancelled_publishers_and_readers_leave_nothing(tmp_path: Path) -> None:
    log = await LocalLog.open(tmp_path)
    publishing = [asyncio.create_task(publish(log, "a", durable=True)) for _ in range(50)]
    reading = [
        asyncio.create_task(take(log.read(["b"], after=start), 1)) for start in Start for _ in "ab"
    ]
    await asyncio.sleep(0)
    for task in (*publishing, *reading):
        task.cancel()
    done: list[object] = [
        *await asyncio.gather(*publishing, return_exceptions=True),
        *await asyncio.gather(*reading, return_exceptions=True),
    ]
    assert all(isinstance(each, asyncio.CancelledError) for each in done)
    event_id = await publish(log, "b", durable=True)
    assert [event.id for event in await take(log.read(["b"], after=Start.EARLIEST), 1)] == [
        event_id
    ]
    await log.close()
    assert not list((tmp_path / "bells").iterdir())
