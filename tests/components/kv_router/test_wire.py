"""What is read from the bytes of an event in the fast way is what its model says."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from protoplane.router.v1 import (
    BlocksCleared,
    BlocksRemoved,
    BlocksStored,
    KvEvent,
    StorageTier,
)
from protoplane_components.kv_router.wire import read_stored

HASHES = st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=20)


@given(
    st.builds(
        KvEvent,
        worker=st.text(max_size=8),
        dp_rank=st.integers(0, 2**32 - 1),
        event_id=st.integers(0, 2**64 - 1),
        epoch=st.text(max_size=3),
        block_size=st.integers(0, 512),
        tier=st.sampled_from(StorageTier),
        stored=st.builds(
            BlocksStored,
            parent_hash=st.none() | st.integers(0, 2**64 - 1),
            start_position=st.none() | st.integers(0, 2**32 - 1),
            block_hashes=HASHES,
            tokens_hashes=HASHES,
        ),
    )
)
def test_it_reads_what_the_model_says(event: KvEvent) -> None:
    read = read_stored(event.to_bytes())
    assert read is not None
    assert event.stored is not None
    assert (read.worker, read.dp_rank, read.event_id) == (
        event.worker,
        event.dp_rank,
        event.event_id,
    )
    assert (read.epoch, read.block_size, read.tier) == (event.epoch, event.block_size, event.tier)
    assert read.parent == event.stored.parent_hash
    assert read.engine_hashes.tolist() == event.stored.block_hashes
    assert read.hashes.tolist() == event.stored.tokens_hashes


@given(st.binary(max_size=60))
def test_what_it_does_not_know_it_leaves_to_the_model(data: bytes) -> None:
    read = read_stored(data)
    if read is not None:
        stored = KvEvent.from_bytes(data).stored
        assert stored is not None
        assert read.engine_hashes.tolist() == stored.block_hashes


def test_other_events_are_left_to_the_model() -> None:
    assert read_stored(KvEvent(removed=BlocksRemoved(block_hashes=[1])).to_bytes()) is None
    assert read_stored(KvEvent(cleared=BlocksCleared()).to_bytes()) is None
    assert read_stored(KvEvent().to_bytes()) is None


def test_lists_in_pieces_are_left_to_the_model() -> None:
    piece = BlocksStored(block_hashes=[1], tokens_hashes=[2]).to_bytes()
    data = b"\x3a" + bytes([2 * len(piece)]) + piece + piece
    assert KvEvent.from_bytes(data).stored == BlocksStored(
        block_hashes=[1, 1], tokens_hashes=[2, 2]
    )
    assert read_stored(data) is None
