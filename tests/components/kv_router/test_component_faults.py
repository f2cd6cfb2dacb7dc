"""Killed at random: a router under load, a worker that publishes, the event engine for a while."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from tests.cli.conftest import Served
from tests.component_suite import component_options
from tests.components.kv_router.truth import Churn, eventually, indexed, state, truth
from tests.nats_server import NatsServers, needs_nats_server

from protoplane.router.v1 import (
    KvRouterClient,
    KvStateRequest,
    KvWorkerClient,
    LoadsRequest,
    Prompt,
    ReleaseRequest,
    RoutingRequest,
    SelectAndReserveRequest,
    SelectRequest,
    TokenSequence,
    Worker,
    WorkersRequest,
)
from protoplane_base import Duration
from protoplane_client import connect
from protoplane_components.kv_router import KvIndex, KvRouter, Request, Router, Target
from protoplane_components.kv_router.worker import KvWorker
from protoplane_server import Server

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[3]
REQUEST = RoutingRequest(prompt=Prompt(tokens=TokenSequence(ids=[*range(64)])), omit_scores=True)
REQUESTS = 300


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def start_router(engine: str) -> Served:
    command = ("protoplane_components.kv_router", "--http-only", "--http", "0", "--engine", engine)
    return await asyncio.to_thread(Served, {**os.environ}, *command)


async def kill(served: Served) -> None:
    served.process.kill()
    await asyncio.to_thread(served.process.wait, 30)
    assert served.process.stderr is not None
    served.process.stderr.close()


async def test_a_router_is_killed_under_load_and_no_request_is_lost(tmp_path: Path) -> None:
    engine = f"local:{tmp_path}"
    async with AsyncExitStack() as stack:
        for number in range(2):
            worker = KvWorker(Worker(block_size=16))
            options = component_options(
                engine=engine, name=f"test/worker/w{number}", link=("link+tcp://127.0.0.1:0",)
            )
            await stack.enter_async_context(Server(worker, options))
            worker.stored([1, 2, 3], [1, 2, 3])
        one, two = await asyncio.gather(start_router(engine), start_router(engine))
        stack.push_async_callback(kill, two)
        numbers = iter(range(REQUESTS))
        done = 0
        many = asyncio.Event()
        async with connect("protoplane/router", engine=engine) as plane:
            client = KvRouterClient(plane)

            async def caller() -> None:
                nonlocal done
                for number in numbers:
                    reserved = await client.select_and_reserve(
                        SelectAndReserveRequest(request=REQUEST, lease=Duration.from_seconds(3)),
                        idempotency_key=f"request-{number}",
                        timeout_s=60,
                    )
                    assert reserved.selection is not None
                    assert reserved.selection.worker_id in ("w0", "w1")
                    await client.release(ReleaseRequest(reservation_id=reserved.reservation_id))
                    await client.select(SelectRequest(request=REQUEST), timeout_s=60)
                    done += 1
                    if done == REQUESTS // 3:
                        many.set()

            async def killer() -> None:
                await many.wait()
                await kill(one)

            async with asyncio.timeout(120):
                for served in (one, two):
                    async with connect(served.http) as direct:
                        await ready(KvRouterClient(direct), 2)
                async with asyncio.TaskGroup() as group:
                    group.create_task(killer())
                    for _ in range(16):
                        group.create_task(caller())
            assert done == REQUESTS
        async with connect(two.http) as direct, asyncio.timeout(60):
            # What was released to nobody ends with its lease.
            while any(  # noqa: ASYNC110  # it is in another process
                load.active_requests
                for load in (await KvRouterClient(direct).loads(LoadsRequest())).loads
            ):
                await asyncio.sleep(0.1)


async def ready(client: KvRouterClient, workers: int) -> None:
    while True:
        found = (await client.workers(WorkersRequest())).workers
        if len([each for each in found if each.in_sync]) == workers:
            return
        await asyncio.sleep(0.05)


@asynccontextmanager
async def working(engine: str, name: str, seed: int) -> AsyncGenerator[Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.components.kv_router.worker_process"),
        *(engine, name, str(seed)),
        stdin=PIPE,
        stdout=PIPE,
        cwd=ROOT,
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(60):
            assert await process.stdout.readline() == b"ready\n"
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_a_worker_is_killed_while_it_publishes(tmp_path: Path) -> None:
    engine = f"local:{tmp_path}"
    router = KvRouter(Router(block_size=16), snapshot_interval_s=None)
    index = router.router.index
    assert isinstance(index, KvIndex)
    target = Target("w")
    async with Server(router, component_options(engine=engine)):
        for seed in range(2):
            # The second has the name of the first, and an empty cache.
            async with working(engine, "test/worker/w", seed) as worker:
                await eventually(lambda: index.count(target) > 20)
                router.router.reserve(_request())
                worker.kill()
                await worker.wait()
                await eventually(lambda: not router.router.workers)
                assert index.count(target) == 0
                assert len(router.router.loads) == 0
        async with working(engine, "test/worker/w", 7) as worker:
            await eventually(lambda: index.count(target) > 20)
            assert worker.stdin is not None
            worker.stdin.write(b"rest\n")
            async with connect("test/worker/w", engine=engine) as plane:
                client = KvWorkerClient(plane)

                async def same() -> bool:
                    pieces = [p async for p in client.kv_state(KvStateRequest(worker="w"))]
                    return indexed(index, target) == truth(pieces) != {}

                async with asyncio.timeout(30):
                    while not await same():  # noqa: ASYNC110  # it is in another process
                        await asyncio.sleep(0.05)


@needs_nats_server
async def test_the_event_engine_is_away_for_a_while(tmp_path: Path) -> None:
    pytest.importorskip("nats")
    with NatsServers(tmp_path) as servers:
        nats = servers.start()
        engine = f"{nats.url}?publish_timeout_s=1"
        router = KvRouter(Router(block_size=16), replica_interval_s=0.2)
        index = router.router.index
        assert isinstance(index, KvIndex)
        workers = [KvWorker(Worker(block_size=16), max_waiting=50) for _ in range(2)]
        async with AsyncExitStack() as stack:
            place = {"engine": engine, "objects": "memory:", "link": ("link+tcp://127.0.0.1:0",)}
            for number, worker in enumerate(workers):
                options = component_options(name=f"test/worker/w{number}", **place)
                await stack.enter_async_context(Server(worker, options))
            await stack.enter_async_context(Server(router, component_options(**place)))
            churns = [Churn(worker, seed) for seed, worker in enumerate(workers)]

            def change(times: int) -> None:
                for churn in churns:
                    for _ in range(times):
                        churn.step()

            def same() -> bool:
                assert router.follower is not None
                courses = router.follower.courses
                return len(courses) == 2 and all(
                    courses[Target(worker.id)].in_sync
                    and indexed(index, Target(worker.id)) == state(worker)
                    for worker in workers
                )

            change(40)
            await eventually(same, 60)
            nats.kill()
            # More than a worker keeps while nobody takes it: events are lost for good.
            for _ in range(20):
                change(10)
                await asyncio.sleep(0.01)
            assert all(worker.waiting == 50 for worker in workers)
            assert router.router.select(_request()).worker.id in ("w0", "w1")
            reserved, _ = router.router.reserve(_request())
            assert router.router.release(reserved.id) is not None
            servers.start(nats.port)
            change(5)
            await eventually(same, 60)
            assert router.follower is not None
            assert router.follower.gaps + router.follower.fetched > 2


def _request() -> Request:
    return Request(tokens=[*range(64)])
