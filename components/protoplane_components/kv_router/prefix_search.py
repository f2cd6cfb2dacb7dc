"""How deep owners have a prompt: a walk along the few extents that lead along it."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from protoplane_components.kv_router.extents import LOWER, Extent, Starts, in_common

Reached = list[tuple[int, int]]
"""Depths, and the owners that reached each, as bits."""


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


def reached_in(path: Iterable[tuple[Extent, int]], tiers: int, alive: int) -> Reached:
    """How deep each owner has a prompt in the first so many tiers together.

    Args:
        path: The extents that lead along the prompt, and how much of each it has.
        tiers: How many tiers.
        alive: Bits of the owners that count.
    """
    ends: Reached = []
    at, here = 0, alive
    for extent, common in path:
        depths = {0: here}
        # In the order of their beginnings, so that one that goes on from another comes after it.
        for begin, end, bits in extent.spans(tiers):
            for depth, owners in [*depths.items()]:
                moved = owners & bits
                if moved and begin <= depth < end:
                    depths[depth] ^= moved
                    depths[end] = depths.get(end, 0) | moved
        here = 0
        for depth, owners in depths.items():
            if depth >= common:
                here |= owners
            elif at + depth and owners:
                ends.append((at + depth, owners))
        at += common
        if not here:
            return ends
    if at:
        ends.append((at, here))
    return ends
