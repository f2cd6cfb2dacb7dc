"""The event log of the engine `nats:`, with a real server."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Sequence
from itertools import count
from pathlib import Path

import pytest
from tests.nats_server import NatsServer, nats_server, needs_nats_server
from tests.runtime.event_log_suite import EventLogSuite, publish, take

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.interface import (
    Event,
    EventId,
    EventLog,
    Gap,
    Publication,
    Start,
)

nats = pytest.importorskip("nats")

from protoplane_runtime.engines.nats.log import NatsLog  # noqa: E402  # nats-py is an extra

pytestmark = [needs_nats_server, pytest.mark.anyio]

_NUMBERS = count()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[NatsServer]:
    folder = tmp_path_factory.mktemp("nats")
    with nats_server(folder, jetstream=folder / "jetstream") as running:
        yield running


@pytest.fixture
def url(server: NatsServer) -> str:
    return f"{server.url}?stream=test{next(_NUMBERS)}"


@pytest.fixture
async def log(url: str) -> AsyncIterator[NatsLog]:
    async with opened(url) as log:
        yield log


@contextlib.asynccontextmanager
async def opened(url: str) -> AsyncGenerator[NatsLog]:
    log = await NatsLog.open(url)
    try:
        yield log
    finally:
        await log.close()


async def gap_of(reader: AsyncIterator[Sequence[Event | Gap]]) -> Gap:
    async with asyncio.timeout(10):
        [gap] = await anext(reader)
    assert isinstance(gap, Gap)
    return gap


async def durable_events(
    reader: AsyncIterator[Sequence[Event | Gap]], upto: EventId, gaps: list[Gap] | None = None
) -> list[Event]:
    """The durable events up to one; ephemeral ones may have been missed."""
    events: list[Event] = []
    async with asyncio.timeout(60):
        while not events or events[-1].id < upto:
            for each in await anext(reader):
                if isinstance(each, Gap):
                    assert each.ephemeral
                    if gaps is not None:
                        gaps.append(each)
                else:
                    events.append(each)
    return events


class TestNatsLog(EventLogSuite):
    @pytest.fixture
    async def log(self, url: str) -> AsyncIterator[EventLog]:
        async with opened(url) as log:
            yield log

    # Nobody keeps what passes over plain NATS, so one who comes back is told that it may have
    # missed ephemeral events of others, unless its process read all the time.

    async def test_reader_resumes_after_an_id(self, log: EventLog) -> None:
        ids = [await publish(log, f"a/{number}", durable=True) for number in range(10)]
        reader = log.read(["**"], after=ids[6])
        assert await gap_of(reader) == Gap(ids[6], ids[0], ids[7], ephemeral=True)
        assert [event.id for event in await take(reader, 3)] == ids[7:]
        again = log.read(["**"], after=ids[9])
        last = await publish(log, "a/10", durable=True)
        assert [event.id for event in await take(again, 1)] == [last]

    async def test_durable_and_ephemeral_events_are_in_one_order(self, log: EventLog) -> None:
        reader = log.read(["**"], after=Start.EARLIEST)
        ids = await asyncio.gather(
            *(publish(log, f"a/{number}", durable=number % 3 == 0) for number in range(200))
        )
        for read in (reader, log.read(["**"], after=Start.EARLIEST)):
            events = await take(read, 200)
            assert [event.id for event in events] == sorted(ids)
        resuming = log.read(["**"], after=sorted(ids)[99])
        assert (await gap_of(resuming)).ephemeral
        resumed = await take(resuming, 100)
        assert [event.id for event in resumed] == sorted(ids)[100:]

    async def test_an_id_from_the_future_is_a_gap(self, log: EventLog) -> None:
        first = await publish(log, "a/1", durable=True)
        asked = EventId(first.epoch, first.sequence + (7 << 32))
        reader = log.read(["**"], after=asked)
        assert await gap_of(reader) == Gap(asked, first, first)
        assert [event.id for event in await take(reader, 1)] == [first]


async def test_two_processes_see_the_same(url: str) -> None:
    async with opened(url) as one, opened(url) as other:
        readers = [log.read(["a/**"]) for log in (one, other)]
        tasks = [asyncio.create_task(take(reader, 40)) for reader in readers]
        probes = [log.read(["b"]) for log in (one, other)]
        for log, probe in zip((one, other), probes, strict=True):
            await publish(log, "b", durable=True)
            await anext(probe)
        await asyncio.sleep(0.2)
        for number in range(20):
            await publish(one, f"a/{number}", durable=True)
            await publish(other, f"a/x/{number}", "€", durable=True)
        seen = [await task for task in tasks]
        assert seen[0] == seen[1]
        assert [event.id for event in seen[0]] == sorted(event.id for event in seen[0])


async def test_ephemeral_events_reach_other_processes(url: str) -> None:
    async with opened(url) as one, opened(url) as other:
        reader = other.read(["a/*", "**/z"])
        mark = await publish(other, "a/0", durable=True)
        assert [event.id for event in await take(reader, 1)] == [mark]
        for key in ("b/1", "a/1", "a/z", "a.b/c d/%/>/z", "ä/z"):
            await publish(one, key, "text")
        events = await take(reader, 4)
        assert [event.key for event in events] == ["a/1", "a/z", "a.b/c d/%/>/z", "ä/z"]
        assert {(event.type, event.data, event.json) for event in events} == {
            ("test.v1.Text", b"text", '"text"')
        }
        ids = [event.id for event in events]
        assert ids == sorted(ids)
        assert ids[0] > mark
        # A durable event comes after all of them.
        last = await publish(one, "a/2", durable=True)
        assert [event.id for event in await take(reader, 1)] == [last]
        assert last > ids[-1]


async def test_ids_rise_whatever_comes_from_where(url: str) -> None:
    async with opened(url) as one, opened(url) as other:
        reader = one.read(["a/**"], after=Start.EARLIEST)
        await publish(one, "a/begun", durable=True)
        await take(reader, 1)

        async def publisher(log: NatsLog, name: str) -> None:
            for number in range(200):
                await publish(log, f"a/{name}/{number}", durable=number % 2 == 0)
                if number % 10 == 0:
                    await publish(log, "b", durable=True)

        writing = asyncio.gather(publisher(one, "one"), publisher(other, "other"))
        events = await take(reader, 400)
        await writing
        ids = [event.id for event in events]
        assert ids == sorted(set(ids))
        for name in ("one", "other"):
            keys = [event.key for event in events if event.key.startswith(f"a/{name}/")]
            assert sorted(keys, key=lambda key: int(key.rpartition("/")[2])) == [
                f"a/{name}/{number}" for number in range(200)
            ]
            for parity in (0, 1):
                ours = [key for key in keys if int(key.rpartition("/")[2]) % 2 == parity]
                assert ours == [f"a/{name}/{number}" for number in range(parity, 200, 2)]


async def test_a_reader_that_reads_along_resumes_without_a_gap(log: NatsLog) -> None:
    reader = log.read(["**"])
    mark = await publish(log, "a/0", durable=True)
    await take(reader, 1)
    ids = [await publish(log, f"a/{number}", durable=number % 2 == 0) for number in range(10)]
    resumed = log.read(["**"], after=mark)
    assert [event.id for event in await take(resumed, 10)] == ids
    resumed = log.read(["**"], after=ids[4])
    assert [event.id for event in await take(resumed, 5)] == ids[5:]


async def test_history_of_many_chunks_joins_what_comes(log: NatsLog) -> None:
    published = asyncio.gather(*(publish(log, f"a/{n % 7}", durable=True) for n in range(5000)))
    reader = log.read(["a/3", "a/5"], after=Start.EARLIEST)
    await published
    more = asyncio.gather(*(publish(log, f"a/{n % 7}", durable=True) for n in range(5000)))
    expected = sum(n % 7 in (3, 5) for n in range(5000)) * 2
    events = await take(reader, expected)
    await more
    ids = [event.id for event in events]
    assert ids == sorted(set(ids))
    assert {event.key for event in events} == {"a/3", "a/5"}


async def test_history_of_a_key_that_is_long_gone(log: NatsLog) -> None:
    first = await publish(log, "a", durable=True)
    for _ in range(50):
        await publish(log, "b", durable=True)
    reader = log.read(["a"], after=Start.EARLIEST)
    assert [event.id for event in await take(reader, 1)] == [first]
    last = await publish(log, "a", durable=True)
    assert [event.id for event in await take(reader, 1)] == [last]


async def test_a_slow_reader_falls_back_to_the_stream(
    log: NatsLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("protoplane_runtime.engines.tail.MAX_EVENTS", 50)
    slow = log.read(["a/*"])
    before = await publish(log, "a/0", durable=True)
    assert [event.id for event in await take(slow, 1)] == [before]
    ids = [await publish(log, f"a/{number}", durable=True) for number in range(500)]
    assert [event.id for event in await take(slow, 500)] == ids
    await publish(log, "a/x")
    more = [await publish(log, f"a/{number}", durable=True) for number in range(500)]
    gaps: list[Gap] = []
    events = await durable_events(slow, more[-1], gaps)
    assert [event.id for event in events if event.key != "a/x"] == more
    assert [gap.ephemeral for gap in gaps] == [True]


async def test_past_retention_is_a_gap(url: str) -> None:
    async with opened(f"{url}&max_events=10") as log:
        ids = [await publish(log, f"a/{number}", durable=True) for number in range(30)]
        reader = log.read(["**"], after=ids[4])
        assert await gap_of(reader) == Gap(ids[4], ids[20], ids[20])
        assert [event.id for event in await take(reader, 10)] == ids[20:]
        earliest = log.read(["**"], after=Start.EARLIEST)
        assert [event.id for event in await take(earliest, 10)] == ids[20:]


async def test_retention_overtakes_a_slow_reader(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("protoplane_runtime.engines.tail.MAX_EVENTS", 10)
    async with opened(f"{url}&max_events=100") as log:
        slow = log.read(["**"])
        first = await publish(log, "a", durable=True)
        await take(slow, 1)
        ids = [await publish(log, "a", durable=True) for _ in range(300)]
        reader = log.read(["**"], after=ids[-2])
        await take(reader, 1)
        gap = await gap_of(slow)
        assert gap == Gap(first, ids[200], ids[200])
        assert [event.id for event in await take(slow, 100)] == ids[200:]


async def test_settings_reach_the_stream(url: str) -> None:
    async with opened(f"{url}&max_age_s=60&max_bytes=100000"):
        pass
    async with opened(url) as log:
        await publish(log, "a", durable=True)
    async with opened(f"{url}&max_bytes=0") as log:
        events = await take(log.read(["**"], after=Start.EARLIEST), 1)
        assert [event.key for event in events] == ["a"]
    with pytest.raises(PlaneError) as caught:
        await NatsLog.open(f"{url}&replicas=3")
    assert caught.value.code in (Code.FAILED_PRECONDITION, Code.RESOURCE_EXHAUSTED)


async def test_publications_are_known_in_another_process(url: str) -> None:
    name = Publication("camera\r\n 1", 7)
    async with opened(url) as log:
        first = await publish(log, "a", durable=True, publication=name)
    async with opened(url) as log:
        assert await publish(log, "a", durable=True, publication=name) == first
        assert log.last == first


async def test_too_large_an_event(log: NatsLog) -> None:
    for durable in (True, False):
        with pytest.raises(PlaneError) as caught:
            await log.publish("a", "t", bytes(1024 * 1024), "{}", durable=durable)
        assert caught.value.code is Code.RESOURCE_EXHAUSTED
    with pytest.raises(PlaneError) as caught:
        await publish(log, ">" * 1000)
    assert caught.value.code is Code.INVALID_ARGUMENT
    await publish(log, "a" * 1024, durable=True)


async def test_large_events_in_history(log: NatsLog) -> None:
    for number in range(40):
        await log.publish(f"a/{number}", "t", bytes(1_000_000), "{}", durable=True)
    events = await take(log.read(["a/*"], after=Start.EARLIEST), 40)
    assert [event.key for event in events] == [f"a/{number}" for number in range(40)]


async def test_cancelled_publication(log: NatsLog) -> None:
    task = asyncio.create_task(publish(log, "a", durable=True))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    await publish(log, "a", durable=True)


async def test_readers_give_back_their_consumers(url: str) -> None:
    stream = url.rpartition("=")[2]
    async with await nats.connect(url.partition("?")[0]) as client:
        jetstream = client.jetstream()

        async def consumers(count: int) -> None:
            async with asyncio.timeout(10):
                found = -1
                while found != count:
                    await asyncio.sleep(0.02)
                    found = (await jetstream.stream_info(stream)).state.consumer_count

        async with opened(url) as log:
            for number in range(3000):
                await publish(log, f"a/{number}", durable=True)
            readers = [log.read(["**"], after=Start.EARLIEST) for _ in range(3)]
            for reader in readers:
                await anext(reader)
            await consumers(4)
            for reader in readers[:2]:
                await reader.aclose()  # type: ignore[attr-defined]
            waiting = asyncio.create_task(durable_events(readers[2], log.last))
            assert len(await waiting) < 3000
            # What is left follows what comes, for all.
            await consumers(1)
        await consumers(0)


async def test_nobody_there() -> None:
    with pytest.raises(PlaneError) as caught:
        await NatsLog.open("nats://127.0.0.1:1")
    assert caught.value.code is Code.UNAVAILABLE


async def test_a_server_without_jetstream(tmp_path: Path) -> None:
    with nats_server(tmp_path) as plain:
        async with asyncio.timeout(20):
            with pytest.raises(PlaneError) as caught:
                await NatsLog.open(plain.url)
    assert caught.value.code is Code.UNAVAILABLE
    assert "--jetstream" in caught.value.message
