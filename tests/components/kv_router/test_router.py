"""The router as a library."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from random import Random

import pytest

from protoplane_base import Code, PlaneError
from protoplane_components.kv_router import (
    Admission,
    ApproximateIndex,
    CostWeights,
    Judgement,
    KvIndex,
    Overlap,
    QueueOrder,
    Request,
    Router,
    Target,
    View,
    Worker,
    block_hashes,
)

PROMPT = list(range(64))
HASHES = block_hashes(PROMPT, 16)
A, B = Target("a"), Target("b")


class Clock:
    """Time, as a test wants it."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def router(
    *ids: str,
    index: KvIndex | ApproximateIndex | None = None,
    admission: Admission | None = None,
    clock: Clock | None = None,
    policy: str = "kv",
) -> Router:
    made = Router(
        index=index,
        policy=policy,
        weights=CostWeights(warm_requests=0, decode=1),
        admission=admission or Admission(),
        clock=clock or Clock(),
        random=Random(0),
        lease_s=60,
    )
    for worker in ids or ("a", "b"):
        made.register(Worker(worker))
    return made


def test_the_worker_with_the_prompt_is_chosen_and_the_table_says_why() -> None:
    index = KvIndex()
    index.store(B, HASHES, HASHES)
    selection = router("a", "b", "c", index=index).select(
        Request(tokens=[*PROMPT, 1], excluded=frozenset("c"))
    )
    assert selection.target == B
    assert selection.overlap == Overlap(4)
    assert (selection.prompt_blocks, selection.prompt_tokens) == (4, 65)
    assert selection.prefill_tokens == 1
    first, second, third = selection.scores()
    assert (first.target, first.probability, first.barred) == (B, 1.0, "")
    assert (first.prefill, first.decode, first.cost) == (3 / 16, 5, 5 + 3 / 16)
    assert (second.target, second.overlap, second.cost) == (A, Overlap(), 3 * 65 / 16 + 5)
    assert (third.target.worker, third.barred, third.probability) == ("c", "excluded", 0.0)


@pytest.mark.parametrize("policy", ["kv", "least-loaded", "p2c", "random", "round-robin"])
def test_the_table_is_that_of_the_choice_however_late_it_is_asked_for(policy: str) -> None:
    index, late = KvIndex(), KvIndex()
    for each in (index, late):
        each.store(B, HASHES, HASHES)
    asked = Request(tokens=PROMPT, excluded=frozenset("c"))
    selection = router("a", "b", "c", index=index, policy=policy).select(asked)
    told = selection.scores()
    made = router("a", "b", "c", index=late, policy=policy)
    selection = made.select(asked)
    made.reserve(Request(tokens=PROMPT))
    made.reserve(Request(tokens=PROMPT, pinned=frozenset("b")))
    made.remove("a")
    late.clear(B)
    assert selection.scores() == told
    for score in told:
        parts = score.prefill + score.decode + score.active + score.bias
        assert score.cost == pytest.approx(parts)


def test_a_policy_of_ones_own() -> None:
    class Last:
        name = "last"
        needs_index = False

        def judge(self, view: View) -> Judgement:
            return Judgement(view.rows.item(-1))

    made = Router(policy=Last())
    for name in "abc":
        made.register(Worker(name))
    selection = made.select(Request(tokens=PROMPT, excluded=frozenset("c")))
    assert selection.target == B
    assert [score.probability for score in selection.scores()] == [1, 0, 0]
    assert made.select(Request(tokens=PROMPT, policy="least-loaded")).policy == "least-loaded"


def test_lora_and_namespace_are_part_of_a_block() -> None:
    index = KvIndex()
    hashes = block_hashes(PROMPT, 16, lora="x")
    index.store(A, hashes, hashes)
    made = router(index=index)
    assert made.overlaps(Request(tokens=PROMPT)) == {}
    assert made.overlaps(Request(tokens=PROMPT, lora="x")) == {A: Overlap(4)}
    assert made.overlaps(Request(tokens=PROMPT, lora="x", cache_namespace="y")) == {}
    assert made.overlaps(Request(hashes=hashes)) == {A: Overlap(4)}


def test_a_reservation_is_load_until_it_is_released() -> None:
    made = router()
    reservation, selection = made.reserve(Request(tokens=PROMPT, id="r"))
    busy = next(load for load in made.loads.loads() if load.target == selection.target)
    assert (busy.active_requests, busy.prefill_tokens, busy.decode_blocks) == (1, 64, 4)
    assert reservation.id == "r"
    assert made.select(Request(tokens=PROMPT[::-1])).target != selection.target
    assert made.prefill_completed("r")
    assert made.output_blocks("r", 3)
    busy = next(load for load in made.loads.loads() if load.target == selection.target)
    assert (busy.active_requests, busy.prefill_tokens, busy.decode_blocks) == (1, 0, 7)
    assert made.release("r") is reservation
    assert made.release("r") is None
    assert not made.prefill_completed("r")
    assert not made.output_blocks("r", 4)
    assert all(not load.active_requests and not load.decode_blocks for load in made.loads.loads())


def test_a_lost_release_heals() -> None:
    clock = Clock()
    made = router(clock=clock)
    made.reserve(Request(tokens=PROMPT, id="lost"))
    made.reserve(Request(tokens=PROMPT, id="alive"), lease_s=30)
    clock.now = 29
    made.output_blocks("alive", 1)
    clock.now = 58.9
    assert made.expire() == []
    clock.now = 60
    assert {ended.id for ended in made.expire()} == {"lost", "alive"}
    assert sum(load.active_requests for load in made.loads.loads()) == 0


def test_a_worker_that_leaves_takes_its_blocks_and_reservations_along() -> None:
    index = KvIndex()
    index.store(A, HASHES, HASHES)
    made = router(index=index)
    made.reserve(Request(tokens=PROMPT, id="1"))
    made.reserve(Request(tokens=PROMPT, id="2", pinned=frozenset("b")))
    assert [ended.id for ended in made.remove("a") or []] == ["1"]
    assert made.remove("a") is None
    assert made.select(Request(tokens=PROMPT)).target == B
    assert index.find(HASHES) == {}
    assert made.loads.loads()[0].active_requests == 1
    made.release("2")
    assert made.remove("b") == []
    with pytest.raises(PlaneError, match="there is no worker; register one") as caught:
        made.select(Request(tokens=PROMPT))
    assert caught.value.code is Code.UNAVAILABLE


def test_every_rank_of_a_worker_is_a_target() -> None:
    made = Router()
    assert made.register(Worker("a", dp_start=2, dp_size=2))
    assert made.loads.targets == [Target("a", 2), Target("a", 3)]
    assert not made.register(Worker("a", dp_start=3, dp_size=2))
    assert sorted(made.loads.targets) == [Target("a", 3), Target("a", 4)]


def test_another_block_size_is_refused() -> None:
    with pytest.raises(PlaneError, match="blocks of 32 tokens, this router of 16") as caught:
        Router().register(Worker("a", block_size=32))
    assert caught.value.code is Code.FAILED_PRECONDITION


def test_pinned_and_excluded_workers() -> None:
    made = router("a", "b", "c")
    assert made.select(Request(tokens=PROMPT, pinned=frozenset("c"))).target.worker == "c"
    excluded = frozenset({"a", "c"})
    assert made.select(Request(tokens=PROMPT, excluded=excluded)).target == B
    with pytest.raises(PlaneError, match="none of the 3 workers may take the request"):
        made.select(Request(tokens=PROMPT, pinned=frozenset("a"), excluded=excluded))


def test_a_session_stays_while_it_can() -> None:
    clock = Clock()
    made = router(clock=clock, policy="round-robin")
    home = made.reserve(Request(tokens=PROMPT, session="s"))[1]
    for _ in range(3):
        again = made.reserve(Request(tokens=PROMPT, session="s"))[1]
        assert (again.target, again.sticky) == (home.target, True)
    away = made.select(Request(tokens=PROMPT, session="s", excluded=frozenset(home.target.worker)))
    assert not away.sticky
    clock.now = 601
    assert not made.select(Request(tokens=PROMPT, session="s")).sticky


def test_an_approximate_index_learns_from_what_is_routed() -> None:
    made = router(index=ApproximateIndex())
    first = made.reserve(Request(tokens=PROMPT, id="1"))[1]
    made.release("1")
    again = made.select(Request(tokens=PROMPT))
    assert (again.target, again.overlap) == (first.target, Overlap(4))


def test_without_an_index_another_policy_answers() -> None:
    made = router()
    made.index_ready = False
    selection = made.select(Request(tokens=PROMPT))
    assert (selection.policy, selection.degraded) == ("least-loaded", True)
    assert not made.select(Request(tokens=PROMPT, policy="random")).degraded


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request(), "no prompt"),
        (Request(tokens=[1], policy="best"), "no policy 'best'; there are kv, round-robin"),
    ],
)
def test_a_request_that_makes_no_sense(request_: Request, message: str) -> None:
    with pytest.raises(PlaneError, match=message) as caught:
        router().select(request_)
    assert caught.value.code is Code.INVALID_ARGUMENT


def test_a_router_that_makes_no_sense() -> None:
    with pytest.raises(PlaneError, match="must be positive"):
        Router(block_size=0)
    with pytest.raises(PlaneError, match="the fallback 'kv' needs an index"):
        Router(fallback="kv")


# Too busy.

ONE = Admission(max_active_requests=1)


def test_a_busy_worker_is_passed_over_and_all_busy_is_refused_with_a_hint() -> None:
    index = KvIndex()
    index.store(A, HASHES, HASHES)
    made = router(index=index, admission=ONE)
    assert made.reserve(Request(tokens=PROMPT))[1].target == A
    second = made.reserve(Request(tokens=PROMPT))[1]
    assert second.target == B
    assert [(s.target, s.barred) for s in second.scores()] == [(B, ""), (A, "busy")]
    for refuse in (made.select, made.reserve):
        with pytest.raises(PlaneError, match="busy; try again in") as caught:
            refuse(Request(tokens=PROMPT))
        assert caught.value.code is Code.RESOURCE_EXHAUSTED
        (hint,) = caught.value.details
        assert hint.retry_delay.ToMilliseconds() > 0


@pytest.mark.parametrize(
    "admission", [Admission(max_prefill_tokens=64), Admission(max_decode_blocks=4)]
)
def test_each_limit_counts(admission: Admission) -> None:
    made = router("a", admission=admission)
    made.reserve(Request(tokens=PROMPT))
    with pytest.raises(PlaneError, match="busy"):
        made.select(Request(tokens=PROMPT))


async def waits(made: Router, count: int) -> None:
    async with asyncio.timeout(30):
        while made.queued != count:  # noqa: ASYNC110  # the library tells nobody who joins its queue
            await asyncio.sleep(0)


@pytest.mark.anyio
async def test_who_waits_gets_the_worker_that_becomes_free() -> None:
    made = router("a", admission=ONE)
    await made.acquire(Request(tokens=PROMPT, id="1"))
    async with asyncio.TaskGroup() as group:
        second = group.create_task(made.acquire(Request(tokens=PROMPT, id="2")))
        await waits(made, 1)
        made.release("1")
    assert second.result()[0].id == "2"
    assert made.queued == 0


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("order", "expected"),
    [
        (QueueOrder.FCFS, ["high", "long", "short"]),
        (QueueOrder.SHORTEST, ["high", "short", "long"]),
    ],
)
async def test_the_order_of_the_queue(order: QueueOrder, expected: list[str]) -> None:
    made = router("a", admission=Admission(max_active_requests=1, order=order))
    done: list[str] = []

    async def take(request: Request) -> None:
        reservation, _ = await made.acquire(request)
        done.append(reservation.id)
        made.release(reservation.id)

    made.reserve(Request(tokens=PROMPT, id="first"))
    async with asyncio.TaskGroup() as group:
        group.create_task(take(Request(tokens=PROMPT * 9, id="long")))
        await waits(made, 1)
        group.create_task(take(Request(tokens=PROMPT, id="short")))
        await waits(made, 2)
        group.create_task(take(Request(tokens=PROMPT * 20, id="high", priority=1)))
        await waits(made, 3)
        made.release("first")
    assert done == expected


@pytest.mark.anyio
async def test_a_cancellation_leaves_the_queue() -> None:
    made = router("a", admission=ONE)
    made.reserve(Request(tokens=PROMPT, id="1"))
    task = asyncio.create_task(made.acquire(Request(tokens=PROMPT)))
    await waits(made, 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert made.queued == 0
    made.release("1")
    assert len(made.loads) == 0


@pytest.mark.anyio
async def test_a_cancellation_just_after_the_worker_came_gives_it_back() -> None:
    made = router("a", admission=ONE)
    made.reserve(Request(tokens=PROMPT, id="1"))
    task = asyncio.create_task(made.acquire(Request(tokens=PROMPT)))
    await waits(made, 1)
    made.release("1")
    assert len(made.loads) == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(made.loads) == 0


@pytest.mark.anyio
async def test_a_lease_that_ends_makes_room() -> None:
    made = Router(admission=ONE, weights=CostWeights())
    made.register(Worker("a"))
    made.reserve(Request(tokens=PROMPT, id="lost"), lease_s=0.05)
    async with asyncio.timeout(30):
        reservation, _ = await made.acquire(Request(tokens=PROMPT, id="next"))
    assert reservation.id == "next"


@pytest.mark.anyio
async def test_who_cannot_wait_long_enough_is_refused() -> None:
    made = Router(admission=Admission(max_active_requests=1, max_queued=1))
    made.register(Worker("a"))
    made.reserve(Request(tokens=PROMPT, id="1"))
    with pytest.raises(PlaneError, match="busy; try again in"):
        await made.acquire(Request(tokens=PROMPT), timeout_s=0.01)
    assert made.queued == 0
    waiting = asyncio.create_task(made.acquire(Request(tokens=PROMPT)))
    await waits(made, 1)
    with pytest.raises(PlaneError, match="all workers are busy, and 1 requests wait"):
        await made.acquire(Request(tokens=PROMPT))
    made.release("1")
    await waiting


@pytest.mark.anyio
async def test_a_queue_known_to_be_too_long_refuses_at_once() -> None:
    clock = Clock()
    made = router("a", admission=ONE, clock=clock)
    made.reserve(Request(tokens=PROMPT, id="0"))
    # Two requests leave the queue 5 s apart: so one more waits about that long.
    for number in (1, 2):
        task = asyncio.create_task(made.acquire(Request(tokens=PROMPT, id=str(number))))
        await waits(made, 1)
        clock.now += 5
        made.release(str(number - 1))
        await task
    with pytest.raises(PlaneError, match=r"longer than the 2\.00 s") as caught:
        await made.acquire(Request(tokens=PROMPT), timeout_s=2)
    assert caught.value.details[0].retry_delay.ToMilliseconds() == 5000


def test_the_library_needs_no_runtime() -> None:
    code = (
        "import sys, protoplane_components.kv_router as kv; kv.Router(); kv.KvIndex();"
        "print([m for m in sys.modules if m.startswith(('protoplane_server', 'protoplane_client',"
        " 'protoplane_runtime', 'grpc'))])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert run.stdout == "[]\n", run.stderr
