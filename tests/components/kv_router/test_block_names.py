"""Names of blocks, in several dicts, are what one dict would have."""

from __future__ import annotations

import random

from protoplane_components.kv_router.block_names import BlockNames


def test_it_has_what_one_dict_would_have() -> None:
    chance = random.Random(9)
    names, truth = BlockNames(), dict[int, int]()
    for turn in range(600):
        new = [chance.getrandbits(64) for _ in range(chance.randrange(1, 200))]
        assert names.add(new, turn)
        truth.update(dict.fromkeys(new, turn))
        # Mostly the oldest, as an engine does; sometimes any; and some that are not there.
        oldest = [*truth][: chance.randrange(190)]
        gone = chance.sample([*truth], 20) if turn % 9 == 0 else oldest
        if turn % 100 == 99:
            gone = chance.sample([*truth], len(truth) - 5)
        expected = [(name, truth.pop(name)) for name in gone]
        assert sorted(zip(*names.take([*gone, 1]), strict=True)) == sorted(expected)
        assert len(names) == len(truth)
        if turn % 50 == 0:
            assert all(names.get(name) == run for name, run in truth.items())
        assert names.get(1) is None


def test_what_was_noted_lately_is_not_overwritten() -> None:
    names = BlockNames()
    assert names.add([1, 2], 10)
    for known in ([3, 2], [4, 4]):
        assert not names.all_new(known)
        assert not names.add(known, 11)
    assert [names.get(name) for name in (1, 2, 3, 4)] == [10, 10, None, None]
    assert names.all_new([3, 4])
    assert names.add([3], 12)
    assert len(names) == 3
    found, runs = names.take([2, 2, 3])
    assert (list(found), list(runs)) == ([2, 3], [10, 12])
    assert len(names) == 1
