"""An index in parts finds what a whole one does."""

from __future__ import annotations

import random

import pytest

from protoplane_base import PlaneError
from protoplane_components.kv_router.index import KvIndex, Target, Tier, UnknownParentError
from protoplane_components.kv_router.sharding import ShardedIndex

A, B = Target("a"), Target("b", 1)


def test_it_finds_what_a_whole_one_does() -> None:
    chance = random.Random(7)
    parts = [KvIndex() for _ in range(3)]
    sharded, whole = ShardedIndex(parts), KvIndex()
    prompts = [[chance.getrandbits(64) for _ in range(8)] for _ in range(60)]
    for index in (sharded, whole):
        for number, prompt in enumerate(prompts):
            target = (A, B)[number % 2]
            index.store(target, prompt[:3], prompt[:3])
            index.store(target, prompt[3:6], prompt[3:6], parent=prompt[2], tier=Tier.HOST)
            if number % 3 == 0:
                assert index.remove(target, prompt[4:6], tier=Tier.HOST) == 2
                assert index.remove(target, prompt[4:6], tier=Tier.HOST) == 0
    assert [sharded.find(prompt) for prompt in prompts] == [whole.find(each) for each in prompts]
    assert all(part.stats().blocks > 40 for part in parts)
    assert sum(part.stats().blocks for part in parts) == whole.stats().blocks
    for index in (sharded, whole):
        index.remove_worker("a")
    assert [sharded.find(prompt) for prompt in prompts] == [whole.find(each) for each in prompts]
    assert sharded.find([]) == {}


def test_a_name_that_is_given_to_a_block_of_another_part_leaves_the_first() -> None:
    parts = [KvIndex() for _ in range(8)]
    index = ShardedIndex(parts)
    chance = random.Random(8)
    for _ in range(40):
        first = chance.getrandbits(64)
        index.store(A, [1], [first])
        assert index.find([first]).keys() == {A}
        assert sum(part.stats().blocks for part in parts) == 1
    assert index.remove(A, [1]) == 1
    assert sum(part.stats().prefixes for part in parts) == 0


def test_a_parent_that_is_not_there_is_a_lost_event() -> None:
    index = ShardedIndex(count=2)
    with pytest.raises(UnknownParentError):
        index.store(A, [2], [2], parent=1)
    index.store(A, [], [])
    assert index.remove(B, [1]) == 0


def test_there_is_a_part() -> None:
    with pytest.raises(PlaneError, match="at least one part"):
        ShardedIndex([])
