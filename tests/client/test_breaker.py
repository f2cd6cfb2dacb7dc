"""The circuit breaker, by a clock that the test moves."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from protoplane_base import Code, PlaneError
from protoplane_client.breaker import HEALTHY_ERRORS, Breaker, BreakerPolicy, BreakerState
from protoplane_runtime.link.errors import UnsentError

DOWN = PlaneError(Code.UNAVAILABLE, "down")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def call(breaker: Breaker, error: PlaneError | None = None) -> None:
    breaker.ended(breaker.begin(), error)


def opened(policy: BreakerPolicy | None = None) -> tuple[Breaker, Clock]:
    clock = Clock()
    breaker = Breaker(policy, clock=clock)
    for _ in range(5):
        call(breaker, DOWN)
    assert breaker.state is BreakerState.OPEN
    return breaker, clock


def half_opened() -> tuple[Breaker, Clock, int]:
    breaker, clock = opened()
    clock.now += 1
    return breaker, clock, breaker.begin()


def test_opens_after_failures_in_a_row() -> None:
    breaker = Breaker()
    for _ in range(4):
        call(breaker, DOWN)
    call(breaker)
    for _ in range(4):
        call(breaker, DOWN)
    assert breaker.allows()
    call(breaker, DOWN)
    assert (breaker.state, breaker.allows()) == (BreakerState.OPEN, False)
    assert breaker.last_error == "UNAVAILABLE: down"


def test_opens_when_too_many_of_the_latest_calls_failed() -> None:
    breaker = Breaker(BreakerPolicy(consecutive=1000, ratio=0.5, window=20, minimum=10))
    for _ in range(1000):
        call(breaker)
    for _ in range(5):
        call(breaker, DOWN)
        call(breaker)
        assert breaker.allows()
    for _ in range(4):
        call(breaker, DOWN)
    assert breaker.allows()  # 9 of the latest 20
    call(breaker, DOWN)
    assert not breaker.allows()


def test_the_ratio_of_few_calls_opens_nothing() -> None:
    breaker = Breaker(BreakerPolicy(consecutive=1000, minimum=10))
    for _ in range(9):
        call(breaker, DOWN)
    assert breaker.allows()
    call(breaker, DOWN)
    assert not breaker.allows()


@given(st.lists(st.booleans(), max_size=200))
@example([letter == "F" for letter in "F--F-FF-F-F"])  # the first has just left the window
def test_opens_exactly_when_the_window_says_so(failed: list[bool]) -> None:
    policy = BreakerPolicy(consecutive=4, ratio=0.6, window=10, minimum=5)
    breaker = Breaker(policy)
    for at, failure in enumerate(failed):
        call(breaker, DOWN if failure else None)
        seen = failed[: at + 1]
        latest = seen[-policy.window :]
        opens = failure and (
            (len(seen) >= 4 and all(seen[-4:]))
            or (len(latest) >= policy.minimum and sum(latest) >= policy.ratio * len(latest))
        )
        assert breaker.allows() != opens
        if opens:
            return


@pytest.mark.parametrize("code", sorted(HEALTHY_ERRORS))
def test_errors_of_the_caller_are_successes(code: Code) -> None:
    breaker = Breaker()
    for _ in range(4):
        call(breaker, DOWN)
    call(breaker, PlaneError(code, "your fault"))
    for _ in range(4):
        call(breaker, DOWN)
    assert breaker.allows()


def test_calls_that_reached_no_handler_and_calls_that_were_left_say_nothing() -> None:
    breaker = Breaker()
    for _ in range(4):
        call(breaker, DOWN)
    for _ in range(10):
        call(breaker, UnsentError("no connection"))
        breaker.abandoned(breaker.begin())
    assert breaker.allows()
    call(breaker, DOWN)
    assert not breaker.allows()


def test_lets_one_probe_through_and_closes_when_it_succeeds() -> None:
    breaker, clock = opened()
    clock.now += 1
    assert breaker.allows()
    probe = breaker.begin()
    assert (breaker.state, breaker.allows()) == (BreakerState.HALF_OPEN, False)
    breaker.ended(probe, None)
    assert (breaker.state, breaker.allows()) == (BreakerState.CLOSED, True)


def test_a_probe_that_was_left_makes_room_for_another() -> None:
    breaker, _, probe = half_opened()
    breaker.abandoned(probe)
    assert breaker.allows()
    breaker.ended(breaker.begin(), None)
    assert breaker.state is BreakerState.CLOSED


def test_the_first_answer_of_a_stream_is_enough_for_a_probe() -> None:
    breaker, _, probe = half_opened()
    number = breaker.answered(probe)
    assert breaker.state is BreakerState.CLOSED
    for _ in range(4):
        call(breaker, DOWN)
    breaker.ended(number, DOWN)  # and how it ends counts like any other call
    assert not breaker.allows()


def test_calls_from_before_say_nothing() -> None:
    clock = Clock()
    breaker = Breaker(clock=clock)
    early = [breaker.begin() for _ in range(5)]
    for _ in range(5):
        call(breaker, DOWN)
    clock.now += 1
    probe = breaker.begin()
    for number in early:
        breaker.ended(number, None)
        breaker.abandoned(number)
    assert (breaker.state, breaker.allows()) == (BreakerState.HALF_OPEN, False)
    breaker.ended(probe, None)
    for number in early:
        breaker.ended(number, DOWN)
    assert breaker.state is BreakerState.CLOSED


def test_stays_open_twice_as_long_each_time_up_to_a_limit() -> None:
    breaker, clock = opened(BreakerPolicy(open_s=1, limit_s=5))
    for ceiling in (1, 2, 4, 5, 5):
        assert ceiling / 2 <= breaker.remaining_s <= ceiling
        clock.now += breaker.remaining_s
        call(breaker, DOWN)
    clock.now += breaker.remaining_s
    call(breaker)
    assert breaker.remaining_s == 0
    for _ in range(5):
        call(breaker, DOWN)
    assert 0.5 <= breaker.remaining_s <= 1
