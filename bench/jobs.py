"""Jobs: small calls over a link, durable acceptance, and workers that are killed.

- Ping and status over one link, one at a time (p95) and many at once (requests a second).
- Jobs accepted by `local:`, each on the disk before it is answered.
- Jobs through four worker processes of which one is killed every second, and replaced.

The server, the workers and the caller are processes of their own.

    python bench/jobs.py [--full] [--json]
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import uvloop
from report import Claim, Row, print_report

from protoplane.jobs.v1 import (
    GenerateRequest,
    JobFinished,
    JobsClient,
    PingRequest,
    StatusRequest,
)
from protoplane_client import connect
from protoplane_components.jobs import Jobs
from protoplane_runtime.engines.interface import Event, Start
from protoplane_runtime.engines.opening import open_engine
from protoplane_server import Server, serve

FULL = "--full" in sys.argv
CALLS = 50_000 if FULL else 15_000
ACCEPTED = 10_000 if FULL else 3_000
JOBS = 1_000 if FULL else 300
WORKERS = 4
AT_ONCE = 128
_PROTOPLANE = Path(sys.executable).with_name("protoplane")


def serve_jobs(engine: str) -> None:
    """The server's process: it works on no job itself."""

    def tell(server: Server) -> None:
        print(server.link_addresses[0], flush=True)

    serve(
        Jobs(slots=0),
        on_ready=tell,
        grpc=None,
        http=None,
        link=("link+tcp://127.0.0.1:0",),
        engine=engine,
    )


@asynccontextmanager
async def serving(engine: str) -> AsyncGenerator[JobsClient]:
    """A server and a client on a link to it."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, __file__, "serve", engine, stdout=PIPE
    )
    try:
        assert process.stdout is not None
        address = (await process.stdout.readline()).decode().strip()
        async with connect(address) as plane:
            yield JobsClient(plane)
    finally:
        process.terminate()
        await process.wait()


async def _at_once(call: Callable[[int], Awaitable[object]], count: int) -> float:
    numbers = iter(range(count))

    async def caller() -> None:
        for number in numbers:
            await call(number)

    began = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(AT_ONCE)))
    return count / (time.perf_counter() - began)


async def calls(client: JobsClient) -> tuple[list[Row], list[Claim]]:
    """Small calls."""
    took: list[float] = []
    for number in range(3000):
        began = time.perf_counter()
        await client.ping(PingRequest(nonce=str(number)))
        took.append(time.perf_counter() - began)
    p95_ms = 1000 * sorted(took[500:])[int(0.95 * len(took[500:]))]

    async def either(number: int) -> object:
        return await (client.status(StatusRequest()) if number % 2 else client.ping(PingRequest()))

    await _at_once(either, 2000)
    rate = max([await _at_once(either, CALLS) for _ in range(3)])
    rows = [Row("ping", "p95", p95_ms, "ms"), Row("ping and status", "rate", rate, "requests/s")]
    return rows, [
        Claim("ping over a link: p95 in ms", 1.0, p95_ms, at_most=True),
        Claim("ping and status over a link: requests/s", 10_000, rate),
    ]


async def accepting(client: JobsClient) -> tuple[list[Row], list[Claim]]:
    """Durable acceptance."""

    async def submit(number: int) -> object:
        return await client.generate(GenerateRequest(id=f"a{number}", prompt="a fox"))

    rate = await _at_once(submit, ACCEPTED)
    return [Row("accepted, durable", "rate", rate, "jobs/s")], [
        Claim("jobs accepted durably: jobs/s", 1000, rate)
    ]


async def killing(folder: str) -> tuple[list[Row], list[Claim]]:
    """Workers that are killed, one a second."""
    engine = f"local:{folder}"
    log = await open_engine(engine)
    workers: list[Process] = []
    told: Counter[str] = Counter()

    async def start() -> None:
        workers.append(
            await asyncio.create_subprocess_exec(
                _PROTOPLANE, "jobs", "work", "--engine", engine, "--step-seconds", "0.005"
            )
        )

    async def murder() -> None:
        while True:
            await asyncio.sleep(1)
            oldest = workers.pop(0)
            oldest.kill()
            await oldest.wait()
            killed.append(oldest)
            await start()

    killed: list[Process] = []
    try:
        async with serving(engine) as client:
            for number in range(JOBS):
                await client.generate(GenerateRequest(id=f"k{number}", prompt="a fox", steps=5))
            began = time.perf_counter()
            for _ in range(WORKERS):
                await start()
            murdering = asyncio.create_task(murder())
            events: Any = log.events.read(["jobs/*/finished"], after=Start.EARLIEST)
            async with asyncio.timeout(400), contextlib.aclosing(events):
                async for batch in events:
                    for each in batch:
                        if isinstance(each, Event):
                            finished = JobFinished.from_bytes(each.data)
                            told[finished.job_id] += finished.complete is not None
                    if len(told) >= JOBS:
                        break
            took = time.perf_counter() - began
            murdering.cancel()
            await asyncio.wait([murdering])
    finally:
        for worker in workers:
            with contextlib.suppress(ProcessLookupError):
                worker.kill()
            await worker.wait()
        await log.close()
    once = sum(count == 1 for count in told.values())
    name = f"{JOBS} jobs, {WORKERS} workers"
    return [
        Row(name, "took", took, "s"),
        Row(name, "killed", len(killed), "workers"),
    ], [Claim(f"{name}, one killed each second: done exactly once", JOBS, once)]


async def measure() -> tuple[list[Row], list[Claim]]:
    """All of it."""
    rows: list[Row] = []
    claims: list[Claim] = []
    with TemporaryDirectory() as folder, TemporaryDirectory() as other:
        async with serving(f"local:{folder}") as client:
            for part in (calls, accepting):
                more_rows, more_claims = await part(client)
                rows += more_rows
                claims += more_claims
        more_rows, more_claims = await killing(other)
    return rows + more_rows, claims + more_claims


def main() -> None:
    """Measure and print."""
    if sys.argv[1:2] == ["serve"]:
        serve_jobs(sys.argv[2])
        return
    rows, claims = uvloop.run(measure())
    print_report("jobs", rows, claims, ("uvloop",))


if __name__ == "__main__":
    main()
