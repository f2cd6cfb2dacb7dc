"""An index in pieces is the same index elsewhere."""

from __future__ import annotations

import random

import pytest

from protoplane.router.v1 import IndexPiece, IndexRun
from protoplane_base import Code, PlaneError
from protoplane_components.kv_router.following import Course
from protoplane_components.kv_router.index import KvIndex, Overlap, Target, Tier
from protoplane_components.kv_router.snapshots import PIECE_VERSION, Restoring, dump

A, B = Target("a"), Target("b", 1)


def copy_of(index: KvIndex) -> tuple[KvIndex, Restoring]:
    copy = KvIndex()
    restoring = Restoring(copy, 16)
    for piece in dump(index, {A: Course("e", 7, True)}, 16):
        restoring.put(IndexPiece.from_bytes(piece.to_bytes()))
    return copy, restoring


def test_it_finds_the_same_and_goes_on_from_there() -> None:
    chance = random.Random(3)
    index = KvIndex()
    system = [chance.getrandbits(64) for _ in range(40)]
    prompts = [[*system, *(chance.getrandbits(64) for _ in range(200))] for _ in range(300)]
    index.store(A, system, system)
    for prompt in prompts:
        index.store(A, prompt[40:], prompt[40:], parent=system[-1])
        index.store(B, prompt[:60], prompt[:60], tier=chance.choice([*Tier]))
    # A hole, a block in another tier, and one with two names.
    index.remove(A, prompts[0][100:110])
    index.store(A, [8], prompts[0][100:101], parent=prompts[0][99], tier=Tier.HOST)
    index.store(A, [9], system[:1])
    copy, restoring = copy_of(index)
    assert restoring.courses[A] == Course("e", 7, True)
    assert restoring.blocks == copy.stats().blocks == index.stats().blocks > 60_000
    assert copy.stats().prefixes == index.stats().prefixes
    for target in (A, B):
        assert dict(copy.entries(target)) == dict(index.entries(target))
    for prompt in prompts:
        assert copy.find(prompt) == index.find(prompt)
    assert copy.find(prompts[0])[A] == Overlap(100, 1)
    for each in (index, copy):
        each.store(A, [10], prompts[0][101:102], parent=8)
        each.store(A, [11], [12], parent=prompts[0][-1])
        each.remove(A, [prompts[1][-1], system[0]])
        assert each.find([*prompts[0], 12])[A] == Overlap(100, 2)
        assert each.find(prompts[1])[A] == Overlap(239)


def test_what_has_lost_its_beginning_finds_it_again() -> None:
    index = KvIndex()
    index.store(A, [1, 2, 3, 4], [1, 2, 3, 4])
    index.store(B, [1, 2, 3, 5], [1, 2, 3, 5])
    index.store(B, [6], [6], parent=5)
    index.remove(A, [2])
    index.remove(B, [1, 2, 3, 5])
    copy, _ = copy_of(index)
    assert copy.find([1, 2, 3, 5, 6]) == {A: Overlap(1)}
    copy.store(A, [2], [2], parent=1)
    copy.store(B, [1, 2, 3, 5], [1, 2, 3, 5])
    assert copy.find([1, 2, 3, 5, 6]) == {A: Overlap(3), B: Overlap(5)}
    assert copy.find([1, 2, 3, 4]) == {A: Overlap(4), B: Overlap(3)}


@pytest.mark.parametrize(
    ("change", "code", "match"),
    [
        ({"version": PIECE_VERSION - 1}, Code.FAILED_PRECONDITION, "same release"),
        ({"block_size": 32}, Code.FAILED_PRECONDITION, "blocks of 32 tokens"),
        ({"worker_id": ""}, Code.INVALID_ARGUMENT, "names its worker_id"),
        ({"blocks": bytes(24)}, Code.INVALID_ARGUMENT, "each of the 1 blocks of its runs, not 24"),
    ],
)
def test_what_is_no_piece_is_refused(change: dict[str, object], code: Code, match: str) -> None:
    fields: dict[str, object] = {
        "version": PIECE_VERSION,
        "worker_id": "a",
        "block_size": 16,
        "blocks": bytes(16),
        "runs": [IndexRun(blocks=1)],
    }
    index = KvIndex()
    with pytest.raises(PlaneError, match=match) as caught:
        Restoring(index, 16).put(IndexPiece.model_validate(fields | change))
    assert caught.value.code is code
    assert not index.targets()
