"""What `speedups.c` does, for machines where it is not compiled: the same functions in Python.

Numbers lie in memory as they lie there in C: tokens as 32-bit integers, hashes and keys as 64-bit
ones, all little-endian but for the hashes and keys of a big-endian machine, which are its own.
"""

from __future__ import annotations

import sys
from array import array
from functools import cache, lru_cache
from struct import Struct
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic_core import from_json
from xxhash import xxh3_64_intdigest

Memory: TypeAlias = "bytes | memoryview | array[int] | NDArray[np.uint32] | NDArray[np.uint64]"
"""What lies in memory in one piece."""

_WORD = 1 << 64
_ROOT = 0x9E3779B97F4A7C13
_ADDED = 0xD1B54A32D192ED03
_INVERSE = pow(_ROOT, -1, _WORD)
_PAIR = Struct("<2Q").pack
_Factors = tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint64]]


def read_prompt(text: Memory, block_size: int, seed: int) -> tuple[bytes, int] | None:
    """Read tokens from JSON and hash their blocks.

    Args:
        text: The tokens as in a list of JSON, without the brackets.
        block_size: Tokens in a block, at least 1.
        seed: Seed of the hashes.

    Returns:
        Hashes of the full blocks, and how many tokens there are; ``None`` for anything but plain
        numbers below 2**32.

    Raises:
        ValueError: The block size is not positive.
    """
    data = bytes(text)
    # "true", "false" and "1e3" are no tokens, and the first two would count as numbers, as would
    # "-0". What is blank is behind a comma too many, or an empty list, which is nothing to hurry
    # for.
    if b"e" in data or b"-" in data or data.isspace() or not data:
        return None
    try:
        tokens = array("I", from_json(b"[%b]" % data))
    except (ValueError, TypeError, OverflowError):
        return None
    if sys.byteorder == "big":
        tokens.byteswap()
    return hash_blocks(tokens, block_size, seed), len(tokens)


def hash_blocks(tokens: Memory, block_size: int, seed: int) -> bytes:
    """XXH3-64 of each full block.

    Args:
        tokens: 32-bit integers, little-endian.
        block_size: Tokens in a block, at least 1.
        seed: Seed of the hashes.

    Raises:
        ValueError: The block size is not positive.
    """
    if block_size < 1:
        raise ValueError(f"a block has at least 1 token, not {block_size}")
    data = bytes(tokens)
    stride = 4 * block_size
    end = len(data) // stride * stride
    digest = xxh3_64_intdigest
    return array(
        "Q", [digest(data[at : at + stride], seed) for at in range(0, end, stride)]
    ).tobytes()


def sequence_hashes(hashes: Memory, parent: int | None, seed: int) -> bytes:
    """The hash of each block with all before it: the first is the first block hash.

    Args:
        hashes: Block hashes.
        parent: Sequence hash of the block before the first; ``None`` where there is none.
        seed: Seed of the hashes.
    """
    chain = array("Q")
    blocks: list[int] = np.frombuffer(hashes, np.uint64).tolist()
    for block in blocks:
        parent = block if parent is None else xxh3_64_intdigest(_PAIR(parent, block), seed)
        chain.append(parent)
    return chain.tobytes()


def prefix_keys(hashes: Memory, parent: int) -> bytes:
    """The index's key of each block with all before it; `hashing` says what that is.

    Args:
        hashes: Block hashes.
        parent: Key of the block before the first; 0 where there is none.
    """
    blocks = np.frombuffer(hashes, np.uint64)
    up, down, added = _first(len(blocks))
    # A polynomial in a few passes: each term over the power that the last one has, summed up.
    keys = np.add(blocks, added)
    keys *= down
    np.add.accumulate(keys, 0, None, keys)
    keys += np.uint64(parent)
    keys *= up
    return keys.tobytes()


@lru_cache(4096)
def _first(count: int) -> _Factors:
    """So many powers of the root and of its inverse, and of the constant, which is always the same.

    Slicing anew each time takes a tenth of what a prompt's keys take.
    """
    up, down, added = _factors(max(12, (count - 1).bit_length()))
    return up[:count], down[:count], added[:count]


@cache
def _factors(bits: int) -> _Factors:
    ones = np.full(1 << bits, _ROOT, np.uint64)
    up = np.multiply.accumulate(ones)
    ones.fill(_INVERSE)
    # A number that is not an array takes numpy longer.
    return up, np.multiply.accumulate(ones), np.full(1 << bits, _ADDED, np.uint64)
