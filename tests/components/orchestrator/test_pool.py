"""Who gets which worker, who waits, and who is told that there is none."""

from __future__ import annotations

import asyncio

import pytest
from google.rpc.error_details_pb2 import RetryInfo
from tests.components.orchestrator.scripted import ALL, GREEDY, Fleet, Front, Worker, eventually

from protoplane.inference.v1 import (
    Capability,
    EmbedRequest,
    GenerateRequest,
    LoadModelRequest,
    UnloadModelRequest,
)
from protoplane.v1 import MetricsClient, StatsRequest
from protoplane_base import Code, PlaneError
from protoplane_components.inference import Inference
from protoplane_components.inference.announcing import announce
from protoplane_components.mocker import mocker
from protoplane_components.orchestrator import Orchestrator, OrchestratorSettings, orchestrator
from protoplane_runtime.engines.discovery import Instance
from protoplane_runtime.engines.opening import open_engine
from protoplane_server import Options, Server

pytestmark = pytest.mark.anyio

SOON = OrchestratorSettings(grace_s=0.05)


def embed(front: Front, model: str = "m", priority: int = 0) -> asyncio.Task[object]:
    request = EmbedRequest(model=model, texts=["a"], priority=priority)
    return asyncio.create_task(front.inference.embed(request))


@pytest.mark.parametrize("policy", ["round-robin", "least-loaded", "power-of-two"])
async def test_all_workers_are_used(fleet: Fleet, policy: str) -> None:
    workers = [await fleet.worker(id_) for id_ in "abc"]
    front = await fleet.orchestrator(OrchestratorSettings(policy=policy), workers=3)
    for worker in workers:
        worker.go.clear()
    calls = [embed(front) for _ in range(12)]
    await eventually(lambda: sum(worker.active for worker in workers) == 12)
    active = [worker.active for worker in workers]
    assert min(active) >= 1
    if policy != "power-of-two":
        assert active == [4, 4, 4]
    for worker in workers:
        worker.go.set()
    await asyncio.gather(*calls)


async def test_the_least_loaded_is_so_for_its_capacity(fleet: Fleet) -> None:
    large = await fleet.worker("a", Worker(capacity=30))
    small = await fleet.worker("b", Worker(capacity=10))
    front = await fleet.orchestrator(workers=2)
    for worker in (large, small):
        worker.go.clear()
    calls = [embed(front) for _ in range(20)]
    await eventually(lambda: large.active + small.active == 20)
    assert (large.active, small.active) == (15, 5)
    for worker in (large, small):
        worker.go.set()
    await asyncio.gather(*calls)


async def test_what_a_worker_says_of_its_load_counts(fleet: Fleet) -> None:
    busy = Worker()
    idle = await fleet.worker("idle")
    engine = await open_engine(fleet.engine)
    metadata = announce({"m": frozenset(ALL)}, 8)
    async with Server(busy, fleet.options("hidden/inference/busy", engine=None)) as server:
        instance = Instance(
            "protoplane/inference/busy", server.endpoints, server.services, (), metadata, load=0.9
        )
        async with engine.discovery.register(instance):
            front = await fleet.orchestrator(workers=2)
            for _ in range(5):
                await embed(front)
    await engine.close()
    assert (busy.embedded, idle.embedded) == (0, 5)


async def test_no_worker_has_more_than_it_takes(fleet: Fleet) -> None:
    workers = [await fleet.worker(id_, Worker(capacity=2)) for id_ in "ab"]
    front = await fleet.orchestrator(workers=2)
    for worker in workers:
        worker.go.clear()
    calls = [embed(front) for _ in range(10)]
    await eventually(lambda: front.made.pool.queued == 6)
    await eventually(lambda: [worker.active for worker in workers] == [2, 2])
    assert front.made.queued == 6
    for worker in workers:
        worker.go.set()
    await asyncio.gather(*calls)
    assert [worker.peak for worker in workers] == [2, 2]
    assert front.made.pool.queued == 0


async def test_those_with_a_higher_priority_go_first(fleet: Fleet) -> None:
    worker = await fleet.worker("a", Worker(capacity=1))
    front = await fleet.orchestrator(workers=1)
    worker.go.clear()
    calls = [embed(front)]
    await eventually(lambda: worker.active == 1)
    order: list[str] = []

    async def wait(name: str, priority: int) -> None:
        request = EmbedRequest(model="m", texts=[name], priority=priority)
        await front.inference.embed(request)
        order.append(name)

    for number, (name, priority) in enumerate([("a", 0), ("b", 5), ("c", 0), ("d", 5), ("e", -1)]):
        calls.append(asyncio.create_task(wait(name, priority)))
        await eventually(lambda: front.made.pool.queued == number + 1)  # noqa: B023  # at once
    worker.go.set()
    await asyncio.gather(*calls)
    assert order == ["b", "d", "a", "c", "e"]


async def test_a_full_queue_says_when_to_come_again(fleet: Fleet) -> None:
    worker = await fleet.worker("a", Worker(capacity=1))
    front = await fleet.orchestrator(OrchestratorSettings(max_queued=2), workers=1)
    worker.go.clear()
    calls = [embed(front) for _ in range(3)]
    await eventually(lambda: front.made.pool.queued == 2)
    with pytest.raises(PlaneError, match="2 requests wait for a worker, 2 are the most") as caught:
        await embed(front)
    assert caught.value.code is Code.RESOURCE_EXHAUSTED
    [hint] = caught.value.details
    assert isinstance(hint, RetryInfo)
    assert hint.retry_delay.ToMilliseconds() > 0
    assert front.made.counts.refused == 1
    stats = (await MetricsClient(front.plane).stats(StatsRequest())).stats
    assert stats is not None
    assert stats.queued == 2
    worker.go.set()
    await asyncio.gather(*calls)


async def test_who_leaves_the_queue_is_out_of_it(fleet: Fleet) -> None:
    worker = await fleet.worker("a", Worker(capacity=1))
    front = await fleet.orchestrator(workers=1)
    worker.go.clear()
    calls = [embed(front) for _ in range(3)]
    await eventually(lambda: front.made.pool.queued == 2)
    calls[-1].cancel()
    with pytest.raises(PlaneError) as caught:
        await front.inference.embed(EmbedRequest(model="m", texts=["a"]), timeout_s=0.2)
    assert caught.value.code is Code.DEADLINE_EXCEEDED
    await eventually(lambda: front.made.pool.queued == 1)
    worker.go.set()
    await asyncio.gather(*calls[:2])
    assert worker.embedded == 2
    assert front.made.counts.left == 2


async def test_one_that_waits_for_another_model_holds_up_nobody(fleet: Fleet) -> None:
    first = await fleet.worker("a", Worker("x", capacity=1))
    await fleet.worker("b", Worker("y", capacity=1))
    front = await fleet.orchestrator(workers=2)
    first.go.clear()
    calls = [embed(front, "x", priority=9) for _ in range(3)]
    await eventually(lambda: front.made.pool.queued == 2)
    for _ in range(3):
        await embed(front, "y")
    first.go.set()
    await asyncio.gather(*calls)


async def test_without_a_worker_it_says_what_to_start(fleet: Fleet) -> None:
    front = await fleet.orchestrator(SOON)
    for call in (
        embed(front),
        front.text(GenerateRequest(prompt="p")),
        front.inference.load_model(LoadModelRequest(model="m")),
    ):
        with pytest.raises(PlaneError, match=r"nobody serves protoplane/inference; start one"):
            await call


async def test_a_worker_that_comes_in_time_gets_what_waits(fleet: Fleet) -> None:
    front = await fleet.orchestrator(OrchestratorSettings(grace_s=30))
    calls = [embed(front) for _ in range(3)]
    await eventually(lambda: front.made.pool.queued == 3)
    worker = await fleet.worker("a")
    await asyncio.gather(*calls)
    assert worker.embedded == 3


async def test_an_unknown_model_is_not_found_at_once(fleet: Fleet) -> None:
    await fleet.worker("a", Worker("x", "y", able=[Capability.CAPABILITY_EMBED]))
    front = await fleet.orchestrator(OrchestratorSettings(grace_s=3600), workers=1)
    with pytest.raises(PlaneError, match="loaded are 'x', 'y'") as caught:
        await embed(front, "z")
    assert caught.value.code is Code.NOT_FOUND
    with pytest.raises(PlaneError, match="'x' cannot generate") as caught:
        await front.text(GenerateRequest(model="x", prompt="p"))
    assert caught.value.code is Code.UNIMPLEMENTED
    with pytest.raises(PlaneError, match="no model that can generate is loaded") as caught:
        await front.text(GenerateRequest(prompt="p"))
    assert caught.value.code is Code.FAILED_PRECONDITION


async def test_a_model_that_left_with_its_worker_may_come_back(fleet: Fleet) -> None:
    await fleet.worker("a", Worker("x"))
    await fleet.worker("b", Worker("y"))
    front = await fleet.orchestrator(SOON, workers=2)
    await fleet.servers["a"].stop(0)
    await eventually(lambda: front.known == ["b"])
    with pytest.raises(PlaneError, match="the worker that had the model 'x' is gone") as caught:
        await embed(front, "x")
    assert caught.value.code is Code.UNAVAILABLE


async def test_workers_that_come_and_go_are_followed(fleet: Fleet) -> None:
    front = await fleet.orchestrator()
    workers = {id_: await fleet.worker(id_) for id_ in "ab"}
    await eventually(lambda: sorted(front.known) == ["a", "b"])
    # It leaves discovery before it drains, and finishes what it has.
    workers["a"].go.clear()
    workers["b"].go.clear()
    calls = [embed(front) for _ in range(4)]
    await eventually(lambda: workers["a"].active == workers["b"].active == 2)
    stopping = asyncio.create_task(fleet.servers["a"].stop(30))
    await eventually(lambda: front.known == ["b"])
    for worker in workers.values():
        worker.go.set()
    await asyncio.gather(*calls)
    await stopping
    assert (workers["a"].embedded, workers["b"].embedded) == (2, 2)
    again = await fleet.worker("a")
    await eventually(lambda: sorted(front.known) == ["a", "b"])
    for _ in range(4):
        await embed(front)
    assert again.embedded == 2


async def test_workers_that_announce_nothing_are_asked(fleet: Fleet) -> None:
    worker = await fleet.worker("a", Worker("q", announces=False))
    settings = OrchestratorSettings(default_capacity=3, refresh_s=0.05)
    front = await fleet.orchestrator(settings, workers=1)
    await embed(front, "q")
    [known] = front.made.pool.workers.values()
    assert known.capacity == 3
    worker.models = {"r": worker.models["q"]}
    await eventually(lambda: [*known.models] == ["r"])
    await embed(front, "r")


async def test_the_standard_workers_are_workers(fleet: Fleet) -> None:
    options = fleet.options
    async with (
        Server(Inference(capacity=5), options("protoplane/inference/embedded")),
        Server(mocker(), options("protoplane/inference/mock")),
    ):
        front = await fleet.orchestrator(workers=2)
        models = [name for each in front.made.pool.workers.values() for name in each.models]
        assert sorted(models) == ["char-gru", "lexical", "mock"]
        assert front.made.pool.workers["protoplane/inference/embedded"].capacity == 5
        for model in ("char-gru", "mock"):
            request = GenerateRequest(model=model, prompt="the ", sampling=GREEDY)
            assert len(await front.text(request)) == 20
        # What it unloads it announces no more.
        await front.inference.unload_model(
            UnloadModelRequest(model="char-gru"), metadata={"protoplane-workers": "embedded"}
        )
        await eventually(
            lambda: (
                "char-gru" not in front.made.pool.workers["protoplane/inference/embedded"].models
            )
        )
        with pytest.raises(PlaneError, match="loaded are 'lexical', 'mock'"):
            await front.text(GenerateRequest(model="char-gru", prompt="p"))
        await front.inference.load_model(
            LoadModelRequest(model="char-gru"), metadata={"protoplane-workers": "embedded"}
        )
        await eventually(
            lambda: "char-gru" in front.made.pool.workers["protoplane/inference/embedded"].models
        )


async def test_it_is_no_worker_of_its_own(fleet: Fleet) -> None:
    alone = Orchestrator(OrchestratorSettings())
    with pytest.raises(PlaneError, match="would take itself for one of its workers"):
        await Server(alone, fleet.options("protoplane/inference/alone")).start()
    # Not even where it looks among all components.
    await fleet.worker("a")
    front = await fleet.orchestrator(OrchestratorSettings(workers="protoplane"), workers=1)
    assert front.known == ["a"]


async def test_without_an_engine_it_does_not_start() -> None:
    server = Server(orchestrator(), Options(grpc=None, http=None))
    assert server.name.startswith("protoplane/orchestrator/")
    with pytest.raises(PlaneError, match="serve it on an engine"):
        await server.start()


def test_the_environment_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    said = {
        "PROTOPLANE_ORCHESTRATOR_POLICY": "kv",
        "PROTOPLANE_ORCHESTRATOR_WORKERS": "forge/workers",
        "PROTOPLANE_ORCHESTRATOR_ROUTER": "forge/router",
        "PROTOPLANE_ORCHESTRATOR_RESUME": "on",
        "PROTOPLANE_ORCHESTRATOR_QUEUE": "7",
    }
    assert OrchestratorSettings.of(said) == OrchestratorSettings(
        policy="kv", workers="forge/workers", router="forge/router", resume=True, max_queued=7
    )
    assert OrchestratorSettings.of({}) == OrchestratorSettings()
    for name, value in (("POLICY", "best"), ("RESUME", "maybe"), ("QUEUE", "-1")):
        with pytest.raises(PlaneError, match=value):
            OrchestratorSettings.of({f"PROTOPLANE_ORCHESTRATOR_{name}": value})
    monkeypatch.setenv("PROTOPLANE_INFERENCE_CAPACITY", "none")
    with pytest.raises(PlaneError, match="PROTOPLANE_INFERENCE_CAPACITY is 'none'"):
        Inference()
