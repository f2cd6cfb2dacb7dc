"""The block pool, against what its observer was told and a count of its own."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from protoplane_components.mocker.blocks import BlockPool

CAPACITY = 12


class Mirror:
    """What somebody believes who only hears the events."""

    def __init__(self) -> None:
        self.blocks: set[int] = set()
        self.parents: dict[int, int | None] = {}

    def stored(self, parent: int | None, hashes: Sequence[int]) -> None:
        assert not self.blocks & set(hashes), "a block was stored twice"
        self.blocks.update(hashes)
        for block in hashes:
            self.parents[block] = parent
            parent = block

    def removed(self, hashes: Sequence[int]) -> None:
        assert self.blocks >= set(hashes), "a block was removed that was not there"
        self.blocks.difference_update(hashes)

    def cleared(self) -> None:
        self.blocks.clear()


def test_the_end_of_the_prefix_that_was_left_longest_ago_goes_first() -> None:
    mirror = Mirror()
    pool = BlockPool(4, mirror)
    for prompt in ((1, 2), (3, 4)):
        pool.take(2)
        pool.fill(None, prompt)
    pool.leave((1, 2), 0)
    pool.leave((3, 4), 0)
    pool.take(1)
    assert mirror.blocks == {1, 3, 4}
    pool.take(2)
    assert mirror.blocks == {3}


def test_what_is_used_again_is_not_the_oldest_any_more() -> None:
    pool = BlockPool(3)
    for block in (1, 2, 3):
        pool.take(1)
        pool.fill(None, (block,))
        pool.leave((block,), 0)
    pool.hold((1,))
    pool.leave((1,), 0)
    pool.take(1)
    assert pool.cached() == {1, 3}


def test_a_prefix_ends_at_the_first_block_that_is_not_there() -> None:
    pool = BlockPool(4)
    pool.take(2)
    pool.fill(None, (1, 3))
    assert pool.prefix((1, 2, 3)) == 1
    assert pool.prefix((1, 3)) == 2
    assert pool.prefix(()) == 0


def test_kept_blocks_that_would_be_held_are_not_free() -> None:
    pool = BlockPool(3)
    pool.take(2)
    pool.fill(None, (1, 2))
    pool.leave((1, 2), 0)
    assert pool.fits((), 3)
    assert pool.fits((1, 2), 1)
    assert not pool.fits((1, 2), 2)


def test_a_block_that_two_have_filled_is_told_once_and_held_by_both() -> None:
    mirror = Mirror()
    pool = BlockPool(6, mirror)
    pool.take(6)
    pool.fill(None, (1, 2))
    pool.fill(None, (1, 2, 5))
    assert mirror.parents == {1: None, 2: 1, 5: 2}
    assert (pool.held, pool.available) == (4, 2)
    pool.leave((1, 2), 0)
    assert pool.held == 4


class Requests(RuleBasedStateMachine):
    """Requests come, fill their blocks and leave, in any order."""

    held = Bundle("held")

    def __init__(self) -> None:
        super().__init__()
        self.mirror = Mirror()
        self.pool = BlockPool(CAPACITY, self.mirror)
        self.requests: list[tuple[tuple[int, ...], int]] = []

    # A block is named by the path that leads to it, as hashes of sequences are.
    @rule(
        target=held,
        path=st.lists(st.integers(1, 2), min_size=1, max_size=5),
        private=st.integers(0, 2),
    )
    def come(self, path: list[int], private: int) -> tuple[tuple[int, ...], int] | None:
        blocks = tuple(int("".join(map(str, path[: end + 1]))) for end in range(len(path)))
        depth = self.pool.prefix(blocks)
        new = len(blocks) - depth + private
        if not self.pool.fits(blocks[:depth], new):
            return None
        self.pool.hold(blocks[:depth])
        self.pool.take(new)
        self.pool.fill(blocks[depth - 1] if depth else None, blocks[depth:])
        self.requests.append((blocks, private))
        return blocks, private

    @rule(request=consumes(held))
    def leave(self, request: tuple[tuple[int, ...], int] | None) -> None:
        if request is not None:
            self.requests.remove(request)
            self.pool.leave(*request)

    @rule()
    def clear(self) -> None:
        self.pool.clear()

    @invariant()
    def what_was_told_is_true(self) -> None:
        assert self.pool.cached() == self.mirror.blocks

    @invariant()
    def all_that_is_held_is_there_and_within_bounds(self) -> None:
        shared = {block for blocks, _ in self.requests for block in blocks}
        private = sum(private for _, private in self.requests)
        assert self.pool.held == len(shared) + private <= CAPACITY
        assert shared <= self.pool.cached()
        assert len(self.pool.cached()) + private <= CAPACITY


Requests.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestRequests = Requests.TestCase
