"""Prompts that are under way count as cached where they are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from protoplane_components.kv_router.hashing import block_hashes, prefix_keys
from protoplane_components.kv_router.index import KvIndex, Overlap, Target
from protoplane_components.kv_router.levels import Group, as_levels, by_target
from protoplane_components.kv_router.promised import PromisedBlocks
from protoplane_components.kv_router.router import Router
from protoplane_components.kv_router.selection import Request, Worker

A, B, C = Target("a", 0), Target("b", 0), Target("c", 0)


def joined(
    promised: PromisedBlocks, found: dict[Target, Overlap], keys: NDArray[np.uint64]
) -> dict[Target, Overlap]:
    """What each target has, or will have."""
    return by_target(promised.joined(as_levels(found), keys))


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from("xyz"),
            st.sampled_from([A, B]),
            st.none() | st.lists(st.integers(1, 2), max_size=4),
        ),
        max_size=25,
    )
)
def test_the_longest_prefix_of_the_prompts_under_way_is_found(
    steps: list[tuple[str, Target, list[int] | None]],
) -> None:
    """Promised and settled in any order, as many at a time as there are names."""
    promised = PromisedBlocks()
    naive: dict[str, tuple[Target, list[int]]] = {}
    for name, target, blocks in steps:
        if blocks is None:
            promised.settle(name)
            naive.pop(name, None)
        else:
            promised.promise(name, target, prefix_keys(block_hashes(blocks, 1)))
            naive[name] = (target, blocks)
        asked = [1, 2, 1, 1]
        expected = dict.fromkeys((A, B), 0)
        for where, prompt in naive.values():
            depth = 0
            while depth < len(prompt) and prompt[depth] == asked[depth]:
                depth += 1
            expected[where] = max(expected[where], depth)
        found = joined(promised, {}, prefix_keys(block_hashes(asked, 1)))
        assert {target: found.get(target, Overlap()).device for target in (A, B)} == expected


def test_what_is_promised_covers_slower_tiers() -> None:
    promised = PromisedBlocks()
    prompt = prefix_keys(block_hashes([1, 2, 3, 4, 5, 6], 1))
    promised.promise("x", A, prompt[:3])
    assert joined(promised, {A: Overlap(1, 1, 2)}, prompt) == {A: Overlap(3, 0, 1)}
    assert joined(promised, {A: Overlap(2, 3, 1)}, prompt) == {A: Overlap(3, 2, 1)}
    assert joined(promised, {A: Overlap(5)}, prompt) == {A: Overlap(5)}
    assert joined(promised, {B: Overlap(5)}, prompt) == {A: Overlap(3), B: Overlap(5)}


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sets(st.sampled_from([A, B, C]), min_size=1),
            st.builds(Overlap, st.integers(0, 4), st.integers(0, 3), st.integers(0, 3)),
        ),
        max_size=4,
    ),
    st.lists(st.tuples(st.sampled_from([A, B, C]), st.integers(1, 9)), max_size=6),
)
def test_each_target_has_the_more_of_what_it_has_and_was_promised(
    found: list[tuple[set[Target], Overlap]], given_: list[tuple[Target, int]]
) -> None:
    """However many levels a target is in."""
    prompt = prefix_keys(block_hashes(range(9), 1))
    promised = PromisedBlocks()
    for number, (target, depth) in enumerate(given_):
        promised.promise(str(number), target, prompt[:depth])
    levels = [(overlap, Group(targets)) for targets, overlap in found]
    has = by_target(levels)
    will = by_target(promised.joined(levels, prompt))
    for target in (A, B, C):
        before, after = has.get(target, Overlap()), will.get(target, Overlap())
        depth = max((depth for who, depth in given_ if who == target), default=0)
        assert after.device == max(before.device, depth)
        assert after.device + after.host == max(before.device + before.host, depth)
        assert after.blocks == max(before.blocks, depth)


def test_a_worker_that_goes_takes_its_promises_along() -> None:
    promised = PromisedBlocks()
    prompt = prefix_keys(block_hashes([1, 2], 1))
    promised.promise("x", A, prompt)
    promised.promise("y", B, prompt)
    promised.remove_worker("a")
    promised.settle("x")
    assert joined(promised, {}, prompt) == {B: Overlap(2)}
    assert len(promised) == 1


def router() -> Router:
    made = Router(block_size=1)
    for name in "ab":
        made.register(Worker(name))
    return made


def test_the_next_turn_follows_one_that_is_not_computed_yet() -> None:
    made = router()
    first, chosen = made.reserve(Request(tokens=range(100)))
    # The other one is as busy, so that the prefix decides.
    made.reserve(Request(tokens=range(1000, 1100), excluded=frozenset(chosen.target.worker)))
    selection = made.select(Request(tokens=range(200)))
    assert selection.target == chosen.target
    assert selection.overlap == Overlap(100)
    assert isinstance(made.index, KvIndex)
    assert not made.index.find(block_hashes(range(100), 1)), "the index has only what there is"
    made.prefill_completed(first.id)
    assert made.select(Request(tokens=range(200))).overlap == Overlap()


@pytest.mark.parametrize("end", ["release", "expire", "remove", "register"])
def test_nothing_stays_promised(end: str) -> None:
    now = 0.0
    made = Router(block_size=1, clock=lambda: now)
    made.register(Worker("a", dp_start=1))
    reservation, _ = made.reserve(Request(tokens=range(10)))
    assert len(made.promised) == 1
    match end:
        case "release":
            made.release(reservation.id)
        case "expire":
            now = 1e6
            made.expire()
        case "remove":
            made.remove("a")
        case _:
            made.register(Worker("a", dp_start=7))
    assert len(made.promised) == 0
