"""The index, against a model that knows each block by its whole prefix."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from itertools import chain

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
BLOCKS = st.lists(st.integers(1, 2), min_size=1, max_size=12)


# An engine may hold a prefix in several blocks, under a name each.
COPIES = st.integers(0, 2)
Block = tuple[Prefix, int]


def engine_hash(target: Target, prefix: Prefix, copy: int = 0) -> int:
    """Each engine has names of its own."""
    return hash((target, prefix, copy)) % 2**64


class Truth:
    """Which blocks each target holds in each tier."""

    def __init__(self) -> None:
        self.held: defaultdict[Target, dict[Tier, dict[Block, None]]] = defaultdict(
            lambda: {tier: {} for tier in Tier}
        )

    def copy_of(self, target: Target, prefix: Prefix) -> int | None:
        """The first copy of a prefix, in whatever tier."""
        copies = {
            copy for blocks in self.held[target].values() for held, copy in blocks if held == prefix
        }
        return min(copies, default=None)

    def find(self, prompt: list[int]) -> dict[Target, Overlap]:
        found: dict[Target, Overlap] = {}
        for target, tiers in self.held.items():
            reached = [0, 0, 0]
            for count in (1, 2, 3):
                among = {prefix for tier in list(Tier)[:count] for prefix, _ in tiers[tier]}
                while (
                    reached[count - 1] < len(prompt)
                    and tuple(prompt[: reached[count - 1] + 1]) in among
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

    @rule(owner=st.sampled_from(TARGETS), blocks=BLOCKS, cut=st.integers(0, 12), copy=COPIES)
    def store(self, owner: Target, blocks: list[int], cut: int, copy: int) -> None:
        self._store(owner, blocks, cut, copy, Tier.DEVICE)

    @precondition(lambda self: self.holes)
    @rule(owner=st.sampled_from(TARGETS), blocks=BLOCKS, copy=COPIES, tier=st.sampled_from(Tier))
    def store_in_tier(self, owner: Target, blocks: list[int], copy: int, tier: Tier) -> None:
        self._store(owner, blocks, 0, copy, tier)

    def _store(self, target: Target, blocks: list[int], cut: int, copy: int, tier: Tier) -> None:
        prefixes = [tuple(blocks[: at + 1]) for at in range(len(blocks))]
        known = 0
        while known < len(blocks) and self.truth.copy_of(target, prefixes[known]) is not None:
            known += 1
        cut = min(cut, known, len(blocks) - 1)
        parent: int | None = None
        if cut:
            before = self.truth.copy_of(target, prefixes[cut - 1])
            assert before is not None
            parent = engine_hash(target, prefixes[cut - 1], before)
        names = [engine_hash(target, prefix, copy) for prefix in prefixes[cut:]]
        self.index.store(target, names, blocks[cut:], parent=parent, tier=tier)
        self.truth.held[target][tier].update(
            dict.fromkeys((prefix, copy) for prefix in prefixes[cut:])
        )

    @rule(owner=st.sampled_from(TARGETS), chance=st.randoms(), copy=COPIES)
    def store_again(self, owner: Target, chance: random.Random, copy: int) -> None:
        """What it has, perhaps under other names."""
        tier = chance.choice([*Tier]) if self.holes else Tier.DEVICE
        held = [prefix for prefix, _ in self.truth.held[owner][tier]]
        if held:
            self._store(owner, [*chance.choice(held)], 0, copy, tier)

    @rule(owner=st.sampled_from(TARGETS), chance=st.randoms())
    def restore(self, owner: Target, chance: random.Random) -> None:
        """Tell again a part of what it has."""
        kept = [*self.index.kept(owner)]
        if kept:
            blocks = chance.choice(kept)
            begin = chance.randrange(len(blocks.engine_hashes))
            end = chance.randint(begin + 1, len(blocks.engine_hashes))
            tier, depth, parent, names, keys = blocks.part(begin, end)
            self.index.restore(owner, names, keys, depth=depth, parent=parent, tier=tier)

    @rule(chance=st.randoms())
    def move(self, chance: random.Random) -> None:
        """All of it goes to another index, of the targets by turns."""
        kept = {target: [*self.index.kept(target)] for target in TARGETS}
        self.index = KvIndex()
        while any(kept.values()):
            target = chance.choice([target for target, left in kept.items() if left])
            tier, depth, parent, names, keys = kept[target].pop(0)
            self.index.restore(target, names, keys, depth=depth, parent=parent, tier=tier)

    @rule(owner=st.sampled_from(TARGETS), chance=st.randoms(), most=st.integers(1, 6))
    def remove(self, owner: Target, chance: random.Random, most: int) -> None:
        tier = chance.choice([*Tier]) if self.holes else Tier.DEVICE
        held = self.truth.held[owner][tier]
        gone: list[int] = []
        for _ in range(most):
            longer = {prefix[:-1] for prefix, _ in held}
            copies = Counter(prefix for prefix, _ in held)
            ends = [
                (prefix, copy)
                for prefix, copy in held
                if self.holes or copies[prefix] > 1 or prefix not in longer
            ]
            if not ends:
                break
            block = chance.choice(ends)
            del held[block]
            gone.append(engine_hash(owner, *block))
        assert self.index.remove(owner, [*gone, 1], tier=tier) == len(gone)

    def full(self) -> bool:
        """Whether there is enough to forget."""
        return sum(map(len, chain(*(each.values() for each in self.truth.held.values())))) > 40

    @precondition(full)
    @rule(owner=st.sampled_from(TARGETS))
    def clear(self, owner: Target) -> None:
        self.index.clear(owner)
        self.truth.held.pop(owner, None)

    @precondition(full)
    @rule(worker=st.sampled_from(["a", "b", "c", "nobody"]))
    def remove_worker(self, worker: str) -> None:
        self.index.remove_worker(worker)
        for target in [each for each in self.truth.held if each.worker == worker]:
            del self.truth.held[target]

    @rule(blocks=st.integers(0, 5))
    def sweep(self, blocks: int) -> None:
        self.index.sweep(blocks)

    @invariant()
    def it_finds_all_that_somebody_holds(self) -> None:
        tiers = chain.from_iterable(each.values() for each in self.truth.held.values())
        held = {prefix for blocks in tiers for prefix, _ in blocks}
        for prompt in held - {prefix[:-1] for prefix in held}:
            self.find_now([*prompt])

    @rule(prompt=BLOCKS)
    def find(self, prompt: list[int]) -> None:
        self.find_now(prompt)

    def find_now(self, prompt: list[int]) -> None:
        expected = self.truth.find(prompt)
        assert self.index.find(prompt) == expected
        assert self.index.depths(prompt) == {
            target: overlap.blocks for target, overlap in expected.items()
        }

    @invariant()
    def it_holds_what_they_hold(self) -> None:
        for target in TARGETS:
            tiers = self.truth.held.get(target)
            expected = {
                tier: {engine_hash(target, *block) for block in blocks}
                for tier, blocks in (tiers or {}).items()
                if blocks
            }
            assert {t: set(blocks) for t, blocks in self.index.entries(target)} == expected
            assert self.index.count(target) == sum(map(len, expected.values()))

    def teardown(self) -> None:
        """In the end nothing of them is left."""
        for target in TARGETS:
            self.index.clear(target)
        assert self.index.sweep(1000) == 0
        assert self.index.stats().prefixes == self.index.stats().blocks == 0


class EventsWithHoles(Events):
    """Engines that may evict a beginning before its end."""

    holes = True


STEPS = settings(max_examples=150, stateful_step_count=30, deadline=None)


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


def test_a_prefix_with_two_names_is_there_until_the_second_goes() -> None:
    index = KvIndex()
    index.store(A, [1], [77])
    index.store(A, [2], [77])
    assert index.count(A) == 2
    assert index.remove(A, [1]) == 1
    assert index.find([77]) == {A: Overlap(1)}
    assert index.remove(A, [2]) == 1
    assert index.find([77]) == {}
    assert index.stats().prefixes == 0


def test_two_names_of_a_prefix_are_restored() -> None:
    index = KvIndex()
    for owner in (B, A):
        for name in (1, 2, 3):
            index.store(owner, [name], [77])
    copy = KvIndex()
    for owner in (A, B):
        for tier, depth, parent, names, keys in index.kept(owner):
            copy.restore(owner, names, keys, depth=depth, parent=parent, tier=tier)
    assert copy.remove(A, [1, 3]) == 2
    assert copy.find([77]) == {A: Overlap(1), B: Overlap(1)}
    assert copy.remove(A, [2]) == 1
    assert copy.find([77]) == {B: Overlap(1)}
    copy.clear(B)
    assert copy.sweep(10) == 0
    assert copy.stats().prefixes == 0


def test_a_name_that_is_given_to_another_block_leaves_the_first() -> None:
    index = KvIndex()
    index.store(A, [1, 2], [77, 78])
    index.store(A, [2, 3], [88, 89])
    assert index.find([77, 78]) == {A: Overlap(1)}
    assert index.find([88, 89]) == {A: Overlap(2)}
    index.store(A, [4, 4], [5, 6])
    assert index.find([5, 6]) == {}
    assert index.count(A) == 4
    assert index.remove(A, [1, 2, 3, 4]) == 4
    assert index.stats().prefixes == 0


def test_an_engine_that_uses_names_anew_breaks_nothing() -> None:
    chance = random.Random(8)
    index = KvIndex()
    for turn in range(1500):
        target, count = chance.choice(TARGETS), chance.randrange(1, 30)
        names = chance.sample(range(4000), count)
        if turn % 3 == 0:
            index.remove(target, names)
        elif turn % 50 == 49:
            index.clear(target)
        else:
            # An engine may have hashes of its own, of which one is zero.
            prompt = [chance.randrange(3) for _ in range(count)]
            index.store(target, names, prompt, tier=chance.choice([*Tier]))
            assert index.find(prompt)[target].blocks == count
        assert index.count(target) >= 0
    for target in TARGETS:
        assert sum(len(each.engine_hashes) for each in index.kept(target)) == index.count(target)
        index.clear(target)
    assert index.sweep(1 << 20) == 0
    assert index.stats().prefixes == index.stats().blocks == 0


def test_thousands_of_blocks_come_and_go() -> None:
    chance = random.Random(5)
    index = KvIndex()
    prompts = [[chance.getrandbits(64) for _ in range(32)] for _ in range(400)]
    for prompt in prompts:
        index.store(A, prompt, prompt)
        index.store(B, prompt[:16], prompt[:16])
    assert index.count(A) == 12_800
    assert dict(index.entries(A))[Tier.DEVICE].keys() == {name for each in prompts for name in each}
    kept = {at: chance.choice([32, 20, 1, 0]) for at in range(400)}
    for at in chance.sample(range(400), 400):
        assert index.remove(A, prompts[at][kept[at] :]) == 32 - kept[at]
        # A second time there is nothing to remove.
        assert index.remove(A, prompts[at][kept[at] :]) == 0
    for at, prompt in enumerate(prompts):
        found = index.find(prompt)
        assert found.get(A, Overlap()) == Overlap(kept[at])
        assert found[B] == Overlap(16)
    assert index.count(A) == sum(kept.values())
    for prompt in prompts:
        index.store(A, prompt, prompt)
    assert index.count(A) == 12_800
    index.clear(A)
    index.clear(B)
    assert index.sweep(100_000) == 0
    assert index.stats().prefixes == 0


def test_a_guess_of_where_owners_end_is_never_believed_unseen() -> None:
    chance = random.Random(6)
    index = KvIndex()
    system = [chance.getrandbits(64) for _ in range(64)]
    prompts = [
        [*system, *(chance.getrandbits(64) for _ in range(chance.randrange(40, 200)))]
        for _ in range(4)
    ]
    targets = [Target(f"w{at}") for at in range(12)]
    depths = {(target, at): 0 for target in targets for at in range(4)}
    for _ in range(400):
        target, at = chance.choice(targets), chance.randrange(4)
        prompt, held = prompts[at], max(depths[target, other] for other in range(4))
        depth = chance.randrange(64, len(prompt) + 1)
        if depth < depths[target, at]:
            index.remove(target, prompt[depth : depths[target, at]])
        else:
            index.store(target, prompt[:depth], prompt[:depth])
            if not held:
                depths.update({(target, other): 64 for other in range(4)})
        depths[target, at] = depth
        asked = chance.randrange(4)
        cut = chance.choice([len(prompts[asked]), chance.randrange(1, len(prompts[asked]))])
        expected = {
            each: Overlap(min(cut, depths[each, asked])) for each in targets if depths[each, asked]
        }
        assert index.find(prompts[asked][:cut]) == expected
        assert index.find(prompts[asked][:cut]) == expected


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
