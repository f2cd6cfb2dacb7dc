"""Hedged calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from functools import partial

import pytest
from tests.client.scripted_route import BAD, DOWN, HANG, UNSENT, ScriptedRoute, open_tasks
from tests.component_suite import CAPTION, COLLECT, CONVERSE, LIST_STYLES, each, eventually

from protoplane_base import CallOptions, Code, PlaneError
from protoplane_client.balanced import BalancedChannel
from protoplane_client.balancing import RoundRobin
from protoplane_client.hedging import HedgePolicy, first_answer
from protoplane_client.retrying import RetryBudget, RetryPolicy

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
async def no_task_is_left() -> AsyncIterator[None]:
    yield
    assert open_tasks() == []


def channel(
    *routes: ScriptedRoute,
    hedging: HedgePolicy | None = None,
    budget: RetryBudget | None = None,
    max_attempts: int = 4,
) -> BalancedChannel:
    return BalancedChannel(
        routes,
        picker=RoundRobin(),
        hedging=hedging,
        budget=budget,
        retries=RetryPolicy(max_attempts=max_attempts, first_s=0.001),
    )


async def answer(balanced: BalancedChannel, options: CallOptions) -> object:
    async with asyncio.timeout(30):
        return await balanced.unary(LIST_STYLES, "styles", options)


async def test_the_second_answers_and_the_first_is_cancelled() -> None:
    slow, fast = ScriptedRoute("slow", HANG), ScriptedRoute("fast")
    balanced = channel(slow, fast)
    assert await answer(balanced, {"hedge_after_s": 0.001}) == "fast"
    # Cancelled and awaited: not a turn of the loop later, but now.
    assert (slow.cancelled, slow.outstanding) == (1, 0)


async def test_an_answer_in_time_asks_nobody_else() -> None:
    one, two = ScriptedRoute("one"), ScriptedRoute("two")
    assert await answer(channel(one, two), {"hedge_after_s": 60}) == "one"
    assert two.calls == []


async def test_the_first_may_still_win() -> None:
    one, two = ScriptedRoute("one", HANG), ScriptedRoute("two", HANG)
    call = asyncio.create_task(answer(channel(one, two), {"hedge_after_s": 0}))
    await eventually(lambda: two.outstanding == 1)
    one.release.set()
    assert await call == "one"
    assert two.cancelled == 1


async def test_a_policy_hedges_all_that_may_be_repeated() -> None:
    routes = [ScriptedRoute(name, HANG) for name in "abc"]
    call = asyncio.create_task(
        answer(channel(*routes, hedging=HedgePolicy((0.001, 0.002, 0.003))), {})
    )
    await eventually(lambda: all(route.outstanding == 1 for route in routes))
    routes[2].release.set()
    assert await call == "c"
    assert [route.cancelled for route in routes] == [1, 1, 0]


async def test_a_policy_leaves_other_calls_alone() -> None:
    one, two = ScriptedRoute("one", HANG), ScriptedRoute("two")
    balanced = channel(one, two, hedging=HedgePolicy.after(0))
    call = asyncio.create_task(balanced.unary(CAPTION, "not idempotent", {}))
    await eventually(lambda: one.outstanding == 1)
    for _ in range(10):
        await asyncio.sleep(0)
    assert two.calls == []
    one.release.set()
    assert await call == "one"


async def test_a_failure_that_may_be_that_of_one_instance_brings_the_next_forward() -> None:
    one, two = ScriptedRoute("one", DOWN), ScriptedRoute("two")
    assert await answer(channel(one, two), {"hedge_after_s": 60}) == "two"


async def test_an_answer_wins_over_a_failure_before_it() -> None:
    one, two = ScriptedRoute("one", HANG), ScriptedRoute("two", DOWN)
    call = asyncio.create_task(answer(channel(one, two), {"hedge_after_s": 0}))
    await eventually(lambda: len(two.calls) == 1 and two.outstanding == 0)
    one.release.set()
    assert await call == "one"


async def test_any_other_failure_ends_it_at_once() -> None:
    one, two = ScriptedRoute("one", HANG), ScriptedRoute("two", BAD)
    with pytest.raises(PlaneError) as caught:
        await answer(channel(one, two), {"hedge_after_s": 0})
    assert caught.value is BAD
    assert (one.cancelled, one.outstanding) == (1, 0)


async def test_of_failures_at_the_same_time_the_one_that_is_final_counts() -> None:
    async def attempt(error: PlaneError, due: asyncio.Event) -> None:
        await due.wait()
        raise error

    async def both(first: PlaneError, second: PlaneError) -> None:
        due = asyncio.Event()
        asyncio.get_running_loop().call_later(0.001, due.set)
        another = iter([partial(attempt, second, due)])
        await first_answer(
            partial(attempt, first, due),
            lambda: next(another, None),
            HedgePolicy.after(0),
            lambda error: error is DOWN,
        )

    for errors in [(BAD, DOWN), (DOWN, BAD)] * 10:
        with pytest.raises(PlaneError) as caught:
            await both(*errors)
        assert caught.value is BAD


async def test_where_all_fail_the_call_is_retried() -> None:
    one, two = ScriptedRoute("one", DOWN), ScriptedRoute("two", UNSENT)
    assert await answer(channel(one, two), {"hedge_after_s": 0}) in ("one", "two")


async def test_attempts_are_limited_all_together() -> None:
    routes = [ScriptedRoute(name, *[DOWN] * 9) for name in "abcde"]
    balanced = channel(*routes, hedging=HedgePolicy.after(0, extra=9), max_attempts=3)
    with pytest.raises(PlaneError) as caught:
        await answer(balanced, {})
    assert caught.value is DOWN
    assert sum(len(route.calls) for route in routes) == 3


async def test_hedges_are_paid_from_the_budget() -> None:
    one, two = ScriptedRoute("one", HANG), ScriptedRoute("two", "quick", HANG)
    budget = RetryBudget(ratio=0, reserve=1)
    balanced = channel(one, two, budget=budget)
    assert await answer(balanced, {"hedge_after_s": 0}) == "quick"
    assert budget.tokens == 0
    one.script, two.script = [HANG], [HANG]
    call = asyncio.create_task(answer(balanced, {"hedge_after_s": 0}))
    await eventually(lambda: one.outstanding + two.outstanding == 1)
    for _ in range(10):
        await asyncio.sleep(0)
    one.release.set()
    two.release.set()
    assert await call in ("one", "two")
    assert len(one.calls) + len(two.calls) == 3


async def test_one_instance_is_not_asked_twice() -> None:
    one = ScriptedRoute("one", HANG)
    call = asyncio.create_task(answer(channel(one), {"hedge_after_s": 0}))
    await eventually(lambda: one.outstanding == 1)
    for _ in range(10):
        await asyncio.sleep(0)
    assert len(one.calls) == 1
    one.release.set()
    assert await call == "one"


async def test_cancelling_the_call_cancels_and_awaits_every_attempt() -> None:
    one, two = ScriptedRoute("one", HANG), ScriptedRoute("two", HANG)
    call = asyncio.create_task(answer(channel(one, two), {"hedge_after_s": 0}))
    await eventually(lambda: one.outstanding == two.outstanding == 1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert (one.cancelled, two.cancelled, one.outstanding, two.outstanding) == (1, 1, 0, 0)


async def test_cancelling_before_an_attempt_began_leaves_nothing() -> None:
    one, two = ScriptedRoute("one", HANG), ScriptedRoute("two", HANG)
    call = asyncio.create_task(answer(channel(one, two), {"hedge_after_s": 0}))
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert one.outstanding == two.outstanding == 0


async def test_a_fault_in_an_attempt_is_raised_as_it_is() -> None:
    one, two = ScriptedRoute("one", HANG), ScriptedRoute("two", TypeError("no codec"))
    with pytest.raises(TypeError, match="no codec"):
        await answer(channel(one, two), {"hedge_after_s": 0})
    assert one.outstanding == 0


async def test_each_attempt_has_what_is_left_of_the_time() -> None:
    one, two = ScriptedRoute("one", HANG), ScriptedRoute("two")
    await answer(channel(one, two), {"hedge_after_s": 0.02, "timeout_s": 5})
    assert one.timeouts_s == [5]
    assert 4 < two.timeouts_s[0] <= 4.98


async def test_what_cannot_be_hedged_says_so() -> None:
    balanced = channel(ScriptedRoute("one"), ScriptedRoute("two"))

    async def refused(call: Awaitable[object]) -> str:
        with pytest.raises(PlaneError) as caught:
            await call
        assert caught.value.code is Code.INVALID_ARGUMENT
        return caught.value.message

    late: CallOptions = {"hedge_after_s": 1}
    assert "idempotency_key" in await refused(balanced.unary(CAPTION, "words", late))
    early: CallOptions = {"hedge_after_s": -1}
    assert "below zero" in await refused(balanced.unary(LIST_STYLES, "", early))
    assert "stream" in await refused(anext(balanced.server_stream(LIST_STYLES, "", late)))
    assert "stream" in await refused(balanced.client_stream(COLLECT, each([]), late))
    assert "stream" in await refused(anext(balanced.bidi_stream(CONVERSE, each([]), late)))
    options: CallOptions = {"hedge_after_s": 0.5, "idempotency_key": "order-7"}
    assert await balanced.unary(CAPTION, "words", options) in ("one", "two")


async def test_a_delay_below_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="below zero"):
        HedgePolicy.after(-1)
