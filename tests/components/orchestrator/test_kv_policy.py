"""The policy that asks the KV router, with the router there, slow, gone and back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
from tests.components.orchestrator.scripted import (
    GREEDY,
    Fleet,
    Front,
    Worker,
    eventually,
    written,
)

from protoplane.inference.v1 import (
    Capability,
    Conversation,
    ConversationMessage,
    EmbedRequest,
    GenerateRequest,
    SamplingParameters,
    TokenIds,
)
from protoplane.router.v1 import (
    KvRouterService,
    LoadsRequest,
    LoadsResponse,
    ReleaseRequest,
    ReleaseResponse,
    SelectAndReserveRequest,
    SelectAndReserveResponse,
    Selection,
)
from protoplane_base import Code, PlaneError
from protoplane_components.kv_router import CostWeights, KvRouter, Router
from protoplane_components.kv_router import KvPolicy as CostPolicy
from protoplane_components.mocker import Mocker
from protoplane_components.mocker.settings import MockerSettings
from protoplane_components.orchestrator import OrchestratorSettings
from protoplane_components.orchestrator.kv_policy import KvPolicy
from protoplane_components.orchestrator.needs import Need
from protoplane_server import Context, Server

pytestmark = pytest.mark.anyio

# A machine that is busy with other tests must not make the router look slow.
PATIENT = OrchestratorSettings(policy="kv", router_timeout_s=20, router_again_s=0.05)
HASTY = OrchestratorSettings(policy="kv", router_timeout_s=0.2, router_again_s=0.05)
BLOCK = 16


def tokens_of(text: str) -> bytes:
    """The tokens of a mocker."""
    return text.encode()


async def mock(fleet: Fleet, stack: AsyncExitStack, id_: str) -> Mocker:
    """A worker that tells what it has cached."""
    made = Mocker(MockerSettings(model="m", block_size=BLOCK, speedup=1000.0))
    options = fleet.options(f"protoplane/inference/{id_}")
    await stack.enter_async_context(Server([made, made.cache], options))
    return made


async def router(fleet: Fleet, made: KvRouterService | None = None) -> tuple[KvRouter, Server]:
    # Else one that had no requests yet would be given some of others' prompts.
    policy = CostPolicy(CostWeights(warm_requests=0))
    made_here = Router(block_size=BLOCK, policy=policy)
    component = KvRouter(made_here, tokenizer=tokens_of, snapshot_interval_s=None)
    server = Server(made or component, fleet.options("protoplane/router/one"))
    await server.start()
    return component, server


def policy_of(front: Front) -> KvPolicy:
    policy = front.made.pool.policy
    assert isinstance(policy, KvPolicy)
    return policy


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


@pytest.mark.parametrize("kind", ["prompt", "token_ids", "conversation"])
async def test_a_prompt_goes_where_it_is_cached(
    fleet: Fleet, stack: AsyncExitStack, kind: str
) -> None:
    component, server = await router(fleet)
    stack.push_async_callback(server.stop)
    for id_ in "abc":
        await mock(fleet, stack, id_)
    front = await fleet.orchestrator(PATIENT, workers=3)
    await eventually(lambda: policy_of(front).there and len(component.router.workers) == 3)

    def asked(text: str) -> GenerateRequest:
        request = GenerateRequest(model="m", sampling=SamplingParameters(max_tokens=4))
        if kind == "prompt":
            request.prompt = text
        elif kind == "token_ids":
            request.token_ids = TokenIds(ids=[*text.encode()])
        else:
            said = ConversationMessage(role="user", content=text)
            request.conversation = Conversation(messages=[said])
        return request

    texts = {f"{letter}": letter * 40 * BLOCK for letter in "xyz"}
    workers = front.made.pool.workers
    homes: dict[str, str] = {}
    for letter, text in texts.items():
        before = {name: worker.dispatched for name, worker in workers.items()}
        blocks = component.router.index.stats().blocks  # type: ignore[attr-defined]
        await front.text(asked(text))
        [homes[letter]] = [name for name in workers if workers[name].dispatched > before[name]]
        await eventually(lambda: component.router.index.stats().blocks >= blocks + 39)  # type: ignore[attr-defined]  # noqa: B023
    # The cache is what keeps them together, not the turn.
    for _ in range(2):
        for letter in "zzxyx":
            before = {name: worker.dispatched for name, worker in workers.items()}
            await front.text(asked(texts[letter] + "more"))
            [went] = [name for name in workers if workers[name].dispatched > before[name]]
            assert went == homes[letter]
    counts = front.made.counts
    assert (counts.routed, counts.unrouted) == (13, 0)
    await eventually(lambda: len(component.router.loads) == 0)


async def test_reservations_last_as_long_as_requests(fleet: Fleet, stack: AsyncExitStack) -> None:
    component, server = await router(fleet)
    stack.push_async_callback(server.stop)
    await mock(fleet, stack, "a")
    front = await fleet.orchestrator(PATIENT, workers=1)
    await eventually(lambda: policy_of(front).there and len(component.router.workers) == 1)
    request = GenerateRequest(
        model="m", prompt="p" * 64, sampling=SamplingParameters(max_tokens=100_000)
    )
    answers = front.inference.generate(request)
    assert (await anext(answers)).text
    await eventually(lambda: len(component.router.loads) == 1)
    # The prompt is computed, and the answer fills blocks.
    await eventually(
        lambda: (
            component.router.loads.figures.prefill_tokens[0] == 0
            and component.router.loads.figures.decode_blocks[0] > 0
        )
    )
    await answers.aclose()  # type: ignore[attr-defined]
    await eventually(lambda: len(component.router.loads) == 0)


async def test_the_router_is_done_without_and_asked_again(
    fleet: Fleet, stack: AsyncExitStack
) -> None:
    for id_ in "ab":
        await mock(fleet, stack, id_)
    front = await fleet.orchestrator(PATIENT, workers=2)
    policy = policy_of(front)
    request = GenerateRequest(model="m", prompt="p" * 64, sampling=SamplingParameters(max_tokens=4))
    # Nobody is there to wait for.
    policy.settings = HASTY
    for _ in range(3):
        assert len(await front.text(request)) == 4
    assert (front.made.counts.routed, front.made.counts.unrouted) == (0, 3)
    component, server = await router(fleet)
    policy.settings = PATIENT
    while not front.made.counts.routed:
        assert len(await front.text(request)) == 4
    await eventually(lambda: len(component.router.workers) == 2)
    # It goes, under requests that are being written.
    long = GenerateRequest(model="m", prompt="p" * 64, sampling=SamplingParameters(max_tokens=2000))
    texts = [asyncio.create_task(front.text(long)) for _ in range(8)]
    await eventually(lambda: front.made.counts.routed >= 5)
    policy.settings = HASTY
    await server.stop(0)
    assert [len(text) for text in await asyncio.gather(*texts)] == [2000] * 8
    unrouted = front.made.counts.unrouted
    for _ in range(3):
        assert len(await front.text(request)) == 4
    assert front.made.counts.unrouted == unrouted + 3
    policy.settings = PATIENT
    _, again = await router(fleet)
    stack.push_async_callback(again.stop)
    routed = front.made.counts.routed
    while front.made.counts.routed == routed:
        assert len(await front.text(request)) == 4


class Slow(KvRouterService):
    """A router that never answers."""

    def __init__(self) -> None:
        self.asked = self.cancelled = 0

    async def select_and_reserve(
        self, request: SelectAndReserveRequest, ctx: Context
    ) -> SelectAndReserveResponse:
        """Hang."""
        self.asked += 1
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        raise AssertionError("it has slept")


async def test_a_slow_router_is_not_waited_for(fleet: Fleet, stack: AsyncExitStack) -> None:
    slow = Slow()
    _, server = await router(fleet, slow)
    stack.push_async_callback(server.stop, 0)
    worker = await fleet.worker("a")
    front = await fleet.orchestrator(PATIENT, workers=1)
    policy = policy_of(front)
    await eventually(lambda: policy.there)
    policy.settings = OrchestratorSettings(policy="kv", router_timeout_s=0.5, router_again_s=3600)
    request = GenerateRequest(model="m", prompt="p", sampling=GREEDY)
    for _ in range(5):
        assert await front.text(request) == written("p", 20)
    # One request found out; the others did not wait for the same.
    assert slow.asked == 1
    assert not policy.there
    await eventually(lambda: slow.cancelled == slow.asked)
    assert front.made.counts.unrouted == len(worker.calls) == 5


async def test_of_a_long_prompt_the_router_reads_the_beginning(
    fleet: Fleet, stack: AsyncExitStack
) -> None:
    component, server = await router(fleet)
    stack.push_async_callback(server.stop)
    await mock(fleet, stack, "a")
    front = await fleet.orchestrator(PATIENT, workers=1)
    await eventually(lambda: policy_of(front).there and len(component.router.workers) == 1)
    request = GenerateRequest(model="m", prompt="p" * 300_000, sampling=GREEDY)
    choice = await policy_of(front).choose(
        Need("m", Capability.CAPABILITY_GENERATE, text=request),
        [*front.made.pool.workers.values()],
    )
    assert choice.reservation is not None
    [load] = component.router.loads.loads()
    assert load.prefill_tokens == 200_000
    choice.reservation.release()
    await eventually(lambda: len(component.router.loads) == 0)


class Late(KvRouterService):
    """A router whose answers do not come, although it has made the reservations."""

    def __init__(self) -> None:
        self.reserved: list[str] = []
        self.released: list[str] = []

    async def select_and_reserve(
        self, request: SelectAndReserveRequest, ctx: Context
    ) -> SelectAndReserveResponse:
        """Reserve, and hang."""
        assert request.request is not None
        self.reserved.append(request.request.request_id)
        await asyncio.sleep(3600)
        raise AssertionError("it has slept")

    async def release(self, request: ReleaseRequest, ctx: Context) -> ReleaseResponse:
        """Take note."""
        self.released.append(request.reservation_id)
        return ReleaseResponse(found=True)


async def test_a_caller_that_leaves_while_the_router_thinks_reserves_nothing(
    fleet: Fleet, stack: AsyncExitStack
) -> None:
    late = Late()
    _, server = await router(fleet, late)
    stack.push_async_callback(server.stop, 0)
    await fleet.worker("a")
    front = await fleet.orchestrator(PATIENT, workers=1)
    await eventually(lambda: policy_of(front).there)
    request = GenerateRequest(model="m", prompt="p", sampling=GREEDY)
    text = asyncio.create_task(front.text(request))
    await eventually(lambda: len(late.reserved) == 1)
    text.cancel()
    await asyncio.wait([text])
    await eventually(lambda: late.released == late.reserved)


class Moody(Late):
    """A router that names the worker ``a``, and answers only while it is awake."""

    def __init__(self) -> None:
        super().__init__()
        self.awake = asyncio.Event()
        self.awake.set()

    async def select_and_reserve(
        self, request: SelectAndReserveRequest, ctx: Context
    ) -> SelectAndReserveResponse:
        """Reserve, and answer when it is awake."""
        assert request.request is not None
        id_ = request.request.request_id
        self.reserved.append(id_)
        await self.awake.wait()
        return SelectAndReserveResponse(selection=Selection(worker_id="a"), reservation_id=id_)

    async def loads(self, request: LoadsRequest, ctx: Context) -> LoadsResponse:
        """Tell nothing, when it is awake."""
        await self.awake.wait()
        return LoadsResponse()


async def test_a_router_that_is_back_hears_what_is_over(
    fleet: Fleet, stack: AsyncExitStack
) -> None:
    moody = Moody()
    _, server = await router(fleet, moody)
    stack.push_async_callback(server.stop, 0)
    worker = await fleet.worker("a")
    worker.go.clear()
    front = await fleet.orchestrator(PATIENT, workers=1)
    policy = policy_of(front)
    await eventually(lambda: policy.there)
    request = GenerateRequest(model="m", prompt="p", sampling=GREEDY)
    texts = [asyncio.create_task(front.text(request))]
    await eventually(lambda: worker.active == 1)
    moody.awake.clear()
    policy.settings = HASTY
    texts.append(asyncio.create_task(front.text(request)))
    await eventually(lambda: worker.active == 2)
    assert not policy.there
    worker.go.set()
    assert await asyncio.gather(*texts) == [written("p", 20)] * 2
    assert moody.released == []
    moody.awake.set()
    await eventually(lambda: sorted(moody.released) == sorted(moody.reserved))
    assert len(moody.reserved) == 2


class Deaf(KvRouterService):
    """A router without a tokenizer, which knows no worker."""

    def __init__(self) -> None:
        self.asked = 0

    async def select_and_reserve(
        self, request: SelectAndReserveRequest, ctx: Context
    ) -> SelectAndReserveResponse:
        """Refuse."""
        self.asked += 1
        assert request.request is not None
        assert request.request.prompt is not None
        if request.request.prompt.text is not None:
            raise PlaneError(Code.INVALID_ARGUMENT, "this router has no tokenizer")
        return SelectAndReserveResponse()


async def test_a_router_that_reads_no_texts_is_asked_for_tokens_only(
    fleet: Fleet, stack: AsyncExitStack
) -> None:
    deaf = Deaf()
    _, server = await router(fleet, deaf)
    stack.push_async_callback(server.stop)
    await fleet.worker("a")
    front = await fleet.orchestrator(PATIENT, workers=1)
    await eventually(lambda: policy_of(front).there)
    for _ in range(3):
        await front.text(GenerateRequest(model="m", prompt="p", sampling=GREEDY))
    assert deaf.asked == 1
    for _ in range(2):
        ids = TokenIds(ids=[112])
        await front.text(GenerateRequest(model="m", token_ids=ids, sampling=GREEDY))
    assert deaf.asked == 3
    await front.inference.embed(EmbedRequest(model="m", texts=["a"]))
    assert deaf.asked == 3


async def test_those_who_waited_are_counted_by_the_router(
    fleet: Fleet, stack: AsyncExitStack
) -> None:
    component, server = await router(fleet)
    stack.push_async_callback(server.stop)
    await mock(fleet, stack, "a")
    settings = OrchestratorSettings(policy="kv", router_timeout_s=20, default_capacity=1)
    front = await fleet.orchestrator(settings, workers=1)
    await eventually(lambda: policy_of(front).there and len(component.router.workers) == 1)
    request = GenerateRequest(
        model="m", prompt="p" * 64, sampling=SamplingParameters(max_tokens=50)
    )
    texts = await asyncio.gather(*(front.text(request) for _ in range(5)))
    assert [len(text) for text in texts] == [50] * 5
    assert front.made.counts.routed >= 5
    await eventually(lambda: len(component.router.loads) == 0)


async def test_a_worker_that_the_router_does_not_know_is_used_all_the_same(
    fleet: Fleet, stack: AsyncExitStack
) -> None:
    _, server = await router(fleet)
    stack.push_async_callback(server.stop)
    worker = await fleet.worker("a", Worker("m"))
    front = await fleet.orchestrator(PATIENT, workers=1)
    await eventually(lambda: policy_of(front).there)
    for _ in range(2):
        request = GenerateRequest(model="m", prompt="p", sampling=GREEDY)
        assert await front.text(request) == written("p", 20)
    assert len(worker.calls) == 2
