"""What a local log keeps, and what it says of what it no longer has."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest
from tests.runtime.event_log_suite import publish, take

from protoplane_runtime.engines.interface import Event, EventId, EventLog, Gap, Start
from protoplane_runtime.engines.local import retention as local_retention
from protoplane_runtime.engines.local.log import LocalLog
from protoplane_runtime.engines.local.retention import Retention

pytestmark = pytest.mark.anyio


async def fill(log: EventLog, key: str, count: int, text: str = "") -> list[EventId]:
    return list(
        await asyncio.gather(*(publish(log, key, text, durable=True) for _ in range(count)))
    )


async def kept(log: LocalLog, expression: str = "**") -> list[EventId]:
    """All that is read from the start, up to an event of its own, and without those."""
    reader = log.read([expression, "mark"], after=Start.EARLIEST)
    mark = await publish(log, "mark")
    found: list[Event] = []
    async with asyncio.timeout(10):
        while not found or found[-1].id != mark:
            for item in await anext(reader):
                assert isinstance(item, Event)
                found.append(item)
    return [event.id for event in found if event.key != "mark"]


async def first_of(reader: AsyncIterator[Sequence[Event | Gap]]) -> Event | Gap:
    async with asyncio.timeout(10):
        return (await anext(reader))[0]


async def test_by_count(tmp_path: Path) -> None:
    log = await LocalLog.open(tmp_path, retention=[Retention(max_events=10)])
    ids = await fill(log, "a", 50)
    await log.enforce_retention()
    assert await kept(log) == ids[-10:]
    reader = log.read(["a"], after=ids[5])
    assert await first_of(reader) == Gap(ids[5], ids[40], ids[40])
    assert [event.id for event in await take(reader, 10)] == ids[-10:]
    # One event before the oldest misses nothing.
    assert len(await take(log.read(["a"], after=ids[39]), 10)) == 10
    await log.close()


async def test_by_bytes(tmp_path: Path) -> None:
    log = await LocalLog.open(tmp_path, retention=[Retention(max_bytes=50_000)])
    ids = await fill(log, "a", 100, "x" * 1000)
    await log.enforce_retention()
    left = await kept(log)
    assert left == ids[-len(left) :]
    assert 20 <= len(left) <= 25
    await log.close()


async def test_by_age(tmp_path: Path) -> None:
    log = await LocalLog.open(tmp_path, retention=[Retention(max_age_s=0.2)])
    old = await fill(log, "a", 20)
    await asyncio.sleep(0.25)
    new = await fill(log, "a", 3)
    await log.enforce_retention()
    assert not set(old) & set(await kept(log))
    gap = await first_of(log.read(["a"], after=old[0]))
    assert isinstance(gap, Gap)
    assert gap.next >= new[0]
    await log.close()


async def test_by_prefix(tmp_path: Path) -> None:
    rules = [Retention(max_events=40), Retention("a/b", max_events=5), Retention("c", max_events=3)]
    log = await LocalLog.open(tmp_path, retention=rules)
    long = await fill(log, "a/bee", 10)  # Not under a/b: a prefix is of whole segments.
    short = await fill(log, "a/b/x", 10)
    shortest = await fill(log, "c", 10)
    await log.enforce_retention()
    assert await kept(log, "a/**") == [*long, *short[5:]]
    assert await kept(log, "c") == shortest[7:]
    # Who reads only what is all kept is not told of what others lost.
    assert await first_of(log.read(["a/b/*"], after=short[0])) == Gap(short[0], long[0], short[5])
    reader = log.read(["a/bee"], after=long[0])
    assert [event.id for event in await take(reader, 9)] == long[1:]
    assert isinstance(await first_of(log.read(["a/*/x"], after=long[0])), Gap)
    await log.close()


@pytest.mark.parametrize(
    ("rule", "left"),
    [
        (Retention("a", max_events=2), 2),
        (Retention("a", max_bytes=3 * 1100), 3),
        (Retention("a", max_age_s=3600.0), 9),
    ],
)
async def test_a_few_events_among_many_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rule: Retention, left: int
) -> None:
    monkeypatch.setattr(local_retention, "_SWEEP", 2)
    log = await LocalLog.open(tmp_path, retention=[rule])
    few: list[EventId] = []
    many: list[EventId] = []
    for _ in range(9):
        few += await fill(log, "a", 1, "x" * 500)
        many += await fill(log, "b", 5)
        await log.enforce_retention()
        assert await kept(log, "a") == few[-left:]
    assert await kept(log, "b") == many
    await log.close()


async def test_others_are_not_looked_through_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_retention, "_SWEEP", 2)
    log = await LocalLog.open(tmp_path, retention=[Retention("a", max_age_s=3600.0)])
    others = await fill(log, "b", 20)
    [one] = await fill(log, "a", 1)
    for _ in range(2):
        await log.enforce_retention()
        with closing(sqlite3.connect(tmp_path / "events.db")) as database:
            found = database.execute("SELECT swept FROM retention WHERE prefix = 'a'").fetchone()
        assert found[0] == others[-1].sequence
    assert await kept(log) == [*others, one]
    await log.close()


async def test_rules_are_the_logs_own(tmp_path: Path) -> None:
    log = await LocalLog.open(tmp_path, retention=[Retention(), Retention("a", max_events=5)])
    a = await fill(log, "a", 20)
    b = await fill(log, "b", 20)
    await log.enforce_retention()
    await log.close()
    log = await LocalLog.open(tmp_path)  # As they were.
    a += await fill(log, "a/1", 20)
    await log.enforce_retention()
    assert await kept(log, "a/**") == a[-5:]
    other = await LocalLog.open(tmp_path, retention=[Retention("b", max_events=2)])
    a += await fill(log, "a/2", 20)
    b += await fill(other, "b", 20)
    await log.enforce_retention()
    assert await kept(log, "b") == b[-2:]
    assert await kept(log, "a/**") == a[-25:]
    await other.close()
    await log.close()


async def test_it_happens_by_itself(tmp_path: Path) -> None:
    log = await LocalLog.open(tmp_path, retention=[Retention(max_events=100)])
    # The second time it has just happened, and nothing more is written: it happens all the same.
    for _ in range(2):
        ids = await fill(log, "a", 1000)
        async with asyncio.timeout(20):
            # Nobody says when, and it goes on: who reads meanwhile may be told of a gap.
            while (await log.stats()).events > 200:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        assert (await log.stats()).newest == ids[-1]
    await log.close()


@pytest.mark.parametrize("bounds", [(-1.0, None, None), (None, 0, None), (None, None, 0)])
def test_bounds_must_leave_something(
    bounds: tuple[float | None, int | None, int | None],
) -> None:
    with pytest.raises(ValueError, match="greater than 0"):
        Retention("a", *bounds)
