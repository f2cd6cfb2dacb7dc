"""A router on an engine: workers by discovery, snapshots, replicas, and a start without them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.component_suite import component_options
from tests.components.kv_router.truth import Churn, eventually, indexed, state

from protoplane.inference.v1 import InferenceService
from protoplane.router.v1 import (
    PrefillCompletedRequest,
    Prompt,
    RegisterWorkerRequest,
    ReleaseRequest,
    RemoveWorkerRequest,
    RoutingRequest,
    SelectAndReserveRequest,
    SelectRequest,
    TokenSequence,
    Worker,
    WorkersRequest,
    WorkerStatus,
)
from protoplane_components.kv_router import Admission, KvIndex, KvRouter, Router, Target
from protoplane_components.kv_router.states import FetchedState
from protoplane_components.kv_router.worker import KvWorker
from protoplane_runtime.engines.objects.opening import open_object_store
from protoplane_server import Server

pytestmark = pytest.mark.anyio

REQUEST = RoutingRequest(prompt=Prompt(tokens=TokenSequence(ids=[*range(64)])))


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Place:
    """An engine with routers and workers on it."""

    def __init__(self, folder: Path, stack: AsyncExitStack) -> None:
        self.engine = f"local:{folder / 'engine'}"
        self.objects = (folder / "objects").as_uri()
        (folder / "objects").mkdir()
        self._stack = stack

    def options(self, name: str, **more: Any) -> Any:
        return component_options(engine=self.engine, objects=self.objects, name=name, **more)

    async def worker(self, id_: str, **more: Any) -> tuple[KvWorker, Server]:
        """Start a worker."""
        worker = KvWorker(Worker(block_size=16, **more))
        name = f"test/worker/{id_}"
        server = Server(worker, self.options(name, link=("link+tcp://127.0.0.1:0",)))
        await self._stack.enter_async_context(server)
        return worker, server

    async def router(
        self, id_: str, admission: Admission | None = None, **more: Any
    ) -> tuple[KvRouter, Server]:
        """Start a router."""
        inner = Router(block_size=16, admission=admission or Admission())
        router = KvRouter(inner, replica_interval_s=0.1, **more)
        server = Server(router, self.options(f"protoplane/router/{id_}", inproc=f"test-{id_}"))
        await self._stack.enter_async_context(server)
        return router, server


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    async with AsyncExitStack() as stack:
        yield Place(tmp_path, stack)


def same(router: KvRouter, worker: KvWorker) -> bool:
    """Whether the router's index holds what a worker does."""
    assert router.follower is not None
    index = router.router.index
    assert isinstance(index, KvIndex)
    course = router.follower.courses.get(Target(worker.id))
    return (
        course is not None
        and course.in_sync
        and indexed(index, Target(worker.id)) == state(worker) != {}
    )


async def test_workers_are_found_and_are_gone_at_once(place: Place) -> None:
    router, _ = await place.router("one")
    worker, server = await place.worker("w", model="small", total_blocks=99)
    churn = Churn(worker)
    for _ in range(100):
        churn.step()
    await eventually(lambda: same(router, worker))
    status = await router.workers(WorkersRequest(), context())
    [found] = status.workers
    assert found.worker is not None
    assert (found.worker.id, found.worker.model, found.worker.total_blocks) == ("w", "small", 99)
    assert found.discovered
    assert found.in_sync
    assert found.indexed_blocks == len(state(worker))
    reserved = await router.select_and_reserve(SelectAndReserveRequest(request=REQUEST), context())
    assert reserved.selection is not None
    assert reserved.selection.worker_id == "w"
    await server.stop()
    await eventually(lambda: not router.router.workers)
    assert router.router.loads.get(reserved.reservation_id) is None
    index = router.router.index
    assert isinstance(index, KvIndex)
    assert not index.targets()


class Writer(InferenceService):
    """Serves texts, and tells nothing of a cache."""


async def test_what_workers_without_events_hold_is_guessed(place: Place) -> None:
    router, _ = await place.router("one", workers_without_events="test/writer")
    teller, _ = await place.worker("w")
    name = "test/writer/x"
    server = Server(Writer(), place.options(name, link=("link+tcp://127.0.0.1:0",)))
    await server.start()
    both = [Writer(), KvWorker(Worker(block_size=16))]
    async with Server(both, place.options("test/writer/y", link=("link+tcp://127.0.0.1:0",))):
        await eventually(lambda: len(router.router.workers) == 3)
        silent = {id_: worker.no_events for id_, worker in router.router.workers.items()}
        assert silent == {"x": True, "y": False, "w": False}

        async def went(*pinned: str) -> tuple[str, int]:
            request = REQUEST.model_copy(update={"pinned_workers": [*pinned]})
            asked = SelectAndReserveRequest(request=request)
            answer = await router.select_and_reserve(asked, context())
            await router.release(ReleaseRequest(reservation_id=answer.reservation_id), context())
            assert answer.selection is not None
            return answer.selection.worker_id, answer.selection.overlap_blocks

        assert await went("x") == ("x", 0)
        for _ in range(2):
            assert await went() == ("x", 4)
        # Of the others only their events tell.
        assert await went("w") == ("w", 0)
        assert await went("w") == ("w", 0)
        status = {each.worker.id: each for each in await listed(router) if each.worker}
        assert (status["x"].in_sync, status["x"].indexed_blocks) == (True, 4)
        assert router.follower is not None
        assert {target.worker for target in router.follower.courses} == {"w", "y"}
        await server.stop()
        await eventually(lambda: "x" not in router.router.workers)
        assert len(router.router.guesses) == 0
    assert teller.id == "w"


async def test_a_worker_without_events_can_be_registered(place: Place) -> None:
    router, _ = await place.router("one")
    told = Worker(id="far", no_events=True)
    await router.register_worker(RegisterWorkerRequest(worker=told), context())
    asked = SelectAndReserveRequest(request=REQUEST)
    for blocks in (0, 4):
        answer = await router.select_and_reserve(asked, context())
        assert answer.selection is not None
        assert answer.selection.overlap_blocks == blocks
    # From when it tells, nothing is guessed of it.
    told = Worker(id="far", endpoint="http://127.0.0.1:1")
    await router.register_worker(RegisterWorkerRequest(worker=told), context())
    assert len(router.router.guesses) == 0
    [status] = await listed(router)
    assert status.worker == told


async def listed(router: KvRouter) -> list[WorkerStatus]:
    return (await router.workers(WorkersRequest(), context())).workers


async def test_a_worker_with_other_blocks_is_refused(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    router, _ = await place.router("one")
    odd = KvWorker(Worker(block_size=32))
    async with Server(odd, place.options("test/worker/odd")):
        await eventually(lambda: "blocks of 32 tokens, this router of 16" in caplog.text)
        assert not router.router.workers


async def test_a_path_chooses_the_workers(place: Place) -> None:
    router, _ = await place.router("one", workers="other/worker")
    await place.worker("w")
    mine = KvWorker(Worker(block_size=16))
    async with Server(mine, place.options("other/worker/mine")):
        await eventually(lambda: [*router.router.workers] == ["mine"])


async def test_a_worker_that_is_registered_by_its_link_is_asked_there(place: Place) -> None:
    router, _ = await place.router("one", workers="nowhere")
    worker, server = await place.worker("w")
    worker.stored([1, 2], [1, 2])
    await eventually(lambda: worker.waiting == 0)
    registered = Worker(id="w", block_size=16, endpoint=server.link_addresses[0])
    await router.register_worker(RegisterWorkerRequest(worker=registered), context())
    await eventually(lambda: same(router, worker))
    assert router.follower is not None
    assert router.follower.fetched == 1


async def test_a_router_that_starts_again_is_warm(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    router, server = await place.router("one")
    worker, _ = await place.worker("w")
    churn = Churn(worker)
    for _ in range(200):
        churn.step()
    await eventually(lambda: same(router, worker))
    extra = Worker(id="extra", block_size=16)
    await router.register_worker(RegisterWorkerRequest(worker=extra), context())
    await server.stop()
    for _ in range(50):
        churn.step()
    await eventually(lambda: worker.waiting == 0)

    async def nobody_is_asked(*_: object) -> FetchedState | None:
        raise AssertionError("its snapshot and the log have it all")

    membership = "protoplane_components.kv_router.membership.Membership.fetch"
    monkeypatch.setattr(membership, nobody_is_asked)
    again, _ = await place.router("two")
    assert [*again.router.workers] == ["extra"]
    await eventually(lambda: same(again, worker))
    assert again.follower is not None
    assert again.follower.fetched == 0


@pytest.mark.parametrize("damage", ["nothing", "cut", "other"])
async def test_a_damaged_snapshot_is_no_harm(place: Place, damage: str) -> None:
    router, server = await place.router("one")
    worker, _ = await place.worker("w")
    worker.stored([1, 2], [1, 2])
    await eventually(lambda: same(router, worker))
    await server.stop()
    store = await open_object_store(place.objects)
    key = "protoplane/router/index"
    async with store.get(key) as body:
        data = await body.read()
    if damage == "cut":
        await store.put(key, data[:-20])
    elif damage == "other":
        await store.put(key, b"something else, long enough to be read")
    again, _ = await place.router("two")
    await eventually(lambda: same(again, worker))


async def test_replicas_share_reservations(place: Place) -> None:
    one, first = await place.router("one")
    two, _ = await place.router("two")
    await place.worker("w")
    await eventually(lambda: bool(one.router.workers and two.router.workers))
    ids = [
        (
            await router.select_and_reserve(SelectAndReserveRequest(request=REQUEST), context())
        ).reservation_id
        for router in (one, two)
    ]
    await eventually(lambda: len(one.router.loads) == len(two.router.loads) == 2)
    # Each knows that it is not alone, so that they do not all choose the same worker.
    await one.select(SelectRequest(request=REQUEST), context())
    assert one.router.replicas == 2
    # A request may end at another replica than the one that placed it.
    assert (await two.release(ReleaseRequest(reservation_id=ids[0]), context())).found
    await eventually(lambda: len(one.router.loads) == 1)
    await first.stop()
    assert (await two.release(ReleaseRequest(reservation_id=ids[1]), context())).found


async def test_a_worker_that_is_registered_at_one_replica_is_there_at_all(place: Place) -> None:
    one, first = await place.router("one")
    two, second = await place.router("two")
    extra = Worker(id="extra", block_size=16, endpoint="http://10.0.0.1")
    await one.register_worker(RegisterWorkerRequest(worker=extra), context())
    await eventually(lambda: "extra" in two.router.workers)
    answer = await two.select(SelectRequest(request=REQUEST), context())
    assert answer.selection is not None
    assert answer.selection.endpoint == "http://10.0.0.1"
    late, third = await place.router("late")
    await eventually(lambda: "extra" in late.router.workers)
    await two.remove_worker(RemoveWorkerRequest(worker_id="extra"), context())
    await eventually(lambda: not one.router.workers and not late.router.workers)
    for server in (first, second, third):
        await server.stop()
    # Nor does it come back with the snapshot.
    again, _ = await place.router("again")
    assert not again.router.workers


async def test_other_namespaces_have_other_snapshots(place: Place) -> None:
    router = KvRouter(Router(block_size=16))
    async with Server(router, place.options("protoplane/router/one")):
        extra = Worker(id="extra", block_size=16)
        await router.register_worker(RegisterWorkerRequest(worker=extra), context())
    for namespace, workers in (("staging", []), ("default", ["extra"])):
        again = KvRouter(Router(block_size=16))
        async with Server(again, place.options("protoplane/router/two", namespace=namespace)):
            assert [*again.router.workers] == workers


async def test_a_prompt_that_is_computed_at_one_replica_makes_room_at_the_other(
    place: Place,
) -> None:
    limit = Admission(max_prefill_tokens=1)
    one, _ = await place.router("one", admission=limit)
    two, _ = await place.router("two", admission=limit)
    extra = Worker(id="extra", block_size=16)
    await one.register_worker(RegisterWorkerRequest(worker=extra), context())
    await eventually(lambda: "extra" in two.router.workers)
    asked = SelectAndReserveRequest(request=REQUEST)
    first = await one.select_and_reserve(asked, context())
    await eventually(lambda: len(two.router.loads) == 1)
    second = asyncio.create_task(two.select_and_reserve(asked, context()))
    await eventually(lambda: two.router.queued == 1)
    computed = PrefillCompletedRequest(reservation_id=first.reservation_id)
    await one.prefill_completed(computed, context())
    async with asyncio.timeout(30):
        assert (await second).reservation_id


async def test_a_cold_index_is_no_reason_to_wait(place: Place) -> None:
    """Until the worker has told its state, a policy that needs no index answers."""
    away = asyncio.Event()

    class Slow(KvWorker):
        async def kv_state(self, request: Any, ctx: Any) -> AsyncIterator[Any]:
            await away.wait()
            async for piece in super().kv_state(request, ctx):
                yield piece

    router, _ = await place.router("one", snapshot_interval_s=None)
    worker = Slow(Worker(block_size=16))
    options = place.options("test/worker/slow", link=("link+tcp://127.0.0.1:0",))
    async with Server(worker, options):
        worker.stored([1, 2], [1, 2])
        await eventually(lambda: bool(router.router.workers))
        answer = await router.select(SelectRequest(request=REQUEST), context())
        assert answer.selection is not None
        assert answer.selection.degraded
        assert answer.selection.policy == "least-loaded"
        away.set()
        await eventually(lambda: same(router, worker))
        answer = await router.select(SelectRequest(request=REQUEST), context())
        assert answer.selection is not None
        assert not answer.selection.degraded


def context() -> Any:
    """What handlers need of a call here."""

    class Calm:
        def time_remaining_s(self) -> float | None:
            return 30.0

    return Calm()
