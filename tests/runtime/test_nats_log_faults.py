"""The event log of the engine `nats:` while servers hang, restart or lose what they had."""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Sequence
from pathlib import Path

import pytest
from tests.nats_server import NatsServers, cluster_url, needs_nats_server
from tests.runtime.event_log_suite import publish, take

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.interface import Event, EventId, Gap, Publication, Start

pytest.importorskip("nats")

from protoplane_runtime.engines.nats.log import NatsLog

pytestmark = [needs_nats_server, pytest.mark.anyio]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def servers(tmp_path: Path) -> Generator[NatsServers]:
    with NatsServers(tmp_path) as servers:
        yield servers


@contextlib.asynccontextmanager
async def opened(url: str) -> AsyncGenerator[NatsLog]:
    log = await NatsLog.open(url)
    try:
        yield log
    finally:
        await log.close()


async def until_published(log: NatsLog, key: str, text: str, name: Publication) -> EventId:
    while True:
        try:
            return await publish(log, key, text, durable=True, publication=name)
        except PlaneError as error:
            if error.code is not Code.UNAVAILABLE:
                raise
        await asyncio.sleep(0.05)


async def collect(
    reader: AsyncIterator[Sequence[Event | Gap]], wanted: set[EventId], timeout_s: float = 60
) -> list[Event]:
    """Durable events until all that are wanted have come; ephemeral ones may be missed."""
    events: list[Event] = []
    missing = set(wanted)
    async with asyncio.timeout(timeout_s):
        while missing:
            for each in await anext(reader):
                if isinstance(each, Gap):
                    assert each.ephemeral
                else:
                    events.append(each)
                    missing.discard(each.id)
    return events


async def test_a_server_that_starts_again(servers: NatsServers) -> None:
    server = servers.start()
    async with opened(f"{server.url}?publish_timeout_s=20") as log:
        reader = log.read(["**"])
        ids = [await publish(log, "a", durable=True)]
        assert [event.id for event in await take(reader, 1)] == ids
        server.kill()
        await asyncio.sleep(0.2)
        with pytest.raises(PlaneError) as caught:
            await publish(log, "b")
        assert caught.value.code is Code.UNAVAILABLE
        waiting = asyncio.create_task(publish(log, "a", durable=True))
        await asyncio.sleep(0.5)
        assert not waiting.done()
        servers.start(server.port)
        async with asyncio.timeout(20):
            ids.append(await waiting)
        ids += [await publish(log, "a", durable=True) for _ in range(10)]
        events = await collect(reader, set(ids[1:]))
        assert [event.id for event in events] == ids[1:]
        again = log.read(["**"], after=Start.EARLIEST)
        assert [event.id for event in await take(again, 12)] == ids


async def test_a_server_that_is_away_too_long(servers: NatsServers) -> None:
    server = servers.start()
    async with opened(f"{server.url}?publish_timeout_s=0.5") as log:
        server.kill()
        for _ in range(2):
            async with asyncio.timeout(10):
                with pytest.raises(PlaneError) as caught:
                    await publish(log, "a", durable=True)
            assert caught.value.code is Code.UNAVAILABLE


async def test_a_server_that_hangs(servers: NatsServers) -> None:
    server = servers.start()
    async with opened(f"{server.url}?publish_timeout_s=1") as log:
        reader = log.read(["**"])
        first = await publish(log, "a", durable=True)
        await take(reader, 1)
        server.pause()
        # Its threads stop one by one.
        await asyncio.sleep(0.2)
        async with asyncio.timeout(10):
            with pytest.raises(PlaneError) as caught:
                await publish(log, "a", "lost?", durable=True)
        assert caught.value.code is Code.UNAVAILABLE
        await asyncio.sleep(4)
        server.resume()
        last = await until_published(log, "a", "last", Publication("p", 1))
        events = await collect(reader, {last})
        assert events[-1].id == last
        assert all(first < event.id <= last for event in events)


async def test_closing_while_the_server_is_away(servers: NatsServers) -> None:
    server = servers.start()
    before = asyncio.all_tasks()
    log = await NatsLog.open(server.url)
    reader = log.read(["**"], after=Start.EARLIEST)
    await publish(log, "a", durable=True)
    await take(reader, 1)
    server.kill()
    waiting = asyncio.create_task(anext(reader, None))
    publishing = asyncio.create_task(publish(log, "a", durable=True))
    starting = asyncio.create_task(anext(log.read(["b"]), None))
    await asyncio.sleep(0.2)
    async with asyncio.timeout(10):
        await log.close()
        assert await waiting is None
        assert await starting is None
        with pytest.raises(PlaneError) as caught:
            await publishing
    assert caught.value.code is Code.UNAVAILABLE
    await asyncio.sleep(0.1)
    assert asyncio.all_tasks() <= before


async def test_a_lost_stream_is_a_new_epoch(servers: NatsServers) -> None:
    server = servers.start()
    async with opened(server.url) as log:
        reader = log.read(["**"])
        ids = [await publish(log, "a", durable=True) for _ in range(5)]
        assert [event.id for event in await take(reader, 5)] == ids
        server.kill()
        shutil.rmtree(servers.folder / "one")
        servers.start(server.port)
        fresh = await until_published(log, "b", "", Publication("p", 1))
        assert fresh.epoch > ids[-1].epoch
        async with asyncio.timeout(20):
            gaps: list[Gap] = []
            events: list[Event] = []
            while not events:
                for each in await anext(reader):
                    (gaps if isinstance(each, Gap) else events).append(each)  # type: ignore[arg-type]
        assert [event.id for event in events] == [fresh]
        assert gaps[-1] == Gap(ids[-1], fresh, fresh)


async def test_a_lost_stream_without_readers(servers: NatsServers) -> None:
    server = servers.start()
    async with opened(server.url) as log:
        before = [await publish(log, "a", durable=True) for _ in range(3)]
        server.kill()
        shutil.rmtree(servers.folder / "one")
        servers.start(server.port)
        fresh = await until_published(log, "b", "", Publication("p", 1))
        assert fresh.epoch > before[-1].epoch
        assert log.last == fresh


async def test_one_of_three_is_killed(servers: NatsServers) -> None:
    cluster = servers.cluster()
    url = cluster_url(cluster, "replicas=3&publish_timeout_s=10")
    async with opened(url) as one, opened(url) as other:
        reader = other.read(["a/**"], after=Start.EARLIEST)
        acknowledged: dict[int, list[EventId]] = {}
        stop = False

        async def publisher(name: int) -> None:
            ids = acknowledged[name] = []
            number = 0
            while not stop:
                number += 1
                found = await until_published(
                    one, f"a/{name}", str(number), Publication(f"p{name}", number)
                )
                ids.append(found)

        tasks = [asyncio.create_task(publisher(name)) for name in range(8)]
        await asyncio.sleep(1)
        victim = random.choice(cluster)
        victim.kill()
        await asyncio.sleep(4)
        stop = True
        async with asyncio.timeout(60):
            await asyncio.gather(*tasks)
        everything = {each for ids in acknowledged.values() for each in ids}
        assert len(everything) == sum(len(ids) for ids in acknowledged.values())
        events = await collect(reader, everything)
        ids = [event.id for event in events]
        assert ids == sorted(set(ids))
        assert set(ids) == everything
        for name in range(8):
            texts = [event.data for event in events if event.key == f"a/{name}"]
            assert texts == [str(number).encode() for number in range(1, len(texts) + 1)]
