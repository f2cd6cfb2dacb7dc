"""One suite for what every policy does, and what each does in particular."""

from __future__ import annotations

from collections import Counter
from random import Random

import numpy as np
import pytest
from msgspec.structs import replace

from protoplane_base import PlaneError
from protoplane_components.kv_router.cost import CostWeights, KvPolicy
from protoplane_components.kv_router.index import Overlap, Target
from protoplane_components.kv_router.levels import as_levels
from protoplane_components.kv_router.load import LoadTable, Reservation
from protoplane_components.kv_router.policies import (
    Costs,
    Judgement,
    LeastLoaded,
    Policy,
    PowerOfTwo,
    RandomChoice,
    RoundRobin,
    View,
)

SIZE = 16


def view(
    *loads: tuple[int, int],
    device: list[int] | None = None,
    host: list[int] | None = None,
    disk: list[int] | None = None,
    prompt: int = 64,
    rows: list[int] | None = None,
    seed: int = 0,
) -> View:
    """A view of workers with so many requests, of so many prompt tokens each."""
    table = LoadTable()
    for row, (requests, tokens) in enumerate(loads):
        target = Target(f"w{row}")
        table.add(target)
        for number in range(requests):
            table.reserve(Reservation(f"{row}.{number}", target, tokens, 0, 0, 60, 60))
    none = [0] * len(loads)
    held = {
        target: Overlap(*blocks)
        for target, *blocks in zip(
            table.targets, device or none, host or none, disk or none, strict=True
        )
    }
    return View(
        table.figures,
        as_levels(held),
        prompt,
        SIZE,
        np.array(range(len(loads)) if rows is None else rows, np.intp),
        Random(seed),
    )


def costs(judged: Judgement) -> Costs:
    """The costs of a policy that has some."""
    assert judged.costs is not None
    return judged.costs()


@pytest.mark.parametrize(
    "policy",
    [
        KvPolicy(),
        KvPolicy(CostWeights(temperature=0.5)),
        KvPolicy(CostWeights(replicas=3)),
        RoundRobin(),
        RandomChoice(),
        PowerOfTwo(),
        LeastLoaded(),
    ],
    ids=lambda policy: policy.name,
)
class TestEveryPolicy:
    def test_it_chooses_only_among_the_rows(self, policy: Policy) -> None:
        for seed in range(40):
            judged = policy.judge(view((0, 0), (2, 64), (1, 16), (0, 0), rows=[1, 2], seed=seed))
            assert judged.row in (1, 2)
            if judged.costs is not None:
                found = judged.costs()
                assert found.probability[[0, 3]].sum() == 0
                assert found.probability.sum() == pytest.approx(1)
                assert found.probability[judged.row] > 0
                assert len(found.cost) == 4

    def test_a_single_row_is_certain(self, policy: Policy) -> None:
        judged = policy.judge(view((3, 64), (0, 0), rows=[0]))
        assert judged.row == 0
        assert judged.costs is None or judged.costs().probability[0] == pytest.approx(1)


def counted(policy: Policy, seen: View, times: int = 400) -> Counter[int]:
    return Counter(policy.judge(seen).row for _ in range(times))


def test_round_robin_goes_round() -> None:
    policy, seen = RoundRobin(), view((5, 64), (0, 0), (0, 0))
    assert [policy.judge(seen).row for _ in range(4)] == [0, 1, 2, 0]


def test_random_chooses_all_alike() -> None:
    assert min(counted(RandomChoice(), view((5, 64), (0, 0))).values()) > 100


def test_the_less_busy_of_two_is_never_the_busiest() -> None:
    seen = view((0, 0), (1, 64), (2, 64))
    found = counted(PowerOfTwo(), seen, 900)
    assert found[2] == 0
    expected = costs(PowerOfTwo().judge(seen)).probability
    assert expected.tolist() == pytest.approx([2 / 3, 1 / 3, 0])
    assert found[0] == pytest.approx(600, abs=100)


def test_the_least_loaded_and_ties_by_chance() -> None:
    found = counted(LeastLoaded(), view((1, 64), (0, 0), (0, 0)))
    assert found[0] == 0
    assert min(found[1], found[2]) > 100


def test_the_cost_is_what_the_formula_says() -> None:
    weights = CostWeights(warm_requests=0, decode=1)
    seen = view((2, 32), (0, 0), device=[3, 0], host=[0, 1], disk=[0, 2], prompt=100)
    judged = KvPolicy(weights).judge(seen)
    found = costs(judged)
    assert found.prefill_tokens is not None
    assert found.prefill_tokens.tolist() == [64 + 100 - 48, 100 - 16 * (0.75 + 0.5)]
    # Of what is to compute, the prompt's own part counts three times.
    assert found.cost.tolist() == [(64 + 3 * 52) / 16 + 7 + 2, 3 * 80 / 16 + 7]
    assert judged.row == 1


def test_the_choice_is_what_the_table_says() -> None:
    chance = Random(5)
    for seed in range(100):
        count = chance.randrange(1, 40)
        seen = view(
            *[(chance.randrange(6), chance.randrange(99)) for _ in range(count)],
            device=[chance.choice([0, 0, 3, 7]) for _ in range(count)],
            host=[chance.choice([0, 0, 2]) for _ in range(count)],
            rows=sorted(chance.sample(range(count), chance.randrange(1, count + 1))),
            prompt=chance.randrange(200),
            seed=seed,
        )
        policy = KvPolicy(CostWeights(replicas=chance.choice([1, 3]), prefill=0.7, decode=1 / 3))
        judged = policy.judge(seen)
        found = costs(judged)
        # The one is made by C where it is compiled, the other always by numpy.
        assert found.cost[judged.row] == found.cost[seen.rows].min()
        assert found.probability[judged.row] > 0
        assert judged.row in seen.rows
        # Nobody who asks twice is told anything else.
        assert costs(judged).cost.tolist() == found.cost.tolist()


def test_overlap_outweighs_a_little_load_but_not_much() -> None:
    policy = KvPolicy(CostWeights(warm_requests=0))
    assert policy.judge(view((1, 16), (0, 0), device=[4, 0])).row == 0
    assert policy.judge(view((9, 64), (0, 0), device=[4, 0])).row == 1


def test_temperature_lets_the_dearer_have_some() -> None:
    seen = view((1, 32), (0, 0), (4, 64))
    cold = counted(KvPolicy(CostWeights(warm_requests=0)), seen)
    warm = counted(KvPolicy(CostWeights(warm_requests=0, temperature=0.5)), seen)
    assert set(cold) == {1}
    assert warm[1] > warm[0] > warm[2] > 0


def test_ties_are_broken_by_chance() -> None:
    assert min(counted(KvPolicy(), view((0, 0), (0, 0))).values()) > 100


def test_a_new_worker_is_warmed_for_a_while() -> None:
    seen = view((6, 0), (0, 0), device=[4, 0], prompt=64)
    warming = KvPolicy(CostWeights(active=0, warm_requests=4))
    # Without it, the worker with the whole prompt would always win.
    assert set(counted(KvPolicy(CostWeights(active=0, warm_requests=0)), seen)) == {0}
    assert min(counted(warming, seen).values()) > 100
    warm = view((6, 0), (4, 0), device=[4, 0], prompt=64)
    assert set(counted(warming, warm)) == {0}


def test_replicas_that_know_the_same_do_not_all_choose_the_same() -> None:
    seen = view((2, 0), (0, 0), (1, 0), (1, 0), prompt=160)
    alone = counted(KvPolicy(CostWeights(warm_requests=0)), seen)
    many = counted(KvPolicy(CostWeights(warm_requests=0, replicas=4)), seen)
    assert set(alone) == {1}
    assert len(many) == 4
    # A whole prompt in the cache is still worth more than that.
    cached = view((0, 0), (0, 0), device=[10, 0], prompt=160)
    assert counted(KvPolicy(CostWeights(warm_requests=0, replicas=4)), cached)[0] == 400


def herd(replicas: int, *, told: int, cached: int = 0) -> float:
    """How many of some replicas' requests go to the same worker, on average and at the most.

    Each places one at the same moment, so none hears of the others' before. One worker of sixteen
    is idle, the others have half a prompt to compute.
    """
    device = [cached] + [0] * 15
    worst = 0
    for seed in range(40):
        chosen = Counter(
            KvPolicy(CostWeights(warm_requests=0))
            .judge(
                replace(
                    view(
                        *[(0, 0), *[(1, 256)] * 15],
                        device=device,
                        prompt=512,
                        seed=1000 * seed + replica,
                    ),
                    replicas=told,
                )
            )
            .row
            for replica in range(replicas)
        )
        worst += max(chosen.values())
    return worst / 40


@pytest.mark.parametrize("replicas", [2, 4, 8, 16])
def test_replicas_that_are_heard_do_not_herd(replicas: int) -> None:
    assert herd(replicas, told=1) == replicas
    # Chance alone, with sixteen workers, would put some 1.1, 1.4, 2.0 and 2.8 on one.
    assert herd(replicas, told=replicas) < {2: 1.8, 4: 2.5, 8: 3.2, 16: 4.5}[replicas]
    # Who has the prompt is where all of them go on.
    assert herd(replicas, told=replicas, cached=32) == replicas


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_a_weight_is_a_number_from_0_on(weight: float) -> None:
    with pytest.raises(PlaneError, match="the weight decode"):
        CostWeights(decode=weight)
