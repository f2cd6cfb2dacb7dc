"""How deep owners have a prompt: a walk along the few extents that lead along it."""

from __future__ import annotations

from collections.abc import Iterable

from protoplane_components.kv_router.core import core
from protoplane_components.kv_router.extents import Extent, Reached

reached = core.reached


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
