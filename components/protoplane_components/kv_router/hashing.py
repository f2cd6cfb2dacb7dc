"""Names of KV-cache blocks: the hashes that engines and routers agree on, and the index's own keys.

A **block hash** names the tokens of one block alone, a **sequence hash** a block with all before
it. Both are those of NVIDIA Dynamo (`lib/kv-router`, `lib/kv-hashing`), so that its workers and
ours can be
mixed: XXH3-64 with seed 1337 over little-endian integers; a LoRA adapter's name and a cache
namespace add to the seed.

A **prefix key** names the same thing as a sequence hash for less: without a compiler a whole
prompt's are made by a few passes of numpy, where a chain of hashes needs a call for each block. It
is a polynomial of the block hashes: ``key(n) = key(n - 1) * R + hash(n) + C``, modulo 2**64;
without C prefixes of blocks whose hash is zero would be the same. Block hashes are spread evenly
by XXH3, so a prefix has the key of a certain other one with a chance of 2**-64; where they are the
same but for two blocks swapped that lie a multiple of 2**j apart, of 2**(j - 62).
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from protoplane_base import Code, PlaneError
from protoplane_components.kv_router.core import core

SEED = 1337
FAMILY_SHIFT = 48
"""How far to the right the key of a first block goes in a number that names a part of an index."""

Hashes = NDArray[np.uint64] | Sequence[int]
"""Hashes of blocks, in order: an array of 64-bit integers, or a sequence of numbers below 2**64."""

_WORD = 1 << 64


class HashList(list[int]):
    """Hashes of blocks as numbers that still have the array they were made of.

    For messages, whose lists are lists; `as_hashes` takes the array, which spares another one. It
    must not be changed.

    Args:
        words: The hashes.
        keys: Keys of a prompt that begins with them, where they are known; `prefix_keys` makes
            them otherwise.
    """

    __slots__ = ("keys", "words")

    def __init__(self, words: NDArray[np.uint64], keys: NDArray[np.uint64] | None = None) -> None:
        super().__init__(words.tolist())
        self.words = words
        self.keys = keys


def seed_of(lora: str = "", cache_namespace: str = "") -> int:
    """The seed of block hashes.

    Args:
        lora: Name of the LoRA adapter; empty for none.
        cache_namespace: Requests share blocks only within it; empty for the common one.
    """
    seed = SEED
    if lora:
        seed += xxh3_64_intdigest(lora.encode(), 0)
    if cache_namespace:
        seed += xxh3_64_intdigest(cache_namespace.encode(), 1)
    return seed % _WORD


def block_hashes(
    tokens: Sequence[int] | NDArray[np.uint32],
    block_size: int,
    *,
    lora: str = "",
    cache_namespace: str = "",
) -> NDArray[np.uint64]:
    """Hashes of a prompt's full blocks; tokens after the last full one have none.

    Args:
        tokens: Numbers in the model's vocabulary, each below 2**32.
        block_size: Tokens in a block.
        lora: Name of the LoRA adapter; empty for none.
        cache_namespace: Cache namespace; empty for the common one.

    Raises:
        PlaneError: INVALID_ARGUMENT, a token is no 32-bit number, or the block size is not
            positive.
    """
    _check_size(block_size)
    if isinstance(tokens, np.ndarray):
        data: NDArray[np.uint32] | array[int] = tokens.astype("<u4", "C", "same_kind", copy=False)
    else:
        data = _as_tokens(tokens)
    hashes = core.hash_blocks(data, block_size, _seed(lora, cache_namespace))
    return np.frombuffer(hashes, np.uint64)


def read_prompt(
    text: bytes | memoryview, block_size: int, *, lora: str = "", cache_namespace: str = ""
) -> tuple[bytes, bytes, int] | None:
    """Read a prompt from JSON.

    Args:
        text: The tokens as in a list of JSON, without the brackets.
        block_size: Tokens in a block.
        lora: Name of the LoRA adapter; empty for none.
        cache_namespace: Cache namespace; empty for the common one.

    Returns:
        Hashes of the full blocks and the keys of the prefixes that they end, both as 64-bit numbers
        in memory, and how many tokens there are; ``None`` for anything but plain numbers below
        2**32.

    Raises:
        PlaneError: INVALID_ARGUMENT, the block size is not positive.
    """
    _check_size(block_size)
    return core.read_prompt(text, block_size, _seed(lora, cache_namespace))


def sequence_hashes(hashes: Hashes, parent: int | None = None) -> list[int]:
    """The hash of each block with all before it: the first is the first block hash.

    Args:
        hashes: Block hashes.
        parent: Sequence hash of the block before the first; ``None`` where there is none.
    """
    found = core.sequence_hashes(_contiguous(hashes), parent, SEED)
    chain: list[int] = np.frombuffer(found, np.uint64).tolist()
    return chain


def as_hashes(hashes: Hashes) -> NDArray[np.uint64]:
    """Hashes as an array.

    Raises:
        PlaneError: INVALID_ARGUMENT, one is not below 2**64.
    """
    if isinstance(hashes, np.ndarray):
        return hashes
    if isinstance(hashes, HashList):
        return hashes.words
    # `array` reads a list in a third of numpy's time.
    return np.frombuffer(as_words(hashes), np.uint64)


def as_words(hashes: Hashes) -> array[int]:
    """Hashes as an array that grows.

    Raises:
        PlaneError: INVALID_ARGUMENT, one is not below 2**64.
    """
    if isinstance(hashes, np.ndarray):
        return array("Q", hashes.tobytes())
    try:
        return array("Q", hashes)
    except OverflowError as fault:
        raise PlaneError(
            Code.INVALID_ARGUMENT, f"hashes are numbers from 0 to 2**64 - 1: {fault}"
        ) from fault


def as_numbers(hashes: Hashes) -> Sequence[int]:
    """Hashes as Python's integers."""
    if isinstance(hashes, np.ndarray):
        numbers: list[int] = hashes.tolist()
        return numbers
    return hashes


def prefix_keys(hashes: Hashes, parent: int | None = None) -> NDArray[np.uint64]:
    """The index's key of each block with all before it.

    Args:
        hashes: Block hashes.
        parent: Key of the block before the first; `None` where there is none.
    """
    if parent is None and isinstance(hashes, HashList) and hashes.keys is not None:
        return hashes.keys
    keys = core.prefix_keys(_contiguous(hashes), 0 if parent is None else parent)
    return np.frombuffer(keys, np.uint64)


def _seed(lora: str, cache_namespace: str) -> int:
    return seed_of(lora, cache_namespace) if lora or cache_namespace else SEED


def _check_size(block_size: int) -> None:
    if block_size < 1:
        raise PlaneError(
            Code.INVALID_ARGUMENT, f"a block has at least 1 token, not {block_size}: give its size"
        )


def _as_tokens(tokens: Sequence[int]) -> array[int]:
    """Tokens as little-endian 32-bit integers."""
    try:
        # Of bytes, each is a token; the array would take them for its memory.
        words = array("I", [*tokens] if isinstance(tokens, bytes | bytearray) else tokens)
    except (OverflowError, TypeError) as fault:
        raise PlaneError(
            Code.INVALID_ARGUMENT, f"tokens are numbers from 0 to 2**32 - 1: {fault}"
        ) from fault
    if sys.byteorder == "big":
        words.byteswap()
    return words


def _contiguous(hashes: Hashes) -> NDArray[np.uint64] | array[int]:
    """Hashes as they lie in memory one after the other."""
    if isinstance(hashes, np.ndarray):
        return np.ascontiguousarray(hashes, np.uint64)
    return hashes.words if isinstance(hashes, HashList) else as_words(hashes)
