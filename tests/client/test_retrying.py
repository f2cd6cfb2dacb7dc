"""The retry policy and its budget."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.component_suite import CAPTION, LIST_STYLES

from protoplane_base import Code, Idempotency, PlaneError
from protoplane_client.retrying import RetryBudget, RetryPolicy, may_repeat
from protoplane_runtime.link.errors import UnsentError


@given(
    st.lists(st.booleans(), max_size=300),
    st.sampled_from([0.0, 0.1, 0.2, 1.0]),
    st.integers(0, 20),
    st.integers(0, 50),
)
def test_a_budget_grants_its_ratio_and_its_reserve_and_no_more(
    steps: list[bool], ratio: float, reserve: int, more: int
) -> None:
    limit = reserve + more
    budget = RetryBudget(ratio=ratio, reserve=reserve, limit=limit)
    deposits = granted = 0
    for deposits_now in steps:
        if deposits_now:
            budget.deposit()
            deposits += 1
        elif budget.withdraw():
            granted += 1
        else:
            assert budget.tokens < 1
        assert 0 <= budget.tokens <= limit
    assert granted <= reserve + ratio * deposits + 1e-6
    if reserve + ratio * deposits <= limit:  # the limit took nothing away
        assert granted + budget.tokens == pytest.approx(reserve + ratio * deposits)


def test_a_budget_saves_up_to_its_limit() -> None:
    budget = RetryBudget(ratio=0.2, reserve=0, limit=3)
    for _ in range(1000):
        budget.deposit()
    assert [budget.withdraw() for _ in range(4)] == [True, True, True, False]
    for _ in range(5):
        budget.deposit()
    assert [budget.withdraw() for _ in range(2)] == [True, False]


@pytest.mark.parametrize("wrong", [{"ratio": -1}, {"reserve": -1}, {"reserve": 5, "limit": 4}])
def test_a_budget_that_makes_no_sense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="budget"):
        RetryBudget(**wrong)


def test_a_policy_without_an_attempt_is_refused() -> None:
    with pytest.raises(ValueError, match="max_attempts=0"):
        RetryPolicy(max_attempts=0)


def test_what_may_be_repeated() -> None:
    idempotent = replace(CAPTION, idempotency=Idempotency.IDEMPOTENT)
    assert may_repeat(LIST_STYLES, {})
    assert may_repeat(idempotent, {})
    assert not may_repeat(CAPTION, {})
    assert not may_repeat(CAPTION, {"idempotency_key": ""})
    assert may_repeat(CAPTION, {"idempotency_key": "order-7"})


def test_only_unavailable_is_retried_and_unsent_calls_always() -> None:
    policy = RetryPolicy()
    retried = [code for code in Code if policy.retries(PlaneError(code, "no"), repeatable=True)]
    assert retried == [Code.UNAVAILABLE]
    assert not policy.retries(PlaneError(Code.UNAVAILABLE, "no"), repeatable=False)
    assert policy.retries(UnsentError("no"), repeatable=False)


def test_waits_double_up_to_their_limit() -> None:
    backoff = RetryPolicy(first_s=0.1, limit_s=0.3).backoff()
    for ceiling in (0.1, 0.2, 0.3, 0.3):
        assert ceiling / 2 <= backoff.next_s() <= ceiling
