"""Names of blocks, in several dicts, are what one dict would have."""

from __future__ import annotations

import random

from protoplane_components.kv_router.block_names import BlockNames


def test_it_has_what_one_dict_would_have() -> None:
    chance = random.Random(9)
    names, truth = BlockNames(), dict[int, int]()
    for turn in range(600):
        new = [chance.getrandbits(64) for _ in range(chance.randrange(1, 200))]
        keys = [chance.getrandbits(60) for _ in new]
        assert names.add(new, keys)
        truth.update(zip(new, keys, strict=True))
        # Mostly the oldest, as an engine does; sometimes any; and some that are not there.
        oldest = [*truth][: chance.randrange(190)]
        gone = chance.sample([*truth], 20) if turn % 9 == 0 else oldest
        if turn % 100 == 99:
            gone = chance.sample([*truth], len(truth) - 5)
        expected = [truth.pop(name) for name in gone]
        assert sorted(names.take([*gone, 1])) == sorted(expected)
        assert len(names) == len(truth)
        if turn % 50 == 0:
            assert dict(names.entries()) == truth
            assert sorted(names) == sorted(truth)
            assert all(names.get(name) == key for name, key in truth.items())
        assert names.get(1) is None


def test_what_was_noted_lately_is_not_overwritten() -> None:
    names = BlockNames()
    assert names.add([1, 2], [10, 20])
    assert not names.add([3, 2], [30, 21])
    assert not names.add([4, 4], [40, 41])
    assert dict(names.entries()) == {1: 10, 2: 20}
    names.put(3, 30)
    assert len(names) == 3
    assert sorted(names.take([2, 2, 3])) == [20, 30]
    assert len(names) == 1
