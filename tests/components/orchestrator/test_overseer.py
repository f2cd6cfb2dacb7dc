"""What the orchestrator tells of its workers, over the doors."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from tests.components.orchestrator.scripted import GREEDY, LOST, Fleet, Worker, eventually

from protoplane.inference.v1 import EmbedRequest, GenerateRequest
from protoplane.orchestrator.v1 import (
    DrainWorkerRequest,
    ListWorkersRequest,
    OrchestratorClient,
    UndrainWorkerRequest,
    WatchWorkersRequest,
    WorkerHealth,
)
from protoplane_base import Code, Duration, PlaneError
from protoplane_client import connect
from protoplane_components.orchestrator import Orchestrator, OrchestratorSettings
from protoplane_server import Server

pytestmark = pytest.mark.anyio


async def test_workers_are_listed(fleet: Fleet) -> None:
    await fleet.worker("b", Worker("x", "y", capacity=5))
    worker = await fleet.worker("a", Worker("x", capacity=1))
    front = await fleet.orchestrator(OrchestratorSettings(max_queued=9), workers=2)
    listed = await front.overseer.list_workers(ListWorkersRequest())
    assert (listed.queued, listed.max_queued, listed.policy) == (0, 9, "least-loaded")
    first, second = listed.workers
    assert (first.id, first.name, first.capacity) == ("a", "protoplane/inference/a", 1)
    assert first.endpoint.startswith("link+tcp://127.0.0.1:")
    assert first.health is WorkerHealth.WORKER_HEALTH_READY
    assert [model.name for model in second.models] == ["x", "y"]
    assert len(second.capabilities) == 4
    only = await front.overseer.list_workers(ListWorkersRequest(model="y"))
    assert [each.id for each in only.workers] == ["b"]
    worker.go.clear()
    async with asyncio.TaskGroup() as group:
        for _ in range(2):
            group.create_task(front.inference.embed(EmbedRequest(model="x", texts=["a"])))
        await eventually(lambda: worker.active == 1)
        first = (await front.overseer.list_workers(ListWorkersRequest())).workers[0]
        assert first.health is WorkerHealth.WORKER_HEALTH_BUSY
        assert (first.in_flight, first.dispatched) == (1, 1)
        worker.go.set()


async def test_a_drained_worker_gets_no_new_requests(fleet: Fleet) -> None:
    workers = {id_: await fleet.worker(id_) for id_ in "ab"}
    front = await fleet.orchestrator(OrchestratorSettings(grace_s=0.05), workers=2)
    client = front.overseer
    drained = (await client.drain_worker(DrainWorkerRequest(worker="a"))).worker
    assert drained is not None
    assert drained.health is WorkerHealth.WORKER_HEALTH_DRAINING
    request = EmbedRequest(model="m", texts=["a"])
    for _ in range(4):
        await front.inference.embed(request)
    assert (workers["a"].embedded, workers["b"].embedded) == (0, 4)
    await client.drain_worker(DrainWorkerRequest(worker="protoplane/inference/b"))
    with pytest.raises(PlaneError, match="inference/a is draining") as caught:
        await front.inference.embed(request)
    assert caught.value.code is Code.UNAVAILABLE
    back = (await client.undrain_worker(UndrainWorkerRequest(worker="a"))).worker
    assert back is not None
    assert back.health is WorkerHealth.WORKER_HEALTH_READY
    await front.inference.embed(request)
    assert workers["a"].embedded == 1
    with pytest.raises(PlaneError, match="there is no worker 'z'; there are: a, b"):
        await client.drain_worker(DrainWorkerRequest(worker="z"))


async def test_changes_are_watched(fleet: Fleet) -> None:
    front = await fleet.orchestrator()
    request = WatchWorkersRequest(interval=Duration(nanos=10_000_000))
    watching: Any = front.overseer.watch_workers(request, timeout_s=60)
    assert (await anext(watching)).workers == []
    worker = await fleet.worker("a", Worker(capacity=1))

    async def until(health: str) -> None:
        async for told in watching:
            if [each.health.name for each in told.workers] == [f"WORKER_HEALTH_{health}"]:
                return

    await until("READY")
    worker.go.clear()
    call = asyncio.create_task(front.inference.embed(EmbedRequest(model="m", texts=["a"])))
    await until("BUSY")
    worker.go.set()
    await call
    worker.refuse = LOST
    with pytest.raises(PlaneError):
        await front.text(GenerateRequest(model="m", prompt="p", sampling=GREEDY))
    stopping = asyncio.create_task(fleet.servers["a"].stop())
    async for told in watching:
        if not told.workers:
            break
    await stopping
    # Nobody has to leave for the server to stop.
    await asyncio.wait_for(front.server.stop(30), 20)


async def test_over_http(fleet: Fleet) -> None:
    await fleet.worker("a", Worker(capacity=3))
    made = Orchestrator(OrchestratorSettings())
    options = fleet.options("protoplane/orchestrator/web", http="127.0.0.1:0", link=())
    async with (
        Server([made.overseer, made], options) as server,
        httpx.AsyncClient(base_url=server.http_url or "") as http,
    ):
        await eventually(lambda: any(each.known for each in made.pool.workers.values()))
        listed = (await http.get("/orchestrator/v1/workers")).json()
        assert [worker["capacity"] for worker in listed["workers"]] == [3]
        drained = await http.post("/orchestrator/v1/workers/a:drain", json={})
        assert drained.json()["worker"]["health"] == "WORKER_HEALTH_DRAINING"
        await http.post("/orchestrator/v1/workers/a:undrain", json={})
        answer = await http.post("/inference/v1/models/m:embed", json={"texts": ["abc"]})
        assert answer.json()["embeddings"] == [{"values": [3.0]}]
        metrics = (await http.get("/metrics")).text
        for line in (
            "protoplane_orchestrator_workers 1.0",
            "protoplane_orchestrator_queued 0.0",
            "protoplane_orchestrator_requests_total 1.0",
            'protoplane_orchestrator_in_flight{worker="protoplane/inference/a"} 0.0',
            'protoplane_orchestrator_capacity{worker="protoplane/inference/a"} 3.0',
        ):
            assert line in metrics


async def test_it_is_found_by_its_name(fleet: Fleet) -> None:
    await fleet.worker("a")
    await fleet.orchestrator(workers=1)
    async with connect("protoplane/orchestrator", engine=fleet.engine) as plane:
        listed = await OrchestratorClient(plane).list_workers(ListWorkersRequest())
        assert [each.id for each in listed.workers] == ["a"]
