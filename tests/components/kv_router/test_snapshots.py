"""An index in pieces is the same index elsewhere."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protoplane.router.v1 import IndexPiece, IndexRun, StorageTier
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
        ({"runs": [IndexRun(blocks=1, way=2)]}, Code.INVALID_ARGUMENT, "a way that is longer"),
        ({"runs": [IndexRun(blocks=1, depth=1 << 31)]}, Code.INVALID_ARGUMENT, "lies deeper"),
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


@given(st.data())
def test_pieces_that_contradict_each_other_break_nothing(data: st.DataObject) -> None:
    """Nothing that comes hangs or fails the index: it is dumped, asked and emptied as any other."""
    index = KvIndex()
    restoring = Restoring(index, 16)
    few = st.sampled_from([0, 1, 2, 3, (1 << 64) - 1])
    for _ in range(data.draw(st.integers(1, 4))):
        runs = [
            IndexRun(
                blocks=blocks,
                depth=data.draw(st.sampled_from([0, 1, 3, 1 << 30])),
                parent=data.draw(st.none() | few),
                way=data.draw(st.integers(0, blocks)),
            )
            for blocks in data.draw(st.lists(st.sampled_from([0, 1, 2, 5]), max_size=4))
        ]
        count = 2 * sum(run.blocks for run in runs)
        words = data.draw(st.lists(few, min_size=count, max_size=count))
        restoring.put(
            IndexPiece(
                version=PIECE_VERSION,
                worker_id=data.draw(st.sampled_from("ab")),
                block_size=16,
                tier=data.draw(st.sampled_from(StorageTier)),
                blocks=np.array(words, np.uint64).tobytes(),
                runs=runs,
            )
        )
    assert {piece.worker_id for piece in dump(index, restoring.courses, 16)} <= {"a", "b"}
    index.find([1, 2, 3])
    for target in [*index.targets()]:
        index.clear(target)
    assert not index.sweep(1000)
    assert not index.targets()
