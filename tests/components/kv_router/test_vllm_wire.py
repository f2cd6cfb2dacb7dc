"""Batches of KV events as vLLM and SGLang write them."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protoplane_base import Code, PlaneError
from protoplane_components.kv_router.vllm_wire import (
    AllCleared,
    BlocksRemoved,
    BlocksStored,
    read_batch,
)

STORED: dict[str, Any] = {
    "type": "BlockStored",
    "block_hashes": [b"\1" * 32, b"\2" * 32],
    "parent_block_hash": None,
    "token_ids": [1, 2, 3, 4],
    "block_size": 2,
    "lora_id": None,
    "medium": "GPU",
    "lora_name": None,
}


def encode(*events: Any, rank: int | None = 3) -> bytes:
    return msgspec.msgpack.encode({"ts": 1.5, "events": list(events), "data_parallel_rank": rank})


def test_maps_and_lists_mean_the_same() -> None:
    values = [value for name, value in STORED.items() if name != "type"]
    by_name = read_batch(encode(STORED))
    by_place = read_batch(msgspec.msgpack.encode([1.5, [["BlockStored", *values]], 3]))
    assert by_name == by_place
    assert by_name.rank == 3
    [event] = by_name.events
    assert event == BlocksStored(
        [b"\1" * 32, b"\2" * 32], None, [1, 2, 3, 4], 2, "GPU", "", [False, False], 0, ""
    )


def test_what_older_versions_leave_out() -> None:
    batch = read_batch(
        msgspec.msgpack.encode(
            [2, [["BlockStored", [7], 6, [1], 1, 5], ["BlockRemoved", [7]], ["AllBlocksCleared"]]]
        )
    )
    assert batch.rank is None
    stored, removed, cleared = batch.events
    assert isinstance(stored, BlocksStored)
    assert (stored.parent, stored.lora_name, stored.medium) == (6, "5", "")
    assert removed == BlocksRemoved([7], "", 0)
    assert cleared == AllCleared()


def test_blocks_that_more_than_tokens_tell_apart_are_marked() -> None:
    keys = [["adapter"], ["adapter", "image"]]
    [event] = read_batch(encode({**STORED, "lora_name": "adapter", "extra_keys": keys})).events
    assert isinstance(event, BlocksStored)
    assert event.marked == [False, True]


def test_events_of_kinds_to_come_are_passed_over() -> None:
    assert read_batch(encode({"type": "BlockMoved"}, ["BlockMoved", 1])).events == []


FAULTS: list[tuple[list[Any], str]] = [
    ([{**STORED, "token_ids": [1]}], "1 tokens are not 2 blocks of 2"),
    ([{**STORED, "token_ids": [1, 2, 3, -4]}], "token_ids"),
    ([{**STORED, "block_size": 0}], "blocks of 0"),
    ([{**STORED, "extra_keys": []}], "extra_keys has 0 entries for 2 blocks"),
    ([{"type": "BlockRemoved"}], "block_hashes"),
    ([{"type": "BlockRemoved", "block_hashes": ["x"]}], "number or bytes"),
    ([7], "a map or a list"),
    ([[]], "no type"),
]


@pytest.mark.parametrize(("events", "said"), FAULTS)
def test_faults_are_said(events: list[Any], said: str) -> None:
    with pytest.raises(PlaneError, match=said) as caught:
        read_batch(encode(*events))
    assert caught.value.code is Code.INVALID_ARGUMENT


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(st.binary() | st.builds(encode, _JSON, _JSON) | _JSON.map(msgspec.msgpack.encode))
def test_nothing_else_than_a_plane_error_comes_of_it(payload: bytes) -> None:
    with suppress(PlaneError):
        read_batch(payload)
