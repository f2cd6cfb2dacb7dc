"""The state of a worker, fetched in pieces and put into an index at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Sequence
from dataclasses import dataclass, field

from protoplane.router.v1 import KvStateResponse, StorageTier
from protoplane_base import Code, PlaneError
from protoplane_components.kv_router.index import KvIndex, Target, Tier, UnknownParentError
from protoplane_components.kv_router.worker_state import STATE_VERSION

_AT_ONCE = 256
"""Runs that go into an index before others get a turn."""


@dataclass(frozen=True, slots=True)
class Run:
    """Blocks of one tier that follow each other.

    Attributes:
        tier: Where they are.
        parent: Block before the first; ``None`` at the beginning of a sequence.
        blocks: What the engine calls them.
        tokens_hashes: Hashes of their tokens alone.
    """

    tier: Tier
    parent: int | None
    blocks: list[int]
    tokens_hashes: list[int]


@dataclass(slots=True)
class FetchedState:
    """All that a rank of a worker holds, as of one event.

    Attributes:
        epoch: Epoch of the worker's events.
        event_id: The event.
        runs: The blocks.
    """

    epoch: str = ""
    event_id: int = 0
    runs: list[Run] = field(default_factory=list[Run])

    async def put_into(self, index: KvIndex, target: Target) -> int:
        """Replace what an index has of a target; tells how many blocks had no way to them.

        Such a block's parent is not held, so no prompt can use it. Others run in between, and find
        a part of the blocks; cancelling leaves such a part.
        """
        index.clear(target)
        waiting: Sequence[Run] = self.runs
        while waiting:
            later: list[Run] = []
            for number, run in enumerate(waiting, 1):
                if number % _AT_ONCE == 0:
                    await asyncio.sleep(0)
                try:
                    index.store(
                        target, run.blocks, run.tokens_hashes, parent=run.parent, tier=run.tier
                    )
                except UnknownParentError:
                    # It may be in a tier that comes later.
                    later.append(run)
            if len(later) == len(waiting):
                return sum(len(run.blocks) for run in later)
            waiting = later
        return 0


async def gather(pieces: AsyncIterable[KvStateResponse], block_size: int) -> FetchedState:
    """Collect the pieces of a state.

    Args:
        pieces: What `KvWorkerService.KvState` answers.
        block_size: Tokens in a block of the router.

    Raises:
        PlaneError: FAILED_PRECONDITION for a version or a block size that is not that of here,
            DATA_LOSS where pieces are missing or do not fit together; and what the call raises.
    """
    state: FetchedState | None = None
    over = False
    async for piece in pieces:
        _check(piece, block_size)
        if state is None:
            state = FetchedState(piece.epoch, piece.event_id)
        elif (piece.epoch, piece.event_id) != (state.epoch, state.event_id):
            raise PlaneError(
                Code.DATA_LOSS, "the pieces of a worker's state are of different events; ask again"
            )
        state.runs += _runs(piece)
        over = piece.last
    if state is None or not over:
        raise PlaneError(
            Code.DATA_LOSS, "a worker's state broke off before its last piece; ask again"
        )
    return state


def tier_of(tier: StorageTier | int) -> Tier:
    """A tier of the schema as the index has it; unknown ones count as the slowest."""
    if tier in (StorageTier.STORAGE_TIER_UNSPECIFIED, StorageTier.STORAGE_TIER_DEVICE):
        return Tier.DEVICE
    return Tier.HOST if tier == StorageTier.STORAGE_TIER_HOST else Tier.DISK


def _check(piece: KvStateResponse, block_size: int) -> None:
    if piece.version != STATE_VERSION:
        raise PlaneError(
            Code.FAILED_PRECONDITION,
            f"a worker's state has version {piece.version}, and this router reads {STATE_VERSION}; "
            "upgrade the older of the two",
        )
    if piece.block_size != block_size:
        raise PlaneError(
            Code.FAILED_PRECONDITION,
            f"the worker has blocks of {piece.block_size} tokens, and this router of {block_size}",
        )
    if not len(piece.block_hashes) == len(piece.tokens_hashes) == len(piece.parent_hashes):
        raise PlaneError(
            Code.DATA_LOSS,
            f"a piece of a worker's state has {len(piece.block_hashes)} blocks with "
            f"{len(piece.tokens_hashes)} hashes and {len(piece.parent_hashes)} parents; each block "
            "has one of each",
        )


def _runs(piece: KvStateResponse) -> list[Run]:
    tier = tier_of(piece.tier)
    runs: list[Run] = []
    previous: int | None = None
    for block, tokens_hash, parent in zip(
        piece.block_hashes, piece.tokens_hashes, piece.parent_hashes, strict=True
    ):
        if previous is not None and parent == previous and parent != block:
            runs[-1].blocks.append(block)
            runs[-1].tokens_hashes.append(tokens_hash)
        else:
            runs.append(Run(tier, None if parent == block else parent, [block], [tokens_hash]))
        previous = block
    return runs
