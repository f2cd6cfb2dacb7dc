"""The cache of one rank of a worker as it really is: what a router's index has to come to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from protoplane.router.v1 import KvStateResponse, StorageTier

STATE_VERSION = 1
"""Layout of the pieces of a state that this release writes and reads."""

_MAX_PIECE_BLOCKS = 16_384
"""24 bytes a block make some 400 kB."""


@dataclass(slots=True)
class _Block:
    tokens_hash: int
    parent: int | None
    tiers: set[StorageTier]


class WorkerState:
    """Blocks that a rank holds, by what its engine calls them."""

    def __init__(self) -> None:
        self._blocks: dict[int, _Block] = {}

    def __len__(self) -> int:
        return len(self._blocks)

    def __contains__(self, block: int) -> bool:
        return block in self._blocks

    def stored(
        self,
        blocks: Sequence[int],
        tokens_hashes: Sequence[int],
        parent: int | None,
        tier: StorageTier,
    ) -> None:
        """Note blocks that follow each other, the first after ``parent``."""
        for block, tokens_hash in zip(blocks, tokens_hashes, strict=True):
            held = self._blocks.get(block)
            if held is None:
                self._blocks[block] = _Block(tokens_hash, parent, {tier})
            else:
                held.tiers.add(tier)
            parent = block

    def removed(self, blocks: Iterable[int], tier: StorageTier) -> None:
        """Note that a tier holds some blocks no more; those that it did not hold do nothing."""
        for block in blocks:
            held = self._blocks.get(block)
            if held is not None:
                held.tiers.discard(tier)
                if not held.tiers:
                    del self._blocks[block]

    def cleared(self) -> None:
        """Note that nothing is held."""
        self._blocks.clear()

    def pieces(self, epoch: str, event_id: int, block_size: int) -> Iterator[KvStateResponse]:
        """All of it as the pieces of `KvWorkerService.KvState`; one at least, the last says so.

        Nothing may change between two of them.
        """
        tiers: dict[StorageTier, list[int]] = {StorageTier.STORAGE_TIER_DEVICE: []}
        for block in self._in_order():
            for tier in self._blocks[block].tiers:
                tiers.setdefault(tier, []).append(block)
        cuts = [
            (tier, blocks[start : start + _MAX_PIECE_BLOCKS])
            for tier, blocks in tiers.items()
            for start in range(0, max(len(blocks), 1), _MAX_PIECE_BLOCKS)
        ]
        for number, (tier, blocks) in enumerate(cuts, 1):
            held = [self._blocks[block] for block in blocks]
            yield KvStateResponse(
                version=STATE_VERSION,
                epoch=epoch,
                event_id=event_id,
                block_size=block_size,
                tier=tier,
                block_hashes=blocks,
                tokens_hashes=[each.tokens_hash for each in held],
                parent_hashes=[
                    block if each.parent is None else each.parent
                    for block, each in zip(blocks, held, strict=True)
                ],
                last=number == len(cuts),
            )

    def _in_order(self) -> Iterator[int]:
        """Each block after its parent, where that is held; a parent may have come back later."""
        given: set[int] = set()
        for block in self._blocks:
            line: list[int] = []
            at: int | None = block
            while at is not None and at not in given and at in self._blocks:
                given.add(at)
                line.append(at)
                at = self._blocks[at].parent
            yield from reversed(line)
