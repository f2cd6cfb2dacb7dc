"""Hashes of blocks: those that Dynamo makes, and the index's own keys; by C and by Python."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.components.kv_router.hashing_ways import WAYS, loaded

from protoplane_base import Code, PlaneError
from protoplane_components.kv_router import hashing as usual

HASHES = st.lists(st.integers(0, 2**64 - 1), max_size=40)

# What `compute_block_hash_for_seq` of ai-dynamo-runtime 1.6.1 answers.
TOKENS = [1, 2, 3, 4]
VECTORS = [
    ("", "", 14643705804678351452),
    ("a", "", 17680866786467819158),
    ("", "a", 12074216714505932737),
    ("a", "b", 14812319159299607501),
]


@pytest.fixture(scope="module", params=WAYS)
def hashing(request: pytest.FixtureRequest) -> Iterator[ModuleType]:
    yield from loaded(request.param)


@pytest.mark.parametrize(("lora", "namespace", "expected"), VECTORS)
def test_block_hashes_are_those_of_dynamo(
    hashing: ModuleType, lora: str, namespace: str, expected: int
) -> None:
    hashes = hashing.block_hashes(TOKENS, 4, lora=lora, cache_namespace=namespace)
    assert hashes.tolist() == [expected]


def test_only_full_blocks_have_hashes(hashing: ModuleType) -> None:
    assert len(hashing.block_hashes(list(range(15)), 4)) == 3
    assert len(hashing.block_hashes([1, 2, 3], 4)) == 0
    assert hashing.block_hashes([*TOKENS, 5], 4).tolist() == [VECTORS[0][2]]


def test_tokens_can_be_an_array(hashing: ModuleType) -> None:
    tokens = list(range(2**32 - 64, 2**32))
    array = np.array(tokens, np.uint32)
    assert hashing.block_hashes(array, 16).tolist() == hashing.block_hashes(tokens, 16).tolist()


@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_each_byte_is_a_token(hashing: ModuleType, kind: type[bytes | bytearray]) -> None:
    # Not four of them, as they lie in memory.
    tokens = [1, 2, 3, 4, 250, 251, 252, 253]
    hashes = hashing.block_hashes(kind(tokens), 4)
    assert hashes.tolist() == hashing.block_hashes(tokens, 4).tolist()
    assert len(hashes) == 2


@pytest.mark.parametrize("tokens", [[-1, 2], [2**32, 1], [1.0, 2], ["1", 2], [None, 2]])
def test_what_is_no_token_is_refused(hashing: ModuleType, tokens: list[object]) -> None:
    with pytest.raises(PlaneError, match=r"numbers from 0 to 2\*\*32") as caught:
        hashing.block_hashes(tokens, 2)
    assert caught.value.code is Code.INVALID_ARGUMENT


def test_a_block_has_a_size(hashing: ModuleType) -> None:
    with pytest.raises(PlaneError, match="at least 1 token, not 0"):
        hashing.block_hashes([1], 0)
    with pytest.raises(PlaneError, match="at least 1 token, not -1"):
        hashing.read_prompt(b"1", -1)


def test_arrays_need_not_lie_in_one_piece(hashing: ModuleType) -> None:
    tokens = np.arange(64, dtype=np.uint32)
    every_other = hashing.block_hashes(tokens[::2], 4)
    assert every_other.tolist() == hashing.block_hashes(tokens[::2].tolist(), 4).tolist()
    assert hashing.block_hashes(tokens.astype(">u4"), 4).tolist() == (
        hashing.block_hashes(tokens, 4).tolist()
    )
    for make in (hashing.prefix_keys, hashing.sequence_hashes):
        assert list(make(every_other[::2])) == list(make(every_other[::2].tolist()))


def test_a_prompt_is_read_from_json(hashing: ModuleType) -> None:
    tokens = [7 * number % 100_000 for number in range(67)]
    text = ", ".join(map(str, tokens)).encode()
    for lora, namespace in (("", ""), ("a", ""), ("", "a"), ("a", "b")):
        words, keys, count = hashing.read_prompt(text, 4, lora=lora, cache_namespace=namespace)
        hashes = hashing.HashList(np.frombuffer(words, np.uint64), np.frombuffer(keys, np.uint64))
        expected = hashing.block_hashes(tokens, 4, lora=lora, cache_namespace=namespace)
        assert hashes == expected.tolist()
        assert hashing.as_hashes(hashes).tolist() == hashes
        assert count == len(tokens)
        # The keys were made with them, and only from the beginning they are these.
        assert hashes.keys.tolist() == hashing.prefix_keys(expected).tolist()
        assert hashing.prefix_keys(hashes) is hashes.keys
        assert hashing.prefix_keys(hashes, 5).tolist() == hashing.prefix_keys(expected, 5).tolist()
    assert hashing.read_prompt(text + b",", 4) is None


def test_a_list_keeps_the_array_that_it_was_made_of(hashing: ModuleType) -> None:
    words = hashing.block_hashes(list(range(12)), 4)
    hashes = hashing.HashList(words)
    assert hashes == words.tolist()
    assert hashing.as_hashes(hashes) is words
    assert hashing.prefix_keys(hashes).tolist() == hashing.prefix_keys(words).tolist()
    assert hashing.sequence_hashes(hashes) == hashing.sequence_hashes(words)


def test_a_copy_of_a_list_has_an_array_too() -> None:
    hashes = usual.HashList(usual.block_hashes(list(range(12)), 4))
    for again in (copy.deepcopy(hashes), copy.copy(hashes), pickle.loads(pickle.dumps(hashes))):
        assert again == hashes
        assert usual.as_hashes(again).tolist() == [*hashes]


def test_sequence_hashes_are_a_chain(hashing: ModuleType) -> None:
    hashes = hashing.block_hashes(list(range(12)), 4)
    chain = hashing.sequence_hashes(hashes)
    assert chain[0] == int(hashes[0])
    # XXH3-64, seed 1337, of both as little-endian 64-bit integers.
    assert chain == [9143094415614847814, 9510318385840434533, 16998148715716822651]
    assert hashing.sequence_hashes(hashes[1:], chain[0]) == chain[1:]


@given(HASHES, st.integers(1, 40))
def test_keys_go_on_from_any_place(hashing: ModuleType, hashes: list[int], at: int) -> None:
    keys = hashing.prefix_keys(hashes).tolist()
    at = min(at, len(hashes))
    assert keys[at:] == hashing.prefix_keys(hashes[at:], keys[at - 1] if at else None).tolist()


@given(st.lists(st.integers(0, 5), max_size=12), st.lists(st.integers(0, 5), max_size=12))
def test_different_prefixes_have_different_keys(
    hashing: ModuleType, one: list[int], other: list[int]
) -> None:
    blocks = hashing.block_hashes(list(range(6)), 1).tolist()
    keys = hashing.prefix_keys([blocks[at] for at in one]).tolist()
    others = hashing.prefix_keys([blocks[at] for at in other]).tolist()
    for at, (key, another) in enumerate(zip(keys, others, strict=False)):
        assert (key == another) == (one[: at + 1] == other[: at + 1])


def test_the_order_of_blocks_matters_however_long_the_prompt(hashing: ModuleType) -> None:
    hashes = hashing.block_hashes(list(range(5000 * 4)), 4).tolist()
    keys = hashing.prefix_keys(hashes)
    for far in (1, 2, 512, 4096):
        swapped = [*hashes]
        swapped[3], swapped[3 + far] = swapped[3 + far], swapped[3]
        assert hashing.prefix_keys(swapped)[-1] != keys[-1]


def test_a_hash_too_large_is_refused(hashing: ModuleType) -> None:
    with pytest.raises(PlaneError, match=r"2\*\*64 - 1"):
        hashing.prefix_keys([2**64])
