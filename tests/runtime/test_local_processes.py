"""One folder, many processes: nothing is lost, whoever is killed."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path

import pytest
from tests.runtime.event_log_suite import publish, take

from protoplane_runtime.engines.interface import Event, EventId, Start
from protoplane_runtime.engines.local.log import LocalLog

pytestmark = pytest.mark.anyio
ROOT = Path(__file__).parents[2]


async def start(*arguments: object) -> Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.runtime.local_worker",
        *map(str, arguments),
        stdout=PIPE,
        cwd=ROOT,
    )


async def line(process: Process) -> str:
    assert process.stdout is not None
    async with asyncio.timeout(30):
        return (await process.stdout.readline()).decode().strip()


async def kill(process: Process) -> list[EventId]:
    """Kill it, and say what it still had to say; a line that was cut off is none."""
    process.kill()
    assert process.stdout is not None
    lines = (await process.stdout.read()).decode().splitlines(keepends=True)
    await process.wait()
    return [EventId.parse(each.strip()) for each in lines if each.endswith("\n")]


@pytest.mark.parametrize("durable", [0, 1])
async def test_all_processes_see_the_same(tmp_path: Path, durable: int) -> None:
    log = await LocalLog.open(tmp_path)
    everything = asyncio.create_task(take(log.read(["**"]), 900))
    await asyncio.sleep(0)
    writers = [await start("publish", tmp_path, f"w{n}", 300, durable) for n in range(3)]
    said = [await writer.communicate() for writer in writers]
    events = await everything
    ids = [event.id for event in events]
    assert sorted(ids) == ids
    assert sorted(EventId.parse(text) for out, _ in said for text in out.decode().split()) == ids
    for name in range(3):
        numbers = [int(event.key.split("/")[1]) for event in events if event.key[1] == str(name)]
        assert len(set(numbers)) == 300
    await log.close()


async def test_what_was_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    log = await LocalLog.open(tmp_path)
    reader = log.read(["**"], after=Start.EARLIEST)
    acknowledged: list[EventId] = []
    last = log.last
    for round_ in range(6):
        # The third one's events are ephemeral: they only get in the way of the others.
        writers = [
            await start("publish", tmp_path, f"w{n}", 10**6, int(durable))
            for n, durable in enumerate((True, True, False))
        ]
        acknowledged += [EventId.parse(await line(writer)) for writer in writers[:2]]
        await line(writers[2])
        await asyncio.sleep(0.02 * round_)
        for writer in writers[:2]:
            acknowledged += await kill(writer)
        await kill(writers[2])
        last = await publish(log, "end", str(round_), durable=True)
    order: list[EventId] = []
    async with asyncio.timeout(60):
        while not order or order[-1] != last:
            order += [event.id for event in await anext(reader) if isinstance(event, Event)]
    assert order == sorted(set(order))
    assert len(acknowledged) > 20
    assert set(acknowledged) <= set(order)
    await log.close()
    # Shared memory may go; what is on disk stays.
    (tmp_path / "events.ring").unlink()
    again = await LocalLog.open(tmp_path)
    assert again.last >= last
    kept: set[EventId] = set()
    reader = again.read(["**"], after=Start.EARLIEST)
    async with asyncio.timeout(60):
        while last not in kept:
            kept |= {event.id for event in await anext(reader) if isinstance(event, Event)}
    assert set(acknowledged) <= kept
    assert kept <= set(order)
    await again.close()


async def test_a_killed_reader_holds_nobody_up(tmp_path: Path) -> None:
    log = await LocalLog.open(tmp_path)
    readers = [await start("read", tmp_path) for _ in range(2)]
    for reader in readers:
        assert await line(reader) == "ready"
    assert len(list((tmp_path / "bells").iterdir())) == 2
    event_id = await publish(log, "a/1")
    for reader in readers:
        assert await line(reader) == str(event_id)
    await kill(readers[0])
    ids = [await publish(log, "a/2"), await publish(log, "a/3", durable=True)]
    assert [await line(readers[1]), await line(readers[1])] == [str(each) for each in ids]
    assert len(list((tmp_path / "bells").iterdir())) == 1
    await kill(readers[1])
    await publish(log, "a/4")
    assert not list((tmp_path / "bells").iterdir())
    await log.close()
