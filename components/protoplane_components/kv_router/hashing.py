"""Names of KV-cache blocks: the hashes that engines and routers agree on, and the index's own keys.

A **block hash** names the tokens of one block alone, a **sequence hash** a block with all before
it. Both are those of NVIDIA Dynamo (`lib/kv-router`, `lib/kv-hashing`), so that its workers and
ours can be
mixed: XXH3-64 with seed 1337 over little-endian integers; a LoRA adapter's name and a cache
namespace add to the seed.

A **prefix key** names the same thing as a sequence hash, but a whole prompt's are made by a few
passes of numpy, where a chain of hashes needs a call for each block. It is a polynomial of the
block hashes: ``key(n) = key(n - 1) * R + hash(n) + C``, modulo 2**64; without C prefixes of blocks
whose hash is zero would be the same. Block hashes are spread evenly by XXH3, so a prefix has the
key of a certain other one with a chance of 2**-64; where they are the same but for two blocks
swapped that lie a multiple of 2**j apart, of 2**(j - 62).
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from struct import Struct, error, pack

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from protoplane_base import Code, PlaneError

SEED = 1337
FAMILY_SHIFT = 48
"""How far to the right the key of a first block goes in a number that names a part of an index."""

Hashes = NDArray[np.uint64] | Sequence[int]
"""Hashes of blocks, in order: an array of 64-bit integers, or a sequence of numbers below 2**64."""

_WORD = 1 << 64
_ROOT = 0x9E3779B97F4A7C13  # odd, and 3 modulo 8
_ADDED = 0xD1B54A32D192ED03
_INVERSE = pow(_ROOT, -1, _WORD)
_PAIR = Struct("<2Q").pack


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
    if block_size < 1:
        raise PlaneError(
            Code.INVALID_ARGUMENT, f"a block has at least 1 token, not {block_size}: give its size"
        )
    if isinstance(tokens, np.ndarray):
        data = tokens.astype("<u4", casting="same_kind").tobytes()
    else:
        try:
            data = pack(f"<{len(tokens)}I", *tokens)
        except error as fault:
            raise PlaneError(
                Code.INVALID_ARGUMENT, f"tokens are numbers from 0 to 2**32 - 1: {fault}"
            ) from fault
    seed = seed_of(lora, cache_namespace) if lora or cache_namespace else SEED
    stride = 4 * block_size
    end = len(data) // stride * stride
    digest = xxh3_64_intdigest
    return as_hashes([digest(data[at : at + stride], seed) for at in range(0, end, stride)])


def sequence_hashes(hashes: Hashes, parent: int | None = None) -> list[int]:
    """The hash of each block with all before it: the first is the first block hash.

    Args:
        hashes: Block hashes.
        parent: Sequence hash of the block before the first; ``None`` where there is none.
    """
    chain: list[int] = []
    for block in as_numbers(hashes):
        parent = block if parent is None else xxh3_64_intdigest(_PAIR(parent, block), SEED)
        chain.append(parent)
    return chain


def as_hashes(hashes: Hashes) -> NDArray[np.uint64]:
    """Hashes as an array.

    Raises:
        PlaneError: INVALID_ARGUMENT, one is not below 2**64.
    """
    if isinstance(hashes, np.ndarray):
        return hashes
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
    blocks = as_hashes(hashes)
    count = len(blocks)
    if not count:
        return np.empty(0, np.uint64)
    up, down, added = _powers.first(count)
    keys = np.add(blocks, added)
    keys *= down
    np.add.accumulate(keys, 0, None, keys)
    if parent is not None:
        keys += np.uint64(parent)
    keys *= up
    return keys


class _Powers:
    """The powers of the root and of its inverse, and the constant, as often as needed so far."""

    def __init__(self) -> None:
        self._grow(4096)

    def first(
        self, count: int
    ) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint64]]:
        """So many of each."""
        found = self._slices.get(count)
        if found is None:
            if count > len(self._up):
                self._grow(count)
            found = self._slices[count] = (
                self._up[:count],
                self._down[:count],
                self._added[:count],
            )
        return found

    def _grow(self, count: int) -> None:
        size = 1 << (count - 1).bit_length()
        ones = np.full(size, _ROOT, np.uint64)
        self._up = np.multiply.accumulate(ones)
        ones.fill(_INVERSE)
        self._down = np.multiply.accumulate(ones)
        # A number that is not an array takes numpy longer.
        self._added = np.full(size, _ADDED, np.uint64)
        # Making one anew each time takes a tenth of what a prompt's keys take.
        self._slices: dict[
            int, tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint64]]
        ] = {}


_powers = _Powers()
