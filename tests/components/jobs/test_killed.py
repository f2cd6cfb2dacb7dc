"""SIGKILL for the processes of a queue: nothing that was accepted is lost, or finished twice."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.components.jobs.engine_urls import engine_url
from tests.components.jobs.scripted import FAST
from tests.components.jobs.worker_process import Timed

from protoplane.jobs.v1 import (
    CancelRequest,
    FollowRequest,
    FollowResponse,
    GenerateRequest,
    JobFinished,
    JobsClient,
    ReadResultRequest,
    StatusRequest,
)
from protoplane_client import connect
from protoplane_components.jobs import Jobs
from protoplane_runtime.engines.interface import Event, Start
from protoplane_server import Options, Server

pytestmark = pytest.mark.anyio
PROGRAM = Path(__file__).with_name("worker_process.py")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Processes:
    """Processes of a queue at an engine; all that are left are killed at the end."""

    def __init__(self, engine: str, folder: Path) -> None:
        self.engine = engine
        self.folder = folder
        self._started: list[Process] = []

    async def start(self, mode: str, amount: float) -> Process:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(PROGRAM),
            mode,
            self.engine,
            str(self.folder),
            str(amount),
            stdout=PIPE,
        )
        self._started.append(process)
        return process

    async def work(self, seconds: float) -> Process:
        process = await self.start("work", seconds)
        assert process.stdout is not None
        async with asyncio.timeout(60):
            assert await process.stdout.readline() == b"ready\n"
        return process

    async def close(self) -> None:
        for process in self._started:
            await kill(process)


async def kill(process: Process) -> None:
    if process.returncode is None:
        process.kill()
    await process.wait()


@pytest.fixture(params=["local:", "nats:"])
async def processes(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Processes]:
    with engine_url(request.param, tmp_path) as engine:
        processes = Processes(engine, tmp_path)
        yield processes
        await processes.close()


def options_of(processes: Processes, **changes: Any) -> Options:
    options = Options(
        grpc=None,
        http=None,
        inproc="killed",
        engine=processes.engine,
        objects=f"local:{processes.folder}",
    )
    return replace(options, **changes)


async def front(
    stack: AsyncExitStack, processes: Processes, *, slots: int
) -> tuple[Server, JobsClient]:
    options = options_of(processes)
    jobs = Jobs(Timed(0), slots=slots, settings=FAST)
    server = await stack.enter_async_context(Server(jobs, options))
    plane = await stack.enter_async_context(connect("inproc:killed"))
    return server, JobsClient(plane)


async def ended(server: Server, count: int) -> Counter[str]:
    """How often the end of each job was published, once all are finished."""
    told: Counter[str] = Counter()
    events: Any = server.events.read(["jobs/*/finished"], after=Start.EARLIEST)
    async with asyncio.timeout(120), aclosing(events):
        async for batch in events:
            for each in batch:
                assert isinstance(each, Event)
                finished = JobFinished.from_bytes(each.data)
                assert finished.complete is not None, finished
                told[finished.job_id] += 1
            if len(told) >= count:
                return told
    return told


async def test_workers_that_are_killed(processes: Processes) -> None:
    jobs = 60
    async with AsyncExitStack() as stack:
        server, client = await front(stack, processes, slots=0)
        workers = [await processes.work(0.05) for _ in range(3)]
        for number in range(jobs):
            await client.generate(GenerateRequest(id=f"j{number}", prompt="p"))
        counting = asyncio.create_task(ended(server, jobs))
        for _ in range(3):
            await kill(workers.pop(0))
            workers.append(await processes.work(0.05))
        told = await counting
        status = await client.status(StatusRequest())
        assert told == Counter({f"j{number}": 1 for number in range(jobs)})
        assert (status.queued, status.running, status.finished) == (0, 0, jobs)
        parts = [part async for part in client.read_result(ReadResultRequest(id="j7"))]
        assert b"".join(part.data for part in parts) == b"j7"


async def test_a_job_whose_worker_is_killed_is_tried_again(processes: Processes) -> None:
    async with AsyncExitStack() as stack:
        _, client = await front(stack, processes, slots=0)
        first = await processes.work(3600)
        await client.generate(GenerateRequest(id="one", prompt="p"))
        attempts: list[int] = []
        update = FollowResponse()
        updates: Any = client.follow(FollowRequest(id="one"), timeout_s=90)
        async with aclosing(updates):
            async for update in updates:
                if update.started is None:
                    continue
                attempts.append(update.started.attempt)
                if attempts == [1]:
                    await kill(first)
                    await processes.work(0)
        assert update.complete is not None
        assert attempts == [1, 2]


async def test_a_job_whose_workers_all_die_fails(processes: Processes) -> None:
    async with AsyncExitStack() as stack:
        _, client = await front(stack, processes, slots=0)
        worker = await processes.work(3600)
        await client.generate(GenerateRequest(id="one", prompt="p", max_attempts=1))
        update = FollowResponse()
        updates: Any = client.follow(FollowRequest(id="one"), timeout_s=90)
        async with aclosing(updates):
            async for update in updates:
                if update.started is not None:
                    await kill(worker)
        assert update.error is not None
        assert update.error.failure is not None
        assert update.error.failure.code == "UNAVAILABLE"


async def test_a_cancelled_job_ends_though_its_worker_is_killed(processes: Processes) -> None:
    async with AsyncExitStack() as stack:
        _, client = await front(stack, processes, slots=0)
        worker = await processes.work(3600)
        await client.generate(GenerateRequest(id="one", prompt="p"))
        update = FollowResponse()
        updates: Any = client.follow(FollowRequest(id="one"), timeout_s=90)
        async with aclosing(updates):
            async for update in updates:
                if update.started is not None:
                    await kill(worker)
                    await client.cancel(CancelRequest(id="one"))
        assert update.cancelled is not None


async def test_what_a_killed_front_accepted_is_done(processes: Processes) -> None:
    process = await processes.start("accept", 1000)
    assert process.stdout is not None
    accepted: list[str] = []
    async with asyncio.timeout(60):
        while len(accepted) < 20:
            accepted.append((await process.stdout.readline()).decode().strip())
    await kill(process)
    # What it had accepted and we have not read yet counts too.
    accepted += (await process.stdout.read()).decode().split("\n")[:-1]
    async with AsyncExitStack() as stack:
        server, client = await front(stack, processes, slots=8)
        told = await ended(server, len(accepted))
        assert {*accepted} <= {*told}
        assert {*told.values()} == {1}
        assert (await client.status(StatusRequest())).finished >= len(accepted)


async def test_a_worker_that_stops_gives_its_job_back(processes: Processes) -> None:
    options = options_of(processes, inproc="leaving", grace_s=0)
    async with (
        Server(Jobs(Timed(3600), slots=1, settings=FAST), options),
        connect("inproc:leaving") as plane,
    ):
        client = JobsClient(plane)
        await client.generate(GenerateRequest(id="one", prompt="p"))
        async with asyncio.timeout(30):
            while not (await client.status(StatusRequest())).running:  # noqa: ASYNC110  # asked
                await asyncio.sleep(0.01)
    async with AsyncExitStack() as stack:
        _, client = await front(stack, processes, slots=1)
        updates = client.follow(FollowRequest(id="one"), timeout_s=30)
        complete = [each async for each in updates][-1].complete
        assert complete is not None
        # It was given back, not lost, so that attempt does not count.
        assert complete.attempts == 1
