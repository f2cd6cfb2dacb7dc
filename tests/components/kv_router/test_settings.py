"""What a served router can be told from outside."""

from __future__ import annotations

import pytest

from protoplane_base import Code, PlaneError
from protoplane_components.kv_router import Admission, CostWeights, QueueOrder
from protoplane_components.kv_router.settings import admission, weights


def test_without_variables_all_is_as_in_the_library() -> None:
    assert weights({}) == CostWeights()
    assert admission({"PROTOPLANE_ROUTER_ADMISSION": ""}) == Admission()


def test_some_are_changed() -> None:
    text = "fresh=1, decode = 0.5,warm_requests=0,temperature=0.25"
    assert weights({"PROTOPLANE_ROUTER_WEIGHTS": text}) == CostWeights(
        fresh=1, decode=0.5, warm_requests=0, temperature=0.25
    )
    text = "max_active_requests=64,max_prefill_tokens=8192,order=shortest,max_queued=10"
    assert admission({"PROTOPLANE_ROUTER_ADMISSION": text}) == Admission(
        max_active_requests=64, max_prefill_tokens=8192, order=QueueOrder.SHORTEST, max_queued=10
    )


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("freshness=1", "there is no freshness; there are prefill, fresh"),
        ("fresh", "fresh: "),
        ("fresh=much", "fresh: "),
        ("fresh=-1", "the weight fresh is -1.0"),
        ("temperature=nan", "the weight temperature is nan"),
        ("decode=inf", "the weight decode is inf"),
        ("warm_requests=1.5", "warm_requests: "),
    ],
)
def test_weights_that_do_not_do(text: str, why: str) -> None:
    with pytest.raises(PlaneError, match=why) as caught:
        weights({"PROTOPLANE_ROUTER_WEIGHTS": text})
    assert caught.value.code is Code.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("max_users=1", "there is no max_users; there are max_prefill_tokens"),
        ("order=longest", "order: .*'fcfs' or 'shortest'"),
        ("max_active_requests=0", "max_active_requests is 0; give a number above 0"),
        ("max_queued=-1", "max_queued is -1; give a number above 0"),
        ("max_prefill_tokens=nan", "max_prefill_tokens is nan; give a number above 0"),
        ("max_decode_blocks=1e99", "max_decode_blocks: "),
    ],
)
def test_limits_that_do_not_do(text: str, why: str) -> None:
    with pytest.raises(PlaneError, match=why) as caught:
        admission({"PROTOPLANE_ROUTER_ADMISSION": text})
    assert caught.value.code is Code.INVALID_ARGUMENT
