"""The index that only knows what was routed."""

from __future__ import annotations

import pytest

from protoplane_base import PlaneError
from protoplane_components.kv_router.approximate import ApproximateIndex
from protoplane_components.kv_router.index import Overlap, Target

A, B = Target("a"), Target("b")


class Clock:
    """Time, as a test wants it."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_what_was_routed_is_taken_to_be_cached() -> None:
    index = ApproximateIndex()
    index.routed(A, [1, 2, 3])
    index.routed(B, [1, 2])
    assert index.find([1, 2, 3, 4]) == {A: Overlap(3), B: Overlap(2)}


def test_it_lapses_unless_it_is_used_again() -> None:
    clock = Clock()
    index = ApproximateIndex(ttl_s=10, clock=clock)
    index.routed(A, [1, 2, 3])
    clock.now = 6
    index.routed(A, [1, 2, 9])
    clock.now = 10
    assert index.find([1, 2, 3]) == {A: Overlap(2)}
    assert index.find([1, 2, 9]) == {A: Overlap(3)}
    clock.now = 16
    assert index.find([1, 2, 9]) == {}
    assert len(index) == 0


def test_the_bound_forgets_the_oldest() -> None:
    index = ApproximateIndex(max_blocks=6)
    index.routed(A, [1, 2, 3])
    index.routed(B, [4, 5, 6])
    index.routed(A, [1, 2])
    index.routed(B, [7, 8])
    assert len(index) <= 6
    assert index.find([1, 2]) == {A: Overlap(2)}
    assert index.find([7, 8]) == {B: Overlap(2)}
    index.routed(A, list(range(10, 100)))
    assert index.find(list(range(10, 100))) == {A: Overlap(6)}


def test_a_worker_that_leaves_is_forgotten() -> None:
    clock = Clock()
    index = ApproximateIndex(ttl_s=1, clock=clock)
    index.routed(A, [1, 2])
    index.routed(Target("a", 1), [1])
    index.routed(B, [1])
    index.remove_worker("a")
    assert index.find([1, 2]) == {B: Overlap(1)}
    clock.now = 2
    assert index.find([1]) == {}


@pytest.mark.parametrize(("ttl_s", "most"), [(0, 1), (1, 0)])
def test_limits_are_positive(ttl_s: float, most: int) -> None:
    with pytest.raises(PlaneError, match="must be positive"):
        ApproximateIndex(ttl_s=ttl_s, max_blocks=most)
