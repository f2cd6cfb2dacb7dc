"""What `speedups.c` does, for machines where it is not compiled: the same functions in Python.

Numbers lie in memory as they lie there in C: tokens as 32-bit integers, hashes and keys as 64-bit
ones, all little-endian but for the hashes and keys of a big-endian machine, which are its own.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable
from functools import cache, lru_cache
from struct import Struct
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic_core import from_json
from xxhash import xxh3_64_intdigest

from protoplane_components.kv_router.extents import LOWER, Reached, Starts, in_common

Memory: TypeAlias = "bytes | memoryview | array[int] | NDArray[np.uint32] | NDArray[np.uint64]"
"""What lies in memory in one piece."""

Figure: TypeAlias = NDArray[np.float64]
"""A figure for each target, or a row of them for each of several things."""

Factors: TypeAlias = tuple[float, float, float, float]
"""What each token to compute, block in use and request costs, and how often a token of the prompt
counts that is in no cache."""

Share: TypeAlias = tuple[float, "NDArray[np.intp] | int"]
"""How many tokens of a prompt some targets need not compute, and their rows."""

_WORD = 1 << 64
_ROOT = 0x9E3779B97F4A7C13
_ADDED = 0xD1B54A32D192ED03
_INVERSE = pow(_ROOT, -1, _WORD)
_PAIR = Struct("<2Q").pack
_Powers = tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint64]]


def read_prompt(text: Memory, block_size: int, seed: int) -> tuple[bytes, bytes, int] | None:
    """Read tokens from JSON and name their blocks.

    Args:
        text: The tokens as in a list of JSON, without the brackets.
        block_size: Tokens in a block, at least 1.
        seed: Seed of the hashes.

    Returns:
        Hashes of the full blocks, the keys of these and all before them, and how many tokens
        there are; ``None`` for anything but plain numbers below 2**32.

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
    hashes = hash_blocks(tokens, block_size, seed)
    return hashes, prefix_keys(hashes, 0), len(tokens)


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


def reached(parts: list[Starts], keys: NDArray[np.uint64], alive: int | None) -> Reached:
    """How deep each owner has a prompt in the first tier, of those that have its first block.

    Args:
        parts: The tree; see `extents.Extents`.
        keys: Keys of the prompt's prefixes.
        alive: Bits of the owners that count; `None` for all.
    """
    view, count = keys.data, len(keys)
    if not count:
        return []
    key = view[0]
    extent = parts[key & LOWER].get(key)
    if extent is None:
        return []
    at = in_common(extent.keys, 0, view, 0, extent.forked)
    ends: Reached
    here = extent.whole
    if not extent.ends:
        ends = []
    elif at == len(extent.keys):
        ends = [*extent.ends.items()]
    else:
        ends = []
        for end, bits in extent.ends.items():
            if end < at:
                ends.append((end, bits))
            else:
                here |= bits
    if alive is not None:
        here &= alive
        ends = [(end, left) for end, bits in ends if (left := bits & alive)]
    while here and at < count:
        key = view[at]
        extent = parts[key & LOWER].get(key)
        if extent is None:
            break
        common = in_common(extent.keys, 0, view, at, extent.forked)
        further = extent.whole & here
        left = here ^ further
        if left and extent.ends:
            for end, bits in extent.ends.items():
                some = bits & left
                if some:
                    left ^= some
                    if end < common:
                        ends.append((at + end, some))
                    else:
                        further |= some
        if left:
            ends.append((at, left))
        here = further
        at += common
    if here:
        ends.append((at, here))
    return ends


class CostInputs(NamedTuple):
    """What costs are made of.

    Attributes:
        work: Tokens to compute, blocks in use, and requests that each target has.
        factors: What they cost.
        tokens: Tokens of the prompt.
        blocks: Blocks that it takes up.
        shares: What of it is cached where; the last one counts of those that name a row.
        bias: What to add to each cost; absent, nothing.
        words: Random bytes, four for each target: the share of the tokens to compute that chance
            adds to each cost; absent, it adds nothing.
        spread: How much of a token each step of such a word is.
    """

    work: Figure
    factors: Factors
    tokens: int
    blocks: int
    shares: list[Share]
    bias: Figure | None = None
    words: bytes | None = None
    spread: float = 0.0


class Judged(NamedTuple):
    """What targets cost, in blocks.

    Attributes:
        saved: Tokens of the prompt that each need not compute.
        parts: The cost of what is to compute, of blocks in use, and of requests.
        bias: What else was counted; absent, nothing was.
        cost: The whole cost.
    """

    saved: Figure
    parts: Figure
    bias: Figure | None
    cost: Figure


def judged(inputs: CostInputs) -> Judged:
    """What each target would cost, by the formula in `cost`."""
    work, factors, tokens, blocks, shares, bias, words, spread = inputs
    count = work.shape[1]
    saved, added = np.zeros(count), np.zeros((3, count))
    for share, rows in shares:
        saved[rows] = share
    np.subtract(tokens, saved, added[0])
    added[0] *= factors[3]
    added[1].fill(blocks)
    parts = work + added
    parts *= _columns(factors, count)
    cost = parts[0] + parts[1]
    cost += parts[2]
    if words is not None:
        chance = np.frombuffer(words, np.uint32) * ((tokens - saved) * factors[0]) * spread
        bias = chance if bias is None else bias + chance
    if bias is not None:
        cost += bias
    return Judged(saved, parts, bias, cost)


def cheapest(cost: Figure, rows: NDArray[np.intp], chance: Callable[[int], int]) -> int:
    """The row with the least cost.

    Args:
        cost: Cost of each.
        rows: Rows to choose from.
        chance: Names one of so many, where several have the least.
    """
    among = cost if len(rows) == len(cost) else cost[rows]
    least = (among == among[among.argmin()]).nonzero()[0]
    return rows.item(least.item(chance(len(least)) if len(least) > 1 else 0))


def least_cost(inputs: CostInputs, rows: NDArray[np.intp], chance: Callable[[int], int]) -> int:
    """The row that `judged` finds the cheapest of those to choose from; see there, and `cheapest`.

    Raises:
        IndexError: A share names a row that is not there.
        ValueError: There is no row to choose from.
    """
    return cheapest(judged(inputs).cost, rows, chance)


@lru_cache(64)
def _columns(factors: Factors, count: int) -> Figure:
    """A factor for each figure: numpy takes longer for one that stands for all."""
    return np.repeat(np.array(factors[:3])[:, None], count, axis=1)


@lru_cache(4096)
def _first(count: int) -> _Powers:
    """So many powers of the root and of its inverse, and of the constant, which is always the same.

    Slicing anew each time takes a tenth of what a prompt's keys take.
    """
    up, down, added = _powers(max(12, (count - 1).bit_length()))
    return up[:count], down[:count], added[:count]


@cache
def _powers(bits: int) -> _Powers:
    ones = np.full(1 << bits, _ROOT, np.uint64)
    up = np.multiply.accumulate(ones)
    ones.fill(_INVERSE)
    # A number that is not an array takes numpy longer.
    return up, np.multiply.accumulate(ones), np.full(1 << bits, _ADDED, np.uint64)
