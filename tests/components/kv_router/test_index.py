"""The index, against a model that knows each block by its whole prefix."""

from __future__ import annotations

import random
from collections import defaultdict

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from protoplane_base import Code, PlaneError
from protoplane_components.kv_router.index import (
    KvIndex,
    Overlap,
    Target,
    Tier,
    UnknownParentError,
)

Prefix = tuple[int, ...]
A, B = Target("a"), Target("b")
TARGETS = [A, Target("a", 1), B, Target("c")]
# Few different blocks, so that prompts share prefixes.
BLOCKS = st.lists(st.integers(1, 3), min_size=1, max_size=12)


def engine_hash(target: Target, prefix: Prefix) -> int:
    """Each engine has names of its own."""
    return hash((target, prefix)) % 2**64


class Truth:
    """Which prefixes each target holds in each tier."""

    def __init__(self) -> None:
        self.held: defaultdict[Target, dict[Tier, dict[Prefix, None]]] = defaultdict(
            lambda: {tier: {} for tier in Tier}
        )

    def find(self, prompt: list[int]) -> dict[Target, Overlap]:
        found: dict[Target, Overlap] = {}
        for target, tiers in self.held.items():
            reached = [0, 0, 0]
            for count in (1, 2, 3):
                among = [tiers[tier] for tier in list(Tier)[:count]]
                while reached[count - 1] < len(prompt) and any(
                    tuple(prompt[: reached[count - 1] + 1]) in each for each in among
                ):
                    reached[count - 1] += 1
            if reached[2]:
                found[target] = Overlap(
                    reached[0], reached[1] - reached[0], reached[2] - reached[1]
                )
        return found


class Events(RuleBasedStateMachine):
    """Events of workers, in any order; `holes` lets them remove any block, not only the last."""

    holes = False

    def __init__(self) -> None:
        super().__init__()
        self.index = KvIndex()
        self.truth = Truth()

    @rule(owner=st.sampled_from(TARGETS), blocks=BLOCKS, cut=st.integers(0, 12))
    def store(self, owner: Target, blocks: list[int], cut: int) -> None:
        self._store(owner, blocks, cut, Tier.DEVICE)

    @precondition(lambda self: self.holes)
    @rule(owner=st.sampled_from(TARGETS), blocks=BLOCKS, tier=st.sampled_from(Tier))
    def store_in_tier(self, owner: Target, blocks: list[int], tier: Tier) -> None:
        self._store(owner, blocks, 0, tier)

    def _store(self, target: Target, blocks: list[int], cut: int, tier: Tier) -> None:
        prefixes = [tuple(blocks[: at + 1]) for at in range(len(blocks))]
        names = [engine_hash(target, prefix) for prefix in prefixes]
        held = self.truth.held[target]
        known = 0
        while known < len(blocks) and any(prefixes[known] in held[each] for each in Tier):
            known += 1
        cut = min(cut, known, len(blocks) - 1)
        parent = names[cut - 1] if cut else None
        self.index.store(target, names[cut:], blocks[cut:], parent=parent, tier=tier)
        held[tier].update(dict.fromkeys(prefixes[cut:]))

    @rule(owner=st.sampled_from(TARGETS), tier=st.sampled_from(Tier), chance=st.randoms(), n=BLOCKS)
    def remove(self, owner: Target, tier: Tier, chance: random.Random, n: list[int]) -> None:
        held = self.truth.held[owner][tier]
        for _ in n:
            ends = [
                prefix
                for prefix in held
                if self.holes or not any(o[:-1] == prefix for o in held if len(o) > 1)
            ]
            if not ends:
                return
            gone = chance.choice(ends)
            del held[gone]
            assert self.index.remove(owner, [engine_hash(owner, gone)], tier=tier) == 1

    @rule(owner=st.sampled_from(TARGETS))
    def clear(self, owner: Target) -> None:
        self.index.clear(owner)
        self.truth.held.pop(owner, None)

    @rule(worker=st.sampled_from(["a", "b", "c", "nobody"]))
    def remove_worker(self, worker: str) -> None:
        self.index.remove_worker(worker)
        for target in [each for each in self.truth.held if each.worker == worker]:
            del self.truth.held[target]

    @rule(blocks=st.integers(0, 5))
    def sweep(self, blocks: int) -> None:
        self.index.sweep(blocks)

    @rule(prompt=BLOCKS)
    def find(self, prompt: list[int]) -> None:
        expected = self.truth.find(prompt)
        assert self.index.find(prompt, every_block=True) == expected
        if not self.holes:
            assert self.index.find(prompt) == expected
            assert self.index.depths(prompt) == {
                target: overlap.blocks for target, overlap in expected.items()
            }

    @invariant()
    def it_holds_what_they_hold(self) -> None:
        for target in TARGETS:
            tiers = self.truth.held.get(target)
            expected = {
                tier: {engine_hash(target, prefix) for prefix in prefixes}
                for tier, prefixes in (tiers or {}).items()
                if prefixes
            }
            assert {t: set(blocks) for t, blocks in self.index.entries(target)} == expected
            assert self.index.count(target) == sum(map(len, expected.values()))


class EventsWithHoles(Events):
    """Engines that may evict a beginning before its end."""

    holes = True


STEPS = settings(max_examples=40, stateful_step_count=30, deadline=None)


@pytest.mark.parametrize("machine", [Events, EventsWithHoles])
def test_it_finds_what_the_workers_hold(machine: type[Events]) -> None:
    run_state_machine_as_test(machine, settings=STEPS)


def test_many_workers_at_many_depths() -> None:
    index = KvIndex()
    prompt = list(range(1, 513))
    depths = {Target(f"w{at}"): 1 + at * 7 % 512 for at in range(1500)}
    for target, depth in depths.items():
        index.store(target, prompt[:depth], prompt[:depth])
    assert index.depths(prompt) == depths
    assert index.depths([*prompt, 7]) == depths
    assert index.depths([9, *prompt]) == {}
    assert index.depths([]) == {}


def test_a_parent_that_is_not_there_is_a_lost_event() -> None:
    index = KvIndex()
    index.store(A, [10], [1])
    with pytest.raises(UnknownParentError, match="block 11") as caught:
        index.store(A, [12], [2], parent=11)
    assert caught.value.code is Code.FAILED_PRECONDITION
    with pytest.raises(UnknownParentError):
        index.store(B, [12], [2], parent=10)
    assert B not in index.find([1])


def test_each_block_has_both_hashes() -> None:
    with pytest.raises(PlaneError, match="1 engine hashes with 2 token hashes"):
        KvIndex().store(A, [1], [1, 2])


def test_tiers_go_on_where_faster_ones_end() -> None:
    index = KvIndex()
    index.store(A, [1, 2], [1, 2])
    index.store(A, [1, 2, 3], [1, 2, 3], tier=Tier.HOST)
    index.store(A, [4], [4], parent=3, tier=Tier.DISK)
    assert index.find([1, 2, 3, 4, 5]) == {A: Overlap(2, 1, 1)}
    assert index.remove(A, [1, 2]) == 2
    assert index.find([1, 2, 3, 4, 5]) == {A: Overlap(0, 3, 1)}


def test_entries_restore_an_index() -> None:
    index = KvIndex()
    index.store(A, [11, 12, 13], [1, 2, 3])
    index.store(A, [14], [4], parent=13, tier=Tier.DISK)
    copy = KvIndex()
    for tier, blocks in index.entries(A):
        copy.restore(A, list(blocks), list(blocks.values()), tier=tier)
    assert copy.find([1, 2, 3, 4]) == index.find([1, 2, 3, 4]) == {A: Overlap(3, 0, 1)}
    copy.store(A, [15], [5], parent=14)
    assert copy.count(A) == 5


def test_what_was_cleared_frees_its_memory_step_by_step() -> None:
    index = KvIndex()
    prompt = list(range(1, 101))
    index.store(A, prompt, prompt)
    index.store(B, prompt, prompt)
    index.clear(A)
    assert index.find(prompt) == {B: Overlap(100)}
    assert index.stats().blocks == 100
    assert index.sweep(30) == 70
    index.store(A, prompt[:5], prompt[:5])
    assert index.sweep(1000) == 0
    assert index.find(prompt) == {A: Overlap(5), B: Overlap(100)}
    index.remove_worker("a")
    index.remove_worker("b")
    index.sweep(1000)
    assert index.stats().prefixes == 0


def test_a_bound_forgets_what_nobody_asks_for() -> None:
    index = KvIndex(max_blocks=1000)
    index.store(A, [1, 2, 3], [1, 2, 3])
    for number in range(10, 5000):
        index.store(A, [number], [number])
        if number % 20 == 0:
            assert index.find([1, 2, 3]) == {A: Overlap(3)}
        assert index.stats().blocks <= 1000
    assert index.stats().evicted >= 3990
    assert index.find([10]) == {}
    assert index.find([4999]) == {A: Overlap(1)}


@pytest.mark.parametrize("most", [0, -1])
def test_a_bound_is_positive(most: int) -> None:
    with pytest.raises(PlaneError, match="at least 1, or None"):
        KvIndex(max_blocks=most)
