"""A channel over many routes: what it chooses, what it makes again, and how routes leave it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any, cast

import pytest
from tests.client.scripted_route import BAD, DOWN, HANG, UNSENT, ScriptedRoute, open_tasks
from tests.component_suite import CAPTION, COLLECT, CONVERSE, LIST_STYLES, each, eventually

from protoplane_base import CallOptions, Code, PlaneError
from protoplane_client.balanced import BalancedChannel
from protoplane_client.balancing import RoundRobin
from protoplane_client.breaker import BreakerPolicy
from protoplane_client.retrying import RetryBudget, RetryPolicy
from protoplane_client.route import ConnectionState, Route

pytestmark = pytest.mark.anyio

QUICK = RetryPolicy(first_s=0.001)


@pytest.fixture(autouse=True)
async def no_task_is_left() -> AsyncIterator[None]:
    yield
    assert open_tasks() == []


def channel(*routes: Route, **options: Any) -> BalancedChannel:
    chosen: dict[str, Any] = {"picker": RoundRobin(), "retries": QUICK, "ready_s": 0.0}
    return BalancedChannel(routes, **chosen | options)


async def styles(balanced: BalancedChannel, **options: Any) -> Any:
    async with asyncio.timeout(30):
        return await balanced.unary(LIST_STYLES, "styles", cast(CallOptions, options))


async def captions(balanced: BalancedChannel, **options: Any) -> list[Any]:
    answers = balanced.server_stream(LIST_STYLES, "styles", cast(CallOptions, options))
    async with asyncio.timeout(30):
        return [answer async for answer in answers]


async def failure(balanced: BalancedChannel, **options: Any) -> PlaneError:
    with pytest.raises(PlaneError) as caught:
        await styles(balanced, **options)
    return caught.value


class TestChoosing:
    async def test_every_route_has_its_turn(self) -> None:
        balanced = channel(*[ScriptedRoute(name) for name in "abc"])
        assert [await styles(balanced) for _ in range(6)] == list("abcabc")

    async def test_connected_routes_come_first(self) -> None:
        states = {state.value: state for state in ConnectionState}
        routes = {name: ScriptedRoute(name, state=state) for name, state in states.items()}
        balanced = channel(*routes.values())
        answers = {await styles(balanced) for _ in range(10)}
        # One that nobody asked to connect does so for its first call.
        assert answers == {"connected", "disconnected"}
        routes["connected"].state = routes["disconnected"].state = ConnectionState.FAILED
        assert await styles(balanced) == "reconnecting"

    async def test_draining_routes_get_no_new_calls(self) -> None:
        one, two = ScriptedRoute("one"), ScriptedRoute("two")
        balanced = channel(one, two)
        one.draining = True
        assert {await styles(balanced) for _ in range(4)} == {"two"}

    async def test_an_instance_by_its_name(self) -> None:
        balanced = channel(*[ScriptedRoute(name) for name in "abc"])
        assert {await styles(balanced, entity="b") for _ in range(4)} == {"b"}

    async def test_an_instance_that_is_not_there(self) -> None:
        error = await failure(channel(ScriptedRoute("a"), ScriptedRoute("b")), entity="c")
        assert error.code is Code.UNAVAILABLE
        assert "there is no instance c; there are: a, b" in error.message

    async def test_an_instance_that_cannot_take_it_is_not_replaced(self) -> None:
        one, two = ScriptedRoute("one", DOWN, DOWN, DOWN, DOWN), ScriptedRoute("two")
        balanced = channel(one, two)
        assert await failure(balanced, entity="one") is DOWN
        one.draining = True
        assert "one is draining" in (await failure(balanced, entity="one")).message
        assert two.calls == []

    async def test_a_sticky_key_stays_with_its_instance(self) -> None:
        routes = {name: ScriptedRoute(name) for name in "abcdef"}
        balanced = channel(*routes.values())
        keys = [str(key) for key in range(50)]
        before = {key: await styles(balanced, sticky_key=key) for key in keys}
        assert before == {key: await styles(balanced, sticky_key=key) for key in keys}
        routes["a"].draining = True
        after = {key: await styles(balanced, sticky_key=key) for key in keys}
        assert {key for key in keys if before[key] != after[key]} == {
            key for key in keys if before[key] == "a"
        }

    async def test_a_sticky_key_goes_elsewhere_while_its_instance_fails(self) -> None:
        routes = {name: ScriptedRoute(name) for name in "abc"}
        balanced = channel(*routes.values())
        home = await styles(balanced, sticky_key="session")
        routes[home].script = [DOWN]
        assert await styles(balanced, sticky_key="session") != home
        assert await styles(balanced, sticky_key="session") == home

    async def test_says_why_nobody_can_take_a_call(self) -> None:
        one, two, three = (ScriptedRoute(name) for name in ("one", "two", "three"))
        balanced = channel(one, two, three, breaking=BreakerPolicy(consecutive=1))
        three.script = [DOWN]
        balanced.replace([three])
        with pytest.raises(PlaneError):
            await balanced.unary(CAPTION, "words", {})
        balanced.replace([one, two, three])
        one.draining = True
        two.state = ConnectionState.FAILED
        error = await failure(balanced)
        assert error.code is Code.UNAVAILABLE
        for reason in ("one is draining", "two is failed", "three is left alone", "is down"):
            assert reason in error.message
        assert "/forge.captioner.v1.CaptionerService/ListStyles" in error.message
        balanced.replace([])
        await eventually(lambda: bool(one.closed and two.closed and three.closed))


class TestWaiting:
    async def test_waits_for_a_route_that_connects(self) -> None:
        one, two = (ScriptedRoute(name, state=ConnectionState.CONNECTING) for name in "ab")
        call = asyncio.create_task(styles(channel(one, two, ready_s=5)))
        await asyncio.sleep(0.01)
        assert not call.done()
        two.state = ConnectionState.CONNECTED
        assert await call == "b"

    async def test_waits_for_a_first_route(self) -> None:
        balanced = channel(ready_s=5)
        call = asyncio.create_task(styles(balanced))
        await asyncio.sleep(0)
        balanced.replace([ScriptedRoute("late")])
        assert await call == "late"

    async def test_waits_for_the_successor_of_one_that_drains(self) -> None:
        old = ScriptedRoute("old")
        old.draining = True
        balanced = channel(old, ready_s=5)
        call = asyncio.create_task(styles(balanced))
        await asyncio.sleep(0)
        balanced.replace([ScriptedRoute("new")])
        assert await call == "new"
        await eventually(lambda: old.closed == 1)

    async def test_waits_no_longer_than_it_may(self) -> None:
        balanced = channel(ScriptedRoute("a", state=ConnectionState.CONNECTING), ready_s=0.01)
        error = await failure(balanced)
        assert (error.code, "a is connecting" in error.message) == (Code.UNAVAILABLE, True)

    async def test_waits_no_longer_than_the_call_has(self) -> None:
        balanced = channel(ScriptedRoute("a", state=ConnectionState.CONNECTING), ready_s=60)
        error = await failure(balanced, timeout_s=0.01)
        assert error.code is Code.DEADLINE_EXCEEDED

    async def test_does_not_wait_for_what_will_not_come(self) -> None:
        one = ScriptedRoute("one", state=ConnectionState.FAILED)
        two = ScriptedRoute("two")
        two.draining = True
        assert (await failure(channel(one, two, ready_s=60))).code is Code.UNAVAILABLE
        assert (await failure(channel(one, ready_s=60), entity="three")).code is Code.UNAVAILABLE

    async def test_what_was_waited_is_taken_from_the_time(self) -> None:
        route = ScriptedRoute("a", state=ConnectionState.CONNECTING)
        call = asyncio.create_task(styles(channel(route, ready_s=60), timeout_s=5))
        await asyncio.sleep(0.02)
        route.state = ConnectionState.CONNECTED
        await call
        assert 4 < route.timeouts_s[0] <= 4.98

    async def test_closing_ends_the_wait(self) -> None:
        balanced = channel(ScriptedRoute("a", state=ConnectionState.CONNECTING), ready_s=60)
        call = asyncio.create_task(styles(balanced))
        await asyncio.sleep(0)
        await balanced.aclose()
        with pytest.raises(PlaneError) as caught:
            await call
        assert caught.value.code is Code.FAILED_PRECONDITION

    async def test_cancelling_ends_the_wait(self) -> None:
        balanced = channel(ScriptedRoute("a", state=ConnectionState.CONNECTING), ready_s=60)
        call = asyncio.create_task(styles(balanced))
        await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call


class TestRetrying:
    async def test_an_idempotent_call_is_made_again_elsewhere(self) -> None:
        one, two = ScriptedRoute("one", DOWN), ScriptedRoute("two")
        assert await styles(channel(one, two)) == "two"

    async def test_and_on_the_same_where_there_is_no_other(self) -> None:
        one = ScriptedRoute("one", DOWN, DOWN, DOWN)
        assert await styles(channel(one)) == "one"
        assert len(one.calls) == 4

    async def test_up_to_its_attempts(self) -> None:
        one = ScriptedRoute("one", DOWN, DOWN, DOWN, DOWN)
        assert await failure(channel(one)) is DOWN
        assert len(one.calls) == 4

    async def test_other_calls_are_not_made_again(self) -> None:
        one, two = ScriptedRoute("one", DOWN), ScriptedRoute("two")
        with pytest.raises(PlaneError) as caught:
            await channel(one, two).unary(CAPTION, "words", {})
        assert caught.value is DOWN
        assert two.calls == []

    async def test_but_with_a_key_they_are(self) -> None:
        one, two = ScriptedRoute("one", DOWN), ScriptedRoute("two")
        options: CallOptions = {"idempotency_key": "order-7"}
        assert await channel(one, two).unary(CAPTION, "words", options) == "two"
        assert [*one.calls, *two.calls] == [options, options]

    async def test_and_what_reached_no_handler_is_whatever_it_does(self) -> None:
        routes = [ScriptedRoute(name, UNSENT) for name in "abcdef"]
        budget = RetryBudget(ratio=0, reserve=0)
        # At once on each route that was not tried, beyond the attempts and without the budget.
        balanced = channel(*routes, ScriptedRoute("g"), budget=budget)
        assert await balanced.unary(CAPTION, "words", {}) == "g"

    async def test_what_reached_no_handler_is_given_up_too(self) -> None:
        one = ScriptedRoute("one", *[UNSENT] * 9)
        assert await failure(channel(one)) is UNSENT
        assert len(one.calls) == 4

    @pytest.mark.parametrize("code", sorted(set(Code) - {Code.OK, Code.UNAVAILABLE}))
    async def test_other_errors_are_final(self, code: Code) -> None:
        error = PlaneError(code, "no")
        one, two = ScriptedRoute("one", error), ScriptedRoute("two")
        assert await failure(channel(one, two)) is error
        assert two.calls == []

    async def test_a_spent_budget_fails_with_the_first_error(self) -> None:
        one = ScriptedRoute("one", *[DOWN] * 20)
        budget = RetryBudget(ratio=0.5, reserve=1)
        balanced = channel(one, budget=budget, breaking=BreakerPolicy(consecutive=99, minimum=99))
        for _ in range(8):
            assert await failure(balanced) is DOWN
        assert len(one.calls) == 8 + 1 + 4  # one from the reserve, one for every two calls

    async def test_attempts_share_the_time_of_the_call(self) -> None:
        one = ScriptedRoute("one", DOWN, DOWN)
        retries = RetryPolicy(first_s=0.02, limit_s=0.02)
        await styles(channel(one, retries=retries), timeout_s=5)
        first, second, third = one.timeouts_s
        assert first == 5
        assert 4 < third <= second - 0.01 <= first - 0.02

    async def test_no_wait_goes_past_the_deadline(self) -> None:
        one = ScriptedRoute("one", DOWN)
        retries = RetryPolicy(first_s=60, limit_s=60)
        budget = RetryBudget(ratio=0, reserve=1)
        assert await failure(channel(one, retries=retries, budget=budget), timeout_s=20) is DOWN
        assert (len(one.calls), budget.tokens) == (1, 1)

    async def test_where_all_routes_went_the_first_error_is_told(self) -> None:
        one = ScriptedRoute("one", DOWN)
        call = asyncio.create_task(
            failure(channel(one, retries=RetryPolicy(first_s=0.02, limit_s=0.02)))
        )
        await eventually(lambda: len(one.calls) == 1)
        one.state = ConnectionState.FAILED
        assert await call is DOWN

    async def test_cancelling_during_the_wait(self) -> None:
        one = ScriptedRoute("one", DOWN)
        call = asyncio.create_task(
            styles(channel(one, retries=RetryPolicy(first_s=60, limit_s=60)))
        )
        await eventually(lambda: len(one.calls) == 1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert len(one.calls) == 1

    async def test_cancelling_an_attempt(self) -> None:
        one, two = ScriptedRoute("one", HANG), ScriptedRoute("two")
        call = asyncio.create_task(styles(channel(one, two)))
        await eventually(lambda: one.outstanding == 1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert (one.cancelled, one.outstanding, two.calls) == (1, 0, [])

    async def test_closing_during_the_wait(self) -> None:
        one = ScriptedRoute("one", DOWN)
        balanced = channel(one, retries=RetryPolicy(first_s=60, limit_s=60))
        call = asyncio.create_task(failure(balanced))
        await eventually(lambda: len(one.calls) == 1)
        await balanced.aclose()
        assert await call is DOWN


class TestStreams:
    async def test_is_made_again_before_the_first_answer(self) -> None:
        one, two = ScriptedRoute("one", DOWN), ScriptedRoute("two", ["x", "y"])
        assert await captions(channel(one, two)) == ["x", "y"]

    async def test_is_not_made_again_after_it(self) -> None:
        one, two = ScriptedRoute("one", ["x", DOWN]), ScriptedRoute("two")
        answers = channel(one, two).server_stream(LIST_STYLES, "styles", {})
        assert await anext(answers) == "x"
        with pytest.raises(PlaneError) as caught:
            await anext(answers)
        assert caught.value is DOWN
        assert two.calls == []

    async def test_is_not_made_again_where_it_may_do_harm(self) -> None:
        one, two = ScriptedRoute("one", DOWN, UNSENT), ScriptedRoute("two", UNSENT)
        balanced = channel(one, two)
        with pytest.raises(PlaneError) as caught:
            await anext(balanced.server_stream(CAPTION, "words", {}))
        assert caught.value is DOWN
        assert await anext(balanced.server_stream(CAPTION, "words", {})) in ("one", "two")

    async def test_leaving_it_ends_the_call(self) -> None:
        one = ScriptedRoute("one", ["x", HANG])
        answers = cast(AsyncGenerator[Any], channel(one).server_stream(LIST_STYLES, "styles", {}))
        async with aclosing(answers):
            assert await anext(answers) == "x"
            assert one.outstanding == 1
        assert one.outstanding == 0

    async def test_cancelling_it_ends_the_call(self) -> None:
        one = ScriptedRoute("one", ["x", HANG])
        call = asyncio.create_task(captions(channel(one)))
        await eventually(lambda: one.outstanding == 1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert (one.cancelled, one.outstanding) == (1, 0)

    async def test_a_stream_of_nothing(self) -> None:
        assert await captions(channel(ScriptedRoute("one", []))) == []

    async def test_requests_go_to_one_route(self) -> None:
        one, two = ScriptedRoute("one"), ScriptedRoute("two", ["p", "q"])
        balanced = channel(one, two)
        assert await balanced.client_stream(COLLECT, each([1, 2]), {}) == "one"
        answers = balanced.bidi_stream(CONVERSE, each([3, 4]), {})
        assert [answer async for answer in answers] == ["p", "q"]
        assert (one.received, two.received) == ([1, 2], [3, 4])

    @pytest.mark.parametrize("kind", ["client_stream", "bidi_stream"])
    async def test_requests_nobody_took_go_elsewhere(self, kind: str) -> None:
        one = ScriptedRoute("one", UNSENT, takes_requests=False)
        two = ScriptedRoute("two", ["p"] if kind == "bidi_stream" else "p")
        balanced = channel(one, two)
        if kind == "client_stream":
            assert await balanced.client_stream(COLLECT, each([1, 2]), {}) == "p"
        else:
            answers = balanced.bidi_stream(CONVERSE, each([1, 2]), {})
            assert [answer async for answer in answers] == ["p"]
        assert two.received == [1, 2]

    @pytest.mark.parametrize(("error", "taken"), [(UNSENT, True), (DOWN, False)])
    async def test_other_streams_of_requests_fail(self, error: PlaneError, taken: bool) -> None:
        one = ScriptedRoute("one", error, takes_requests=taken)
        two = ScriptedRoute("two")
        options: CallOptions = {"idempotency_key": "order-7"}
        with pytest.raises(PlaneError) as caught:
            await channel(one, two).client_stream(COLLECT, each([1]), options)
        assert caught.value is error
        assert two.calls == []

    async def test_an_error_of_the_requests_is_raised(self) -> None:
        async def requests() -> AsyncIterator[int]:
            yield 1
            raise LookupError("no more text")

        with pytest.raises(LookupError, match="no more text"):
            await channel(ScriptedRoute("one")).client_stream(COLLECT, requests(), {})


class TestBreaking:
    async def test_an_instance_that_fails_is_left_alone(self) -> None:
        bad, good = ScriptedRoute("bad", *[DOWN] * 99), ScriptedRoute("good")
        balanced = channel(bad, good, breaking=BreakerPolicy(open_s=60, limit_s=60))
        assert {await styles(balanced) for _ in range(50)} == {"good"}
        assert len(bad.calls) == 5

    async def test_errors_of_the_caller_leave_it_in(self) -> None:
        one = ScriptedRoute("one", *[BAD] * 20)
        balanced = channel(one)
        for _ in range(20):
            assert await failure(balanced) is BAD
        assert await styles(balanced) == "one"

    async def test_comes_back_by_one_probe(self) -> None:
        one = ScriptedRoute("one", DOWN, HANG)
        breaking = BreakerPolicy(consecutive=1, open_s=0.02, limit_s=0.02)
        balanced = channel(one, breaking=breaking, retries=RetryPolicy(max_attempts=1))
        assert await failure(balanced) is DOWN
        assert "left alone" in (await failure(balanced)).message
        await asyncio.sleep(0.03)
        probe = asyncio.create_task(styles(balanced))
        await eventually(lambda: one.outstanding == 1)
        assert "left alone" in (await failure(balanced)).message
        one.release.set()
        assert await probe == "one"
        assert await styles(balanced) == "one"

    async def test_a_stream_that_answers_is_a_probe_that_succeeded(self) -> None:
        one = ScriptedRoute("one", DOWN, ["x", HANG])
        breaking = BreakerPolicy(consecutive=1, open_s=0.001, limit_s=0.001)
        balanced = channel(one, breaking=breaking, retries=RetryPolicy(max_attempts=1))
        assert await failure(balanced) is DOWN
        await asyncio.sleep(0.01)
        answers = cast(AsyncGenerator[Any], balanced.server_stream(LIST_STYLES, "styles", {}))
        async with aclosing(answers):
            assert await anext(answers) == "x"
            assert await styles(balanced) == "one"

    async def test_a_probe_that_was_cancelled_makes_room(self) -> None:
        one = ScriptedRoute("one", DOWN, HANG)
        breaking = BreakerPolicy(consecutive=1, open_s=0.001, limit_s=0.001)
        balanced = channel(one, breaking=breaking, retries=RetryPolicy(max_attempts=1))
        assert await failure(balanced) is DOWN
        await asyncio.sleep(0.01)
        probe = asyncio.create_task(styles(balanced))
        await eventually(lambda: one.outstanding == 1)
        probe.cancel()
        with pytest.raises(asyncio.CancelledError):
            await probe
        assert await styles(balanced) == "one"


class TestReplacing:
    async def test_new_routes_take_calls(self) -> None:
        one, two = ScriptedRoute("one"), ScriptedRoute("two")
        balanced = channel(one)
        balanced.replace([one, two])
        assert balanced.routes == (one, two)
        assert {await styles(balanced) for _ in range(4)} == {"one", "two"}

    async def test_a_route_that_leaves_is_closed(self) -> None:
        one, two = ScriptedRoute("one"), ScriptedRoute("two")
        balanced = channel(one, two)
        balanced.replace([two])
        await eventually(lambda: one.closed == 1)
        assert balanced.routes == (two,)
        assert two.closed == 0

    async def test_but_it_finishes_its_calls(self) -> None:
        old, new = ScriptedRoute("old", HANG, ["x", HANG]), ScriptedRoute("new")
        balanced = channel(old)
        call = asyncio.create_task(styles(balanced))
        stream = asyncio.create_task(captions(balanced))
        await eventually(lambda: old.outstanding == 2)
        balanced.replace([new])
        assert await styles(balanced) == "new"
        assert old.closed == 0
        old.release.set()
        assert (await call, await stream) == ("old", ["x", "old"])
        await eventually(lambda: old.closed == 1)

    async def test_one_that_comes_back_before_that_stays(self) -> None:
        one, two = ScriptedRoute("one", HANG), ScriptedRoute("two")
        balanced = channel(one)
        call = asyncio.create_task(styles(balanced))
        await eventually(lambda: one.outstanding == 1)
        balanced.replace([two])
        balanced.replace([two, one])
        one.release.set()
        assert await call == "one"
        assert {await styles(balanced) for _ in range(4)} == {"one", "two"}
        assert (one.closed, two.closed) == (0, 0)

    async def test_one_that_stays_keeps_what_its_breaker_knows(self) -> None:
        bad, good = ScriptedRoute("bad", DOWN), ScriptedRoute("good")
        breaking = BreakerPolicy(consecutive=1, open_s=60, limit_s=60)
        balanced = channel(bad, breaking=breaking, retries=RetryPolicy(max_attempts=1))
        assert await failure(balanced) is DOWN
        balanced.replace([bad, good])
        assert {await styles(balanced) for _ in range(4)} == {"good"}

    async def test_many_calls_survive_a_set_that_changes_all_the_time(self) -> None:
        routes = [ScriptedRoute(str(at)) for at in range(3)]
        balanced = channel(*routes, ready_s=5)

        async def changes() -> None:
            for at in range(3, 40):
                routes.append(ScriptedRoute(str(at)))
                balanced.replace(routes[-3:])
                await asyncio.sleep(0)

        async def calls() -> None:
            for _ in range(50):
                await styles(balanced)
                await captions(balanced)
                await asyncio.sleep(0)

        async with asyncio.TaskGroup() as group:
            for _ in range(20):
                group.create_task(calls())
            group.create_task(changes())
        await eventually(lambda: all(route.closed for route in routes[:-3]))
        assert sum(len(route.calls) for route in routes) == 2000
        assert all(route.closed <= 1 and route.outstanding == 0 for route in routes)


class TestClosing:
    async def test_closes_all_routes_once(self) -> None:
        one, leaving, two = ScriptedRoute("one"), ScriptedRoute("two", HANG), ScriptedRoute("three")
        balanced = channel(leaving)
        call = asyncio.create_task(styles(balanced))
        await eventually(lambda: leaving.outstanding == 1)
        balanced.replace([one, two])
        async with balanced:
            pass
        await balanced.aclose()
        leaving.release.set()
        await call
        assert (one.closed, leaving.closed, two.closed) == (1, 1, 1)

    async def test_refuses_calls_after(self) -> None:
        balanced = channel(ScriptedRoute("one"))
        await balanced.aclose()
        for refused in (
            balanced.unary(LIST_STYLES, "styles", {}),
            anext(balanced.server_stream(LIST_STYLES, "styles", {})),
            balanced.client_stream(COLLECT, each([]), {}),
            anext(balanced.bidi_stream(CONVERSE, each([]), {})),
        ):
            with pytest.raises(PlaneError) as caught:
                await refused
            assert caught.value.code is Code.FAILED_PRECONDITION
        with pytest.raises(PlaneError):
            balanced.replace([])
