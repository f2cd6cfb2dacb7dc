"""What the time model says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protoplane_components.mocker.timing import PolynomialTiming


def test_prefill_is_the_polynomial_in_milliseconds() -> None:
    timing = PolynomialTiming(prefill_ms=(10, 2, 0.5))
    assert timing.prefill_s(0) == 0
    assert timing.prefill_s(4) == pytest.approx((10 + 2 * 4 + 0.5 * 16) / 1000)


@given(
    context=st.integers(0, 600_000),
    growth=st.integers(1, 256),
    steps=st.integers(1, 300),
)
def test_a_run_of_steps_takes_as_long_as_its_steps(context: int, growth: int, steps: int) -> None:
    timing = PolynomialTiming(capacity_tokens=1_000_000)
    one_by_one = sum(timing.decode_s(context + growth * step, growth, 1) for step in range(steps))
    assert timing.decode_s(context, growth, steps) == pytest.approx(one_by_one)


def test_a_step_never_costs_more_than_reading_the_whole_cache() -> None:
    timing = PolynomialTiming(capacity_tokens=1000, decode_ms=(1, 2, -1))
    assert timing.decode_s(5000, 3, 4) == pytest.approx(4 * 2 / 1000)
