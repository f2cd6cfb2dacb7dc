"""The pickers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protoplane_client.balancing import (
    LeastOutstanding,
    Picker,
    PowerOfTwoChoices,
    RoundRobin,
    Sticky,
)


@dataclass(frozen=True)
class Instance:
    name: str
    outstanding: int = 0


names = st.lists(st.text(max_size=8), min_size=1, max_size=20, unique=True)
keys = st.lists(st.text(max_size=8), min_size=1, max_size=40)


@given(names, st.integers(1, 200))
def test_round_robin_gives_everybody_the_same(some: list[str], calls: int) -> None:
    candidates = [Instance(name) for name in some]
    picker = RoundRobin()
    counts = Counter(picker.pick(candidates).name for _ in range(calls))
    shares = [counts[name] for name in some]
    assert max(shares) - min(shares) <= 1


@given(names, st.integers(1, 200))
def test_least_outstanding_shares_among_the_idle(some: list[str], calls: int) -> None:
    candidates = [Instance(name) for name in some]
    picker = LeastOutstanding()
    counts = Counter(picker.pick(candidates).name for _ in range(calls))
    shares = [counts[name] for name in some]
    assert max(shares) - min(shares) <= 1


@given(st.lists(st.integers(0, 5), min_size=1, max_size=20), st.integers(1, 10))
def test_least_outstanding_takes_the_least_busy(busy: list[int], calls: int) -> None:
    candidates = [Instance(str(at), outstanding) for at, outstanding in enumerate(busy)]
    picker = LeastOutstanding()
    for _ in range(calls):
        assert picker.pick(candidates).outstanding == min(busy)


@given(st.lists(st.integers(0, 99), min_size=2, max_size=20, unique=True))
def test_two_choices_never_takes_the_busiest(busy: list[int]) -> None:
    candidates = [Instance(str(at), outstanding) for at, outstanding in enumerate(busy)]
    picker = PowerOfTwoChoices()
    assert all(picker.pick(candidates).outstanding < max(busy) for _ in range(50))


def test_two_choices_reaches_everybody() -> None:
    candidates = [Instance(str(at)) for at in range(10)]
    picker = PowerOfTwoChoices()
    counts = Counter(picker.pick(candidates).name for _ in range(2000))
    assert len(counts) == 10
    assert max(counts.values()) < 400  # twice an even share, some fifteen deviations away


@given(names, keys)
def test_sticky_does_not_care_for_order(some: list[str], texts: list[str]) -> None:
    candidates = [Instance(name) for name in some]
    for key in texts:
        chosen = Sticky(key).pick(candidates)
        assert Sticky(key).pick(list(reversed(candidates))) is chosen


@given(names, keys)
def test_an_instance_that_leaves_moves_only_its_own_keys(some: list[str], texts: list[str]) -> None:
    candidates = [Instance(name) for name in some]
    for key in texts:
        chosen = Sticky(key).pick(candidates)
        for gone in candidates:
            left = [candidate for candidate in candidates if candidate is not gone]
            if left and gone is not chosen:
                assert Sticky(key).pick(left) is chosen


def test_sticky_spreads_keys_and_those_of_who_leaves() -> None:
    candidates = [Instance(f"instance-{at}") for at in range(5)]
    before = {key: Sticky(key).pick(candidates).name for key in map(str, range(5000))}
    counts = Counter(before.values())
    assert all(800 < count < 1200 for count in counts.values()), counts
    after = {key: Sticky(key).pick(candidates[1:]).name for key in before}
    moved = Counter(after[key] for key, name in before.items() if name == "instance-0")
    assert all(150 < count < 350 for count in moved.values()), moved
    assert len(moved) == 4


def test_sticky_is_the_same_in_every_process() -> None:
    candidates = [Instance(f"instance-{at}") for at in range(8)]
    chosen = [Sticky(key).pick(candidates).name[-1] for key in ("a", "b", "c", "d", "ü", "")]
    assert "".join(chosen) == "137657"


@pytest.mark.parametrize(
    "picker", [RoundRobin(), LeastOutstanding(), PowerOfTwoChoices(), Sticky("key")]
)
@given(sizes=st.lists(st.integers(1, 6), min_size=1, max_size=20))
def test_sets_may_change_between_calls(picker: Picker, sizes: list[int]) -> None:
    for size in sizes:
        candidates = [Instance(str(at)) for at in range(size)]
        assert picker.pick(candidates) in candidates
