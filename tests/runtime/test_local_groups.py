"""The groups of ``local:`` keep the suite, also when a process is killed."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest
from tests.runtime.groups_suite import EARLIEST, GroupsSuite, fill, status, take, tokens

from protoplane_runtime.engines.engine import Engine
from protoplane_runtime.engines.groups import GroupSettings
from protoplane_runtime.engines.interface import Start
from protoplane_runtime.engines.opening import open_engine

pytestmark = pytest.mark.anyio


class TestLocalGroups(GroupsSuite):
    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path) -> None:
        self.url = f"local:{tmp_path}"

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[Engine]:
        engine = await open_engine(self.url)
        yield engine
        await engine.close()

    @asynccontextmanager
    async def other(self, engine: Engine) -> AsyncGenerator[Engine]:
        other = await open_engine(engine.url)
        yield other
        await other.close()


async def test_a_killed_member_gives_back(tmp_path: Path) -> None:
    url = f"local:{tmp_path}"
    engine = await open_engine(url)
    ids = await fill(engine, ["a/1", "a/2", "a/3"])
    worker = subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-m", "tests.runtime.groups_worker", url, "hold", "3"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert worker.stdout is not None
        for line, event_id in zip(worker.stdout, ids, strict=False):
            assert line.split()[0] == str(event_id)
            if event_id == ids[-1]:
                break
        assert (await status(engine)).pending == 3
        # The visibility time is an hour, so only the death of the process can end the deliveries.
        worker.send_signal(signal.SIGKILL)
        async with aclosing(engine.groups.consume("g", ["a/*"], EARLIEST)) as batches:
            found = await take(batches, 3)
            assert [(each.event.id, each.attempt) for each in found] == [(each, 2) for each in ids]
            await engine.groups.acknowledge(tokens(found))
    finally:
        worker.kill()
        worker.wait()
        assert worker.stdout is not None
        worker.stdout.close()
        await engine.close()


async def test_a_group_outlives_its_members(tmp_path: Path) -> None:
    url = f"local:{tmp_path}"
    for expected in ([], ["a/0"]):
        engine = await open_engine(url)
        await fill(engine, ["a/0", "a/1"])
        settings = GroupSettings(start=Start.EARLIEST, ordered=False)
        async with aclosing(engine.groups.consume("g", ["a/*"], settings)) as batches:
            found = await take(batches, 2 + len(expected))
            left = [each for each in found if each.event.key == "a/0"]
            done = [each for each in found if each not in left]
            await engine.groups.acknowledge(tokens(done))
            if expected:
                assert left[0].attempt == 2
        await engine.close()
