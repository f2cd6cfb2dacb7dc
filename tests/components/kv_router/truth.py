"""What an index should hold of a worker, computed the slow way; and changes at random."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable

from protoplane.router.v1 import KvStateResponse, StorageTier
from protoplane_components.kv_router.hashing import prefix_keys
from protoplane_components.kv_router.index import KvIndex, Target
from protoplane_components.kv_router.worker import KvWorker

Held = dict[tuple[int, int], int]
"""From a tier and an engine's hash to the key of the prefix."""


def truth(pieces: list[KvStateResponse]) -> Held:
    """What the pieces of a state mean."""
    blocks = {
        block: (None if parent == block else parent, hash_)
        for piece in pieces
        for block, hash_, parent in zip(
            piece.block_hashes, piece.tokens_hashes, piece.parent_hashes, strict=True
        )
    }
    held: Held = {}
    for piece in pieces:
        for block in piece.block_hashes:
            line: list[int] = []
            at: int | None = block
            while at is not None:
                if at not in blocks:
                    break
                parent, hash_ = blocks[at]
                line.append(hash_)
                at = parent
            else:
                keys: list[int] = prefix_keys(line[::-1]).tolist()
                held[int(piece.tier), block] = keys[-1]
    return held


def indexed(index: KvIndex, target: Target) -> Held:
    """What an index holds of a target."""
    return {
        (int(tier), block): key
        for tier, blocks in index.entries(target)
        for block, key in blocks.items()
    }


def state(worker: KvWorker, dp_rank: int = 0) -> Held:
    """What a worker holds."""
    return truth([*worker.pieces(dp_rank)])


class Churn:
    """Changes the cache of a worker as an engine does: the end of a sequence goes first.

    Args:
        worker: The worker.
        seed: What is random follows from it.
    """

    def __init__(self, worker: KvWorker, seed: int = 1) -> None:
        self._worker = worker
        self._random = random.Random(seed)
        self._lines: list[list[int]] = []
        self._next = self._random.randrange(1 << 40)

    def step(self) -> None:
        """One change."""
        chance = self._random.random()
        if chance < 0.55 or not self._lines:
            blocks = [self._next + number for number in range(self._random.randint(1, 8))]
            self._next += 1000
            line = self._random.choice(self._lines) if self._lines and chance < 0.3 else []
            self._worker.stored(blocks, [b * 31 for b in blocks], parent=line[-1] if line else None)
            if line:
                line += blocks
            else:
                self._lines.append(blocks)
        elif chance < 0.6:
            line = self._random.choice(self._lines)
            self._worker.stored(line, [b * 31 for b in line], tier=StorageTier.STORAGE_TIER_HOST)
        elif chance < 0.99:
            line = self._random.choice(self._lines)
            count = self._random.randint(1, len(line))
            gone, line[-count:] = line[-count:], []
            for tier in (StorageTier.STORAGE_TIER_DEVICE, StorageTier.STORAGE_TIER_HOST):
                self._worker.removed(gone[::-1], tier=tier)
            if not line:
                self._lines.remove(line)
        else:
            self._worker.cleared()
            self._lines.clear()


async def eventually(check: Callable[[], bool], seconds: float = 30) -> None:
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, "it did not become so"
        await asyncio.sleep(0.01)
