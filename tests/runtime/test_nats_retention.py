"""Rules of retention for single prefixes in the engine `nats:`, with a real server."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Sequence
from itertools import count
from typing import Self

import pytest
from tests.nats_server import NatsServer, nats_server, needs_nats_server
from tests.runtime.event_log_suite import publish, take

from protoplane_base import PlaneError
from protoplane_runtime.engines.interface import Event, EventId, Gap, Start

nats = pytest.importorskip("nats")

from protoplane_runtime.engines.nats import retention  # noqa: E402  # nats-py is an extra
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
    return f"{server.url}?stream=retention{next(_NUMBERS)}"


@contextlib.asynccontextmanager
async def opened(url: str) -> AsyncGenerator[NatsLog]:
    log = await NatsLog.open(url)
    try:
        yield log
    finally:
        await log.close()


async def fill(log: NatsLog, key: str, number: int) -> list[EventId]:
    found = await asyncio.gather(*(publish(log, key, durable=True) for _ in range(number)))
    return sorted(found)


async def swept(log: NatsLog, expected: dict[str, int]) -> None:
    """Wait until there are so many events of each key."""
    found: dict[str, int] = {}
    async with asyncio.timeout(30):
        while found != expected:
            # Another process, or the log's own task, may be at it.
            with contextlib.suppress(PlaneError):
                await log.enforce_retention()
            found = {each.key: each.events for each in (await log.stats()).keys}
            await asyncio.sleep(0.02)


class Bridge:
    """A way to the server that can be cut while the server runs."""

    def __init__(self, target: int) -> None:
        self.port = 0
        self._target = target
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._take, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.close()
            for writer in self._writers:
                writer.close()
            self._writers.clear()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await server.wait_closed()

    def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        task = asyncio.create_task(self._carry(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, onward = await asyncio.open_connection("127.0.0.1", self._target)
        self._writers.append(onward)
        await asyncio.gather(_copy(reader, onward), _copy(answers, writer))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


async def gap_of(reader: AsyncIterator[Sequence[Event | Gap]]) -> Gap:
    async with asyncio.timeout(10):
        [gap] = await anext(reader)
    assert isinstance(gap, Gap)
    return gap


async def test_by_count(url: str) -> None:
    async with opened(f"{url}&retain=a/**:count=10") as log:
        other = await fill(log, "b", 3)
        ids = await fill(log, "a/1", 20) + await fill(log, "a", 30)
        await fill(log, "b", 2)
        await swept(log, {"a": 10, "b": 5})
        reader = log.read(["a/**"], after=Start.EARLIEST)
        assert [event.id for event in await take(reader, 10)] == ids[-10:]
    # Those who come late are told, and only once; those who miss nothing are not.
    async with opened(url) as log:
        reader = log.read(["a/**"], after=ids[4])
        assert await gap_of(reader) == Gap(ids[4], other[0], ids[40])
        assert [event.id for event in await take(reader, 10)] == ids[-10:]
        for expressions, after in ((["a/*"], ids[4]), (["**"], other[0]), (["**/1"], ids[9])):
            gap = await gap_of(log.read(expressions, after=after))
            assert not gap.ephemeral
            assert gap.asked == after
        for expressions, after in ((["a/**"], ids[39]), (["b"], other[0])):
            assert (await gap_of(log.read(expressions, after=after))).ephemeral


async def test_by_age(url: str) -> None:
    async with opened(f"{url}&retain=a/**:age=0.5s") as log:
        other = await fill(log, "b", 1)
        ids = await fill(log, "a/1", 20)
        await swept(log, {"b": 1})
        reader = log.read(["a/1"], after=ids[4])
        gap = await gap_of(reader)
        # Nothing that it reads is kept, so what comes next is the next one published.
        assert (gap.oldest, gap.ephemeral) == (other[0], False)
        last = await publish(log, "a/1", durable=True)
        assert gap.next == last
        assert [event.id for event in await take(reader, 1)] == [last]


async def test_the_rule_with_the_longest_prefix_holds(url: str) -> None:
    rules = "retain=a/**:count=3&retain=a/b/c/**:count=5&retain=**:count=2"
    async with opened(f"{url}&{rules}") as log:
        keys = ("a", "a/b", "a/x/1", "a/b/c", "a/b/c/d", "a/b/cc", "x.y/ä", "b")
        for _ in range(4):
            for key in keys:
                await publish(log, key, durable=True)
        await swept(log, {"a/b/cc": 1, "a/x/1": 1, "a/b": 1, "a/b/c": 2, "a/b/c/d": 3} | {
            "x.y/ä": 1,
            "b": 1,
        })  # fmt: skip


async def test_a_reader_that_is_overtaken(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("protoplane_runtime.engines.tail.MAX_EVENTS", 10)
    async with opened(f"{url}&retain=a/**:count=100") as log:
        kept = await publish(log, "b", durable=True)
        slow = log.read(["a/**"])
        first = await publish(log, "a", durable=True)
        await take(slow, 1)
        ids = await fill(log, "a", 300)
        await swept(log, {"a": 100, "b": 1})
        await take(log.read(["a/**"], after=ids[-2]), 1)
        assert await gap_of(slow) == Gap(first, kept, ids[200])
        assert [event.id for event in await take(slow, 100)] == ids[200:]


async def test_the_newest_rules_win(url: str) -> None:
    async with opened(f"{url}&retain=a/**:count=2") as one:
        ids = await fill(one, "a", 6)
        await swept(one, {"a": 2})
        async with opened(f"{url}&retain=b/**:count=1"):
            pass
        await fill(one, "a", 6)
        await fill(one, "b", 6)
        await swept(one, {"a": 8, "b": 1})
        # What went under a rule that is gone is not forgotten.
        assert not (await gap_of(one.read(["a"], after=ids[1]))).ephemeral


async def test_it_happens_by_itself_and_anywhere(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(url) as one, opened(f"{url}&retain=a/**:count=2") as other:
        reader = one.read(["a/*"])
        ids = [await publish(one, "a/first", durable=True)]
        await take(reader, 1)
        ids += [await publish(other, f"a/{number}", durable=True) for number in range(50)]
        assert [event.id for event in await take(reader, 50)] == ids[1:]
        monkeypatch.setattr(retention, "SWEEP_S", 0.05)
        async with asyncio.timeout(30):
            while (await one.stats()).events != 2:  # noqa: ASYNC110  # nobody tells
                await asyncio.sleep(0.02)
        # Its feed has them all, so nothing is missing.
        assert [event.id for event in await take(one.read(["a/*"], after=ids[9]), 41)] == ids[10:]


async def test_a_reader_without_a_connection_is_overtaken(url: str) -> None:
    port = int(url.partition("?")[0].rpartition(":")[2])
    async with (
        Bridge(port) as bridge,
        opened(f"{url}&retain=a/**:count=3") as other,
        opened(url.replace(str(port), str(bridge.port), 1)) as log,
    ):
        kept = await publish(other, "b", durable=True)
        reader = log.read(["a/*"])
        ids = [await publish(log, "a/1", durable=True)]
        assert [event.id for event in await take(reader, 1)] == ids
        await bridge.close()
        ids += await fill(other, "a/1", 20)
        await swept(other, {"a/1": 3, "b": 1})
        await bridge.start()
        assert await gap_of(reader) == Gap(ids[0], kept, ids[-3])
        assert [event.id for event in await take(reader, 3)] == ids[-3:]


async def test_several_processes_at_once_delete_no_more_than_one(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "_STEP", 16)
    rules = "retain=a/**:count=30&retain=a/b/**:count=20"
    async with opened(f"{url}&{rules}") as one, opened(url) as other, opened(url) as third:
        expected, ids = {"a/1": 30, "a/b": 20}, list[EventId]()
        for _ in range(3):
            ids = await fill(one, "a/1", 60)
            await fill(other, "a/b", 60)
            await asyncio.gather(*(swept(log, expected) for log in (one, other, third)))
        events = await take(third.read(["a/1"], after=Start.EARLIEST), 30)
        assert [event.id for event in events] == ids[-30:]


async def test_many_events_go_in_steps(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "_STEP", 64)
    async with opened(f"{url}&retain=a/**:count=10&retain=a/b/**:count=7") as log:
        for number in range(10):
            await fill(log, f"a/{number}", 100)
            await fill(log, "a/b", 20)
        await swept(log, {"a/9": 10, "a/b": 7})


async def test_no_bucket_without_rules(url: str) -> None:
    async with opened(url) as log:
        await fill(log, "a", 5)
        await log.enforce_retention()
        assert (await log.stats()).events == 5
    async with opened(f"{url}-with&retain=a:count=1"):
        pass
    name = url.partition("=")[2]
    async with await nats.connect(url.partition("?")[0]) as client:
        streams = {each.config.name for each in await client.jetstream().streams_info()}
    assert f"KV_{name}-with-retention" in streams
    assert f"KV_{name}-retention" not in streams
