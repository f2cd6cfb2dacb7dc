"""A part of an index, by prefix: the sequences that begin with certain blocks."""

from __future__ import annotations

from protoplane_base import Code, PlaneError
from protoplane_components.kv_router.hashing import FAMILY_SHIFT, Hashes, prefix_keys
from protoplane_components.kv_router.index import KvIndex, Target, Tier


def part_of_prompt(hashes: Hashes, parts: int) -> int:
    """The part that a prompt is in, from 0, by the hashes of its blocks; it has one at least."""
    return (prefix_keys(hashes[:1]).item(0) >> FAMILY_SHIFT) % parts


class IndexPart(KvIndex):
    """An index of one part that passes over what is in the others.

    It takes all events, as each process that has a part sees all of them. An engine that gives the
    name of a block to one with other content has to remove it first, as those do that name blocks
    by their content.

    Args:
        part: Which part, from 0.
        parts: How many there are.
        max_blocks: As for `KvIndex`.

    Raises:
        PlaneError: INVALID_ARGUMENT, there is no such part.
    """

    def __init__(self, part: int, parts: int, *, max_blocks: int | None = None) -> None:
        if not 0 <= part < parts:
            raise PlaneError(
                Code.INVALID_ARGUMENT, f"there is no part {part} of {parts}; they count from 0"
            )
        super().__init__(max_blocks=max_blocks)
        self.part = part
        self.parts = parts

    def store(
        self,
        target: Target,
        engine_hashes: Hashes,
        hashes: Hashes,
        *,
        parent: int | None = None,
        tier: Tier = Tier.DEVICE,
    ) -> None:
        """Take note of blocks of this part; see `KvIndex.store`.

        Raises:
            UnknownParentError: FAILED_PRECONDITION, the parent is in another part, or nowhere.
        """
        if parent is None and len(hashes) and part_of_prompt(hashes, self.parts) != self.part:
            return
        super().store(target, engine_hashes, hashes, parent=parent, tier=tier)
