"""The engine zenoh: keeps the suite of event logs; its nodes tell each other of events."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from tests.runtime.event_log_suite import EventLogSuite, publish, take
from tests.runtime.zenoh_network import Network, Worker

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.interface import Event, EventLog, Gap, Publication, Start
from protoplane_runtime.engines.opening import open_engine
from protoplane_runtime.engines.zenoh.log import ZenohLog
from protoplane_runtime.engines.zenoh.session import Session
from protoplane_runtime.engines.zenoh.wire import decode

pytestmark = pytest.mark.anyio


@pytest.fixture
async def network(tmp_path: Path) -> AsyncIterator[Network]:
    async with Network(tmp_path) as network:
        yield network


@pytest.fixture
async def one(network: Network) -> AsyncIterator[ZenohLog]:
    log = await ZenohLog.open(network.hub)
    yield log
    await log.close()


@pytest.fixture
async def two(network: Network) -> AsyncIterator[ZenohLog]:
    log = await network.log("two")
    yield log
    await log.close()


class TestZenohLog(EventLogSuite):
    @pytest.fixture
    async def log(self, network: Network) -> AsyncIterator[EventLog]:
        log = await ZenohLog.open(network.hub)
        yield log
        await log.close()


def texts(events: Sequence[Event]) -> list[str]:
    return [event.data.decode() for event in events]


async def until(reader: AsyncIterator[Sequence[Event | Gap]], count: int) -> list[Event]:
    """The next events of a reader; more may come with the last of them."""
    events: list[Event] = []
    async with asyncio.timeout(60):
        while len(events) < count:
            for event in await anext(reader):
                assert isinstance(event, Event)
                events.append(event)
    return events


async def test_nodes_tell_each_other(one: ZenohLog, two: ZenohLog) -> None:
    readers = [log.read(["a/**"]) for log in (one, two)]
    for number in range(20):
        await publish(one, "a/1", f"one {number}", durable=number % 3 == 0)
        await publish(two, "a/2", f"two {number}", durable=number % 2 == 0)
        await publish(two, "b/2", "not asked for")
    for reader in readers:
        events = await take(reader, 40)
        for name, key in (("one", "a/1"), ("two", "a/2")):
            mine = [event for event in events if event.key == key]
            assert texts(mine) == [f"{name} {number}" for number in range(20)]


async def test_who_joins_late_gets_the_durable_ones(network: Network, one: ZenohLog) -> None:
    for number in range(3000):
        await publish(one, "a/1", str(number), durable=number % 100 == 0)
    await asyncio.gather(*(publish(one, "a/2", str(n), durable=True) for n in range(2500)))
    late = await network.log("late")
    events = await take(late.read(["**"], after=Start.EARLIEST), 2530)
    assert texts(events[:30]) == [str(number) for number in range(0, 3000, 100)]
    assert texts(events[30:]) == [str(number) for number in range(2500)]
    # To it they are nothing new.
    reader = late.read(["**"])
    await publish(one, "a/1", "new")
    assert texts(await take(reader, 1)) == ["new"]
    await late.close()


async def test_who_was_away_gets_what_it_missed(network: Network, one: ZenohLog) -> None:
    node = await network.log("node")
    reader = node.read(["a"])
    await publish(one, "a", "before", durable=True)
    [before] = await take(reader, 1)
    await node.close()
    for number in range(5):
        await publish(one, "a", f"missed {number}", durable=True)
    await publish(one, "a", "gone")
    node = await network.log("node")
    await publish(one, "a", "after", durable=True)
    events = await take(node.read(["a"], after=before.id), 6)
    assert texts(events) == [*(f"missed {number}" for number in range(5)), "after"]
    await node.close()


async def test_an_id_of_another_node_is_a_gap(one: ZenohLog, two: ZenohLog) -> None:
    reader = two.read(["a"])
    asked = await publish(one, "a", durable=True)
    [copy] = await take(reader, 1)
    async with asyncio.timeout(10):
        [first] = await anext(two.read(["a"], after=asked))
    assert isinstance(first, Gap)
    assert (first.asked, first.next) == (asked, copy.id)


async def test_a_publication_is_told_once(one: ZenohLog, two: ZenohLog) -> None:
    reader = two.read(["a"])
    name = Publication("camera", 1)
    first = await publish(one, "a", "first", durable=True, publication=name)
    assert await publish(one, "a", "again", durable=True, publication=name) == first
    await publish(one, "a", "second", durable=True)
    assert texts(await take(reader, 2)) == ["first", "second"]


async def test_what_a_message_missed_is_asked_for(
    one: ZenohLog, two: ZenohLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    send, lost = Session.send, [b"2", b"3", b"5"]

    def sometimes(session: Session, key: str, payload: bytes) -> None:
        if not any(decode(payload).data == each for each in lost):
            send(session, key, payload)

    monkeypatch.setattr(Session, "send", sometimes)
    reader = two.read(["a"])
    for number in range(1, 7):
        await publish(one, "a", str(number), durable=True)
    assert texts(await take(reader, 6)) == ["1", "2", "3", "4", "5", "6"]


async def test_who_publishes_may_go(one: ZenohLog, two: ZenohLog) -> None:
    reader = two.read(["a"])
    for turns in range(6):
        task = asyncio.create_task(publish(one, "a", str(turns), durable=True))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
    await publish(one, "a", "last", durable=True)
    here = one.read(["a"], after=Start.EARLIEST)
    expected: list[str] = []
    while "last" not in expected:
        expected += texts(await until(here, 1))
    assert texts(await take(reader, len(expected))) == expected


@pytest.mark.parametrize("key", ["@a/@b", "a/@", "ü/ä ö", "a/%40b"])
async def test_keys_that_are_special_to_zenoh(one: ZenohLog, two: ZenohLog, key: str) -> None:
    reader = two.read([key])
    await publish(one, key, "it")
    [event] = await take(reader, 1)
    assert event.key == key


async def test_a_burst_is_not_lost(network: Network, one: ZenohLog) -> None:
    reader = one.read(["a"])
    async with Worker("publish", network.url_of("burst"), "a", "10000", "0") as worker:
        assert await worker.said() == "ready"
        worker.tell()
        events = await until(reader, 10_000)
        assert [event.json for event in events] == [f'"{n}"' for n in range(10_000)]


async def test_a_publisher_that_is_killed_comes_back(network: Network, one: ZenohLog) -> None:
    reader = one.read(["a"])
    arguments = ("publish", network.url_of("killed"), "a", "1000000", "1")
    acknowledged = 0
    async with Worker(*arguments) as worker:
        assert await worker.said() == "ready"
        worker.tell()
        while acknowledged < 1500:
            acknowledged = int(await worker.said())
        worker.process.send_signal(signal.SIGKILL)
        while said := await worker.said():
            acknowledged = int(said)
    async with Worker(*arguments[:3], "1", "1") as worker:
        assert await worker.said() == "ready"
        worker.tell()
        assert await worker.said() == "1"
        got: list[int] = []
        while not got or got[-1] != 0 or len(got) == 1:
            got += [int(event.json.strip('"')) for event in await until(reader, 1)]
    # The last is what it published when it was back.
    assert got[:-1] == list(range(len(got) - 1))
    assert len(got) - 1 >= acknowledged


async def test_what_was_purged_does_not_come_back(network: Network, one: ZenohLog) -> None:
    node = await network.log("node")
    reader = node.read(["a"])
    for number in range(3):
        await publish(one, "a", str(number), durable=True)
    await take(reader, 3)
    assert (await node.stats()).events == 3
    assert await node.purge(["a"]) == 3
    await node.close()
    node = await network.log("node")
    reader = node.read(["a"])
    await publish(one, "a", "new", durable=True)
    assert texts(await take(reader, 1)) == ["new"]
    assert (await node.stats()).events == 1
    assert (await one.stats()).events == 4
    await node.close()


async def test_a_process_that_closes_nothing_ends(network: Network) -> None:
    async with Worker("leave", network.url_of("left")) as worker:
        assert await worker.said() == "ready"
        async with asyncio.timeout(30):
            assert await worker.process.wait() == 0


async def test_a_folder_has_one_node(network: Network, two: ZenohLog) -> None:
    with pytest.raises(PlaneError) as caught:
        await network.log("two")
    assert caught.value.code is Code.FAILED_PRECONDITION


async def test_nodes_without_a_folder(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    first = await open_engine(network.url)
    await publish(first.events, "a", "kept", durable=True)
    second = await open_engine(network.url)
    folders = sorted(path.name for path in (tmp_path / "state/protoplane/zenoh/default").iterdir())
    assert folders == ["0", "1"]
    await second.close()
    last = first.events.last
    await first.close()
    again = await open_engine(network.url)
    assert again.events.last == last
    await again.close()
