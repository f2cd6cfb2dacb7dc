"""The router as a component: the same through every door, and for curl."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import httpx
import pytest
from tests.components.kv_router.truth import eventually

from protoplane.router.v1 import (
    BlockSequence,
    BlocksStored,
    DumpRequest,
    ExplainRequest,
    KvEvent,
    KvRouterClient,
    LoadsRequest,
    OutputBlocksRequest,
    PrefillCompletedRequest,
    Prompt,
    QueryRequest,
    RegisterWorkerRequest,
    ReleaseRequest,
    RemoveWorkerRequest,
    RestoreRequest,
    RoutingRequest,
    SelectAndReserveRequest,
    SelectRequest,
    TokenSequence,
    Worker,
    WorkersRequest,
)
from protoplane_base import Code, Duration, PlaneError
from protoplane_client import connect
from protoplane_components.kv_router import (
    Admission,
    KvIndex,
    KvRouter,
    Router,
    Target,
    block_hashes,
)
from protoplane_server import Options, Server

pytestmark = pytest.mark.anyio

TOKENS = list(range(64))
HASHES = block_hashes(TOKENS, 16).tolist()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@dataclass
class Running:
    """A router that is served, and a client of one of its doors."""

    component: KvRouter
    server: Server
    client: KvRouterClient

    async def register(self, *ids: str, model: str = "") -> None:
        for id_ in ids:
            worker = Worker(id=id_, block_size=16, model=model, endpoint=f"at-{id_}")
            await self.client.register_worker(RegisterWorkerRequest(worker=worker))

    async def stored(self, worker: str, blocks: list[int], event_id: int = 1) -> None:
        """Tell by the event plane that a worker has the first blocks of the prompt."""
        stored = BlocksStored(block_hashes=blocks, tokens_hashes=HASHES[: len(blocks)])
        event = KvEvent(worker=worker, event_id=event_id, block_size=16, stored=stored)
        await self.server.events.publish(
            f"router/kv-events/{worker}/0",
            "protoplane.router.v1.KvEvent",
            event.to_bytes(),
            event.model_dump_json(),
            durable=True,
        )

        def there() -> bool:
            follower = self.component.follower
            assert follower is not None
            courses = {target.worker: course for target, course in follower.courses.items()}
            course = courses[worker]
            return course.in_sync and course.event_id == event_id

        await eventually(there)


@pytest.fixture(params=["grpc", "http", "link"])
async def running(request: pytest.FixtureRequest) -> AsyncIterator[Running]:
    router = Router(block_size=16, admission=Admission(max_active_requests=2))
    component = KvRouter(router, tokenizer=lambda text: [*text.encode()])
    options = Options(
        grpc="127.0.0.1:0", http="127.0.0.1:0", link=("link+tcp://127.0.0.1:0",), engine="memory:"
    )
    async with Server(component, options) as server:
        target = {
            "grpc": f"grpc://{server.grpc_address}",
            "http": str(server.http_url),
            "link": server.link_addresses[0],
        }[request.param]
        async with connect(target) as plane:
            yield Running(component, server, KvRouterClient(plane))


def asked(**more: object) -> RoutingRequest:
    prompt = Prompt(tokens=TokenSequence(ids=TOKENS))
    return RoutingRequest.model_validate({"prompt": prompt, **more})


async def test_the_worker_that_has_the_prompt_is_chosen_and_the_table_says_why(
    running: Running,
) -> None:
    await running.register("a", "b", "c")
    await running.stored("b", [1, 2, 3])
    answer = await running.client.select(SelectRequest(request=asked()))
    selection = answer.selection
    assert selection is not None
    assert (selection.worker_id, selection.endpoint) == ("b", "at-b")
    assert (selection.overlap_blocks, selection.prompt_blocks) == (3, 4)
    assert (selection.policy, selection.degraded) == ("kv", False)
    assert selection.scores[0].worker_id == "b"
    assert {score.worker_id for score in selection.scores} == {"a", "b", "c"}
    assert selection.scores[0].device_blocks == 3
    assert selection.scores[0].cost < selection.scores[1].cost
    without = await running.client.select(SelectRequest(request=asked(omit_scores=True)))
    assert without.selection is not None
    assert not without.selection.scores


async def test_a_prompt_may_be_hashes_or_text(running: Running) -> None:
    await running.register("a", "b")
    await running.stored("b", [1, 2])
    prompt = Prompt(blocks=BlockSequence(hashes=HASHES))
    by_hashes = await running.client.query(QueryRequest(prompt=prompt))
    assert [(each.worker_id, each.device_blocks) for each in by_hashes.overlaps] == [("b", 2)]
    text = Prompt(text=bytes(TOKENS).decode())
    assert await running.client.query(QueryRequest(prompt=text)) == by_hashes
    assert by_hashes.prompt_blocks == 4


async def test_reservations_count_until_they_are_released(running: Running) -> None:
    await running.register("a")
    reserved = await running.client.select_and_reserve(SelectAndReserveRequest(request=asked()))
    id_ = reserved.reservation_id
    [load] = (await running.client.loads(LoadsRequest())).loads
    assert (load.active_requests, load.prefill_tokens, load.decode_blocks) == (1, 64, 4)
    done = PrefillCompletedRequest(reservation_id=id_)
    assert (await running.client.prefill_completed(done)).found
    wrote = OutputBlocksRequest(reservation_id=id_, blocks=3)
    assert (await running.client.output_blocks(wrote)).found
    [load] = (await running.client.loads(LoadsRequest())).loads
    assert (load.active_requests, load.prefill_tokens, load.decode_blocks) == (1, 0, 7)
    release = ReleaseRequest(reservation_id=id_)
    assert (await running.client.release(release)).found
    assert not (await running.client.release(release)).found
    [load] = (await running.client.loads(LoadsRequest())).loads
    assert (load.active_requests, load.decode_blocks) == (0, 0)


async def test_a_lost_release_heals_with_the_lease(running: Running) -> None:
    await running.register("a")
    lease = Duration.from_seconds(0.05)
    for _ in range(4):
        # Two are the most that a worker may have: the next waits for the leases to end.
        await running.client.select_and_reserve(
            SelectAndReserveRequest(request=asked(), lease=lease), timeout_s=30
        )


async def test_busy_workers_are_told_with_a_hint(running: Running) -> None:
    await running.register("a")
    for _ in range(2):
        await running.client.select_and_reserve(SelectAndReserveRequest(request=asked()))
    with pytest.raises(PlaneError) as caught:
        await running.client.select(SelectRequest(request=asked()))
    assert caught.value.code is Code.RESOURCE_EXHAUSTED
    assert "try again in" in caught.value.message


async def test_who_waits_until_its_deadline_is_told_when_to_come_again(running: Running) -> None:
    await running.register("a")
    for _ in range(2):
        await running.client.select_and_reserve(SelectAndReserveRequest(request=asked()))
    with pytest.raises(PlaneError) as caught:
        await running.client.select_and_reserve(
            SelectAndReserveRequest(request=asked()), timeout_s=2
        )
    assert caught.value.code is Code.RESOURCE_EXHAUSTED
    assert "try again in" in caught.value.message


async def test_a_lease_may_be_as_long_as_a_duration_can_say(running: Running) -> None:
    await running.register("a")
    lease = Duration(seconds=315_576_000_000)
    answer = await running.client.select_and_reserve(
        SelectAndReserveRequest(request=asked(), lease=lease)
    )
    assert answer.expires_at is not None
    assert answer.expires_at.seconds == 253_402_300_799


async def test_a_worker_that_leaves_takes_its_blocks_and_reservations(running: Running) -> None:
    await running.register("a")
    await running.stored("a", [1, 2])
    await running.client.select_and_reserve(SelectAndReserveRequest(request=asked()))
    removed = await running.client.remove_worker(RemoveWorkerRequest(worker_id="a"))
    assert (removed.found, removed.released) == (True, 1)
    assert not (await running.client.remove_worker(RemoveWorkerRequest(worker_id="a"))).found
    with pytest.raises(PlaneError) as caught:
        await running.client.select(SelectRequest(request=asked()))
    assert caught.value.code is Code.UNAVAILABLE
    await running.register("a")
    prompt = Prompt(blocks=BlockSequence(hashes=HASHES))
    # The log is what it comes from again.
    await running.stored("a", [3], event_id=2)
    found = await running.client.query(QueryRequest(prompt=prompt))
    assert [each.worker_id for each in found.overlaps] == ["a"]


async def test_models_are_kept_apart(running: Running) -> None:
    await running.register("a", model="small")
    await running.register("b", model="large")
    for model, worker in (("small", "a"), ("large", "b")):
        answer = await running.client.select(SelectRequest(request=asked(model=model)))
        assert answer.selection is not None
        assert answer.selection.worker_id == worker
    with pytest.raises(PlaneError, match="large, small") as caught:
        await running.client.select(SelectRequest(request=asked()))
    assert caught.value.code is Code.INVALID_ARGUMENT
    listed = await running.client.workers(WorkersRequest(model="large"))
    assert [each.worker and each.worker.id for each in listed.workers] == ["b"]


async def test_another_block_size_is_refused(running: Running) -> None:
    with pytest.raises(PlaneError, match="32") as caught:
        await running.client.register_worker(
            RegisterWorkerRequest(worker=Worker(id="a", block_size=32))
        )
    assert caught.value.code is Code.FAILED_PRECONDITION


async def test_a_dump_is_restored(running: Running) -> None:
    await running.register("a", "b")
    await running.stored("a", [1, 2, 3])
    pieces = [each.piece async for each in running.client.dump(DumpRequest())]
    assert {piece.worker_id for piece in pieces if piece} == {"a", "b"}
    await running.stored("b", [7, 8, 9, 10])
    index = running.component.router.index
    index.remove_worker("a")

    async def requests() -> AsyncIterator[RestoreRequest]:
        for piece in pieces:
            yield RestoreRequest(piece=piece)

    restored = await running.client.restore(requests())
    assert (restored.blocks, restored.workers) == (3, 2)
    prompt = Prompt(tokens=TokenSequence(ids=TOKENS))
    found = await running.client.query(QueryRequest(prompt=prompt))
    assert ("a", 3) in [(each.worker_id, each.device_blocks) for each in found.overlaps]


async def test_a_choice_is_explained(running: Running) -> None:
    await running.register("a", "b")
    await running.stored("b", [1, 2])
    told = await running.client.explain(ExplainRequest(request=asked(excluded_workers=["a"])))
    assert told.selection is not None
    assert told.selection.worker_id == "b"
    assert "1 are left out: excluded." in told.steps
    choice, cost = told.steps[-2:]
    assert choice == "The policy kv chooses b, rank 0, which has 2 of the blocks."
    assert cost.startswith("It costs ")
    assert cost.endswith(" 0.00 else.")
    assert told.formula.startswith("cost = ")


async def test_faults_are_said(running: Running) -> None:
    await running.register("a")
    for request, said in (
        (None, "request is missing"),
        (RoutingRequest(), "no prompt"),
        (asked(policy="magic"), "no policy 'magic'"),
        (
            RoutingRequest(prompt=Prompt(blocks=BlockSequence(hashes=[1, 2], tokens=0))),
            "a prompt of 2 blocks of .* not 0",
        ),
    ):
        with pytest.raises(PlaneError, match=said) as caught:
            await running.client.select(SelectRequest(request=request))
        assert caught.value.code is Code.INVALID_ARGUMENT


async def test_curl_is_a_client() -> None:
    async with (
        Server(KvRouter(Router(block_size=16)), Options(grpc=None, http="127.0.0.1:0")) as server,
        httpx.AsyncClient(base_url=f"{server.http_url}/router/v1", timeout=30) as http,
    ):
        added = await http.put("/workers/a", json={"blockSize": 16, "endpoint": "http://a"})
        assert (added.status_code, added.json()) == (200, {"added": True})
        refused = await http.put("/workers/b", json={"blockSize": 32})
        assert refused.status_code == 400
        assert "blocks of 32 tokens" in refused.text
        prompt = {"tokens": {"ids": TOKENS}}
        chosen = await http.post("/select", json={"request": {"prompt": prompt}})
        assert chosen.json()["selection"]["workerId"] == "a"
        reserved = await http.post(
            "/reservations", json={"request": {"prompt": prompt}, "lease": "60s"}
        )
        id_ = reserved.json()["reservationId"]
        done = await http.post(f"/reservations/{id_}:prefillCompleted", json={})
        assert done.json() == {"found": True}
        loads = (await http.get("/loads")).json()["loads"]
        assert loads == [{"workerId": "a", "activeRequests": 1, "decodeBlocks": "4"}]
        assert (await http.delete(f"/reservations/{id_}")).json() == {"found": True}
        workers = (await http.get("/workers")).json()["workers"]
        assert [each["worker"]["id"] for each in workers] == ["a"]
        metrics = (await http.get(f"{server.http_url}/metrics")).text
        assert "protoplane_router_workers 1.0" in metrics
        assert "protoplane_router_kv_event_gaps_total 0.0" in metrics
        assert (await http.delete("/workers/a")).json()["found"] is True
        nobody = await http.post("/select", json={"request": {"prompt": prompt}})
        assert nobody.status_code == 503


async def test_long_prompts_are_read_as_short_ones_are() -> None:
    """Through routes and rpcs, in pieces that the router knows already, and with faults."""
    tokens = [*range(2000)]
    router = KvRouter(Router(block_size=16))
    async with (
        Server(router, Options(grpc=None, http="127.0.0.1:0")) as server,
        httpx.AsyncClient(base_url=server.http_url or "", timeout=30) as http,
    ):
        await http.put("/router/v1/workers/a", json={"blockSize": 16})
        index = router.router.index
        assert isinstance(index, KvIndex)
        hashes = block_hashes(tokens, 16).tolist()
        index.store(Target("a"), hashes[:100], hashes[:100])
        rpc = "/protoplane.router.v1.KvRouterService/Select"
        for count in (1500, 1500, 1600, 2000, 1999, 1616):
            for path in ("/router/v1/select", rpc):
                asked = {"request": {"prompt": {"tokens": {"ids": tokens[:count]}}}}
                chosen = (await http.post(path, json=asked)).json()["selection"]
                assert chosen["promptBlocks"] == count // 16
                assert chosen["overlapBlocks"] == min(100, count // 16)
                cached = min(100, count // 16) * 16
                assert chosen["scores"][0].get("prefillTokens", 0) == count - cached
        wrong = {"request": {"prompt": {"tokens": {"ids": [*tokens, -1, 2, "x"]}}}}
        for path in ("/router/v1/select", rpc):
            refused = await http.post(path, json=wrong)
            assert refused.status_code == 400
            assert "request.prompt.tokens.ids" in refused.text
            assert "expected uint32" in refused.text
        left = await http.post("/router/v1/select", content=b"{" + b" " * 2000 + b'"ids": [1')
        assert left.status_code == 400
        metrics = (await http.get("/metrics")).text
        method = 'method="/protoplane.router.v1.KvRouterService/Select"'
        assert f'protoplane_calls_total{{code="OK",door="http",{method}}} 12.0' in metrics


def test_settings_that_do_not_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROTOPLANE_ROUTER_POLICY", "magic")
    with pytest.raises(PlaneError, match="no policy 'magic'"):
        KvRouter()
    monkeypatch.delenv("PROTOPLANE_ROUTER_POLICY")
    for variable in ("PROTOPLANE_ROUTER_WEIGHTS", "PROTOPLANE_ROUTER_ADMISSION"):
        with monkeypatch.context() as patched:
            patched.setenv(variable, "magic=1")
            with pytest.raises(PlaneError, match=f"{variable}: there is no magic"):
                KvRouter()
    monkeypatch.setenv("PROTOPLANE_ROUTER_BLOCK_SIZE", "big")
    with pytest.raises(PlaneError, match="PROTOPLANE_ROUTER_BLOCK_SIZE is 'big'"):
        KvRouter()
    for count, words in (("none", "is 'none'"), ("0", "is '0'"), ("5000", "1024 shards at most")):
        monkeypatch.setenv("PROTOPLANE_ROUTER_SHARDS", count)
        with pytest.raises(PlaneError, match=words):
            KvRouter()
