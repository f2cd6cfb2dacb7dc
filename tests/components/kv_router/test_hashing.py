"""Hashes of blocks: those that Dynamo makes, and the index's own keys."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protoplane_base import Code, PlaneError
from protoplane_components.kv_router.hashing import (
    block_hashes,
    prefix_keys,
    sequence_hashes,
)

HASHES = st.lists(st.integers(0, 2**64 - 1), max_size=40)

# What `compute_block_hash_for_seq` of ai-dynamo-runtime 1.6.1 answers.
TOKENS = [1, 2, 3, 4]
VECTORS = [
    ("", "", 14643705804678351452),
    ("a", "", 17680866786467819158),
    ("", "a", 12074216714505932737),
    ("a", "b", 14812319159299607501),
]


@pytest.mark.parametrize(("lora", "namespace", "expected"), VECTORS)
def test_block_hashes_are_those_of_dynamo(lora: str, namespace: str, expected: int) -> None:
    hashes = block_hashes(TOKENS, 4, lora=lora, cache_namespace=namespace)
    assert hashes.tolist() == [expected]


def test_only_full_blocks_have_hashes() -> None:
    assert len(block_hashes(list(range(15)), 4)) == 3
    assert len(block_hashes([1, 2, 3], 4)) == 0
    assert block_hashes([*TOKENS, 5], 4).tolist() == [VECTORS[0][2]]


def test_tokens_can_be_an_array() -> None:
    tokens = list(range(2**32 - 64, 2**32))
    array = np.array(tokens, np.uint32)
    assert block_hashes(array, 16).tolist() == block_hashes(tokens, 16).tolist()


@pytest.mark.parametrize("tokens", [[-1, 2], [2**32, 1]])
def test_what_is_no_token_is_refused(tokens: list[int]) -> None:
    with pytest.raises(PlaneError, match=r"numbers from 0 to 2\*\*32") as caught:
        block_hashes(tokens, 2)
    assert caught.value.code is Code.INVALID_ARGUMENT


def test_a_block_has_a_size() -> None:
    with pytest.raises(PlaneError, match="at least 1 token, not 0"):
        block_hashes([1], 0)


def test_sequence_hashes_are_a_chain() -> None:
    hashes = block_hashes(list(range(12)), 4)
    chain = sequence_hashes(hashes)
    assert chain[0] == int(hashes[0])
    # XXH3-64, seed 1337, of both as little-endian 64-bit integers.
    assert chain == [9143094415614847814, 9510318385840434533, 16998148715716822651]
    assert sequence_hashes(hashes[1:], chain[0]) == chain[1:]


@given(HASHES, st.integers(1, 40))
def test_keys_go_on_from_any_place(hashes: list[int], at: int) -> None:
    keys = prefix_keys(hashes).tolist()
    at = min(at, len(hashes))
    assert keys[at:] == prefix_keys(hashes[at:], keys[at - 1] if at else None).tolist()


@given(st.lists(st.integers(0, 5), max_size=12), st.lists(st.integers(0, 5), max_size=12))
def test_different_prefixes_have_different_keys(one: list[int], other: list[int]) -> None:
    blocks = block_hashes(list(range(6)), 1).tolist()
    keys = prefix_keys([blocks[at] for at in one]).tolist()
    others = prefix_keys([blocks[at] for at in other]).tolist()
    for at, (key, another) in enumerate(zip(keys, others, strict=False)):
        assert (key == another) == (one[: at + 1] == other[: at + 1])


def test_the_order_of_blocks_matters_however_long_the_prompt() -> None:
    hashes = block_hashes(list(range(5000 * 4)), 4).tolist()
    keys = prefix_keys(hashes)
    for far in (1, 2, 512, 4096):
        swapped = [*hashes]
        swapped[3], swapped[3 + far] = swapped[3 + far], swapped[3]
        assert prefix_keys(swapped)[-1] != keys[-1]


def test_a_hash_too_large_is_refused() -> None:
    with pytest.raises(PlaneError, match=r"2\*\*64 - 1"):
        prefix_keys([2**64])
