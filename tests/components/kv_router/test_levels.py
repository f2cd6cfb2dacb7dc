"""What groups of targets have."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from protoplane_components.kv_router.index import Overlap, Target
from protoplane_components.kv_router.levels import Group, as_levels, by_target, of_target

A, B, C = Target("a"), Target("b"), Target("c")

_TARGETS = st.builds(Target, st.sampled_from("abc"), st.integers(0, 2))
_OVERLAPS = st.builds(Overlap, st.integers(1, 3), st.integers(0, 2))


@given(st.dictionaries(_TARGETS, _OVERLAPS))
def test_what_each_has_is_the_same_by_how_much_it_is(found: dict[Target, Overlap]) -> None:
    levels = as_levels(found)
    assert by_target(levels) == found
    assert len({overlap for overlap, _ in levels}) == len(levels)
    for target in (A, B, C):
        assert of_target(levels, target) == found.get(target)


def test_the_last_level_of_a_target_counts() -> None:
    levels = [(Overlap(3), Group([A, B])), (Overlap(1, 1), Group([B]))]
    assert by_target(levels) == {A: Overlap(3), B: Overlap(1, 1)}
    assert of_target(levels, B) == Overlap(1, 1)


def test_rows_are_those_of_the_table_that_is_asked() -> None:
    group, table = Group([A, B]), {A: 0, B: 1, C: 2}
    for _ in range(2):
        assert np.sort(group.rows(table)).tolist() == [0, 1]
        assert group.rows({C: 0, B: 1}) == 1
        assert np.size(group.rows({C: 0})) == 0
