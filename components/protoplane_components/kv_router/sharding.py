"""An index in several parts, by prefix: for more blocks or events than one process can take.

A part has the sequences that begin with certain blocks. The first block of a prompt names its
part, so a request asks one part alone, and an event for blocks behind another goes where that one
is. Here the parts are in one process, where each finds and stores in less memory that is touched;
for parts in processes of their own see `shard` and `shards`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from protoplane_base import Code, PlaneError
from protoplane_components.kv_router.hashing import Hashes, as_hashes, as_numbers, prefix_keys
from protoplane_components.kv_router.index import KvIndex, Overlap, Target, Tier, UnknownParentError
from protoplane_components.kv_router.parts import part_of


class Shard(Protocol):
    """A part of an index; `KvIndex` is one."""

    def store(
        self,
        target: Target,
        engine_hashes: Hashes,
        hashes: Hashes,
        *,
        parent: int | None = None,
        tier: Tier = Tier.DEVICE,
    ) -> None:
        """Take note of blocks that follow each other."""
        ...

    def remove(self, target: Target, engine_hashes: Hashes, *, tier: Tier = Tier.DEVICE) -> int:
        """Forget blocks of a tier."""
        ...

    def clear(self, target: Target) -> None:
        """Forget all blocks of a target."""
        ...

    def find_keys(self, keys: NDArray[np.uint64]) -> Mapping[Target, Overlap]:
        """How much of a prompt each target has."""
        ...


class ShardedIndex:
    """Leads events and requests to the parts that they belong to.

    Args:
        shards: The parts, at least one; by default `count` of them in this process.
        count: How many parts to make where `shards` is absent.
    """

    def __init__(self, shards: Sequence[Shard] | None = None, *, count: int = 4) -> None:
        made: Sequence[Shard] = [KvIndex() for _ in range(count)] if shards is None else shards
        if not made:
            raise PlaneError(Code.INVALID_ARGUMENT, "an index has at least one part, not none")
        self._shards = made
        # For each target, the part that each block is in, by the engine's hash and tier.
        self._places: dict[Target, tuple[dict[int, int], dict[int, int], dict[int, int]]] = {}

    def shard_of(self, key: int) -> int:
        """The part that a prefix is in, by its key."""
        return part_of(key, len(self._shards))

    def store(
        self,
        target: Target,
        engine_hashes: Hashes,
        hashes: Hashes,
        *,
        parent: int | None = None,
        tier: Tier = Tier.DEVICE,
    ) -> None:
        """Take note of blocks that follow each other; see `KvIndex.store`.

        Raises:
            UnknownParentError: FAILED_PRECONDITION, the target does not have the parent.
        """
        blocks = as_hashes(hashes)
        if not len(blocks):
            return
        if parent is not None:
            place = self._place_of(target, parent)
        else:
            place = self.shard_of(prefix_keys(blocks[:1]).item(0))
        engine = as_numbers(engine_hashes)
        self._shards[place].store(target, engine, blocks, parent=parent, tier=tier)
        known = self._places.setdefault(target, ({}, {}, {}))[tier - 1]
        moved = [name for name in engine if known.get(name, place) != place]
        if moved:
            # The engine gave names to other blocks.
            self.remove(target, moved, tier=tier)
        known.update(dict.fromkeys(engine, place))

    def remove(self, target: Target, engine_hashes: Hashes, *, tier: Tier = Tier.DEVICE) -> int:
        """Forget blocks of a tier, and tell how many of them were there."""
        places = self._places.get(target)
        if places is None:
            return 0
        parts: dict[int, list[int]] = {}
        for engine in as_numbers(engine_hashes):
            place = places[tier - 1].pop(engine, None)
            if place is not None:
                parts.setdefault(place, []).append(engine)
        return sum(
            self._shards[place].remove(target, gone, tier=tier) for place, gone in parts.items()
        )

    def clear(self, target: Target) -> None:
        """Forget all blocks of a target."""
        if self._places.pop(target, None) is not None:
            for shard in self._shards:
                shard.clear(target)

    def remove_worker(self, worker: str) -> None:
        """Forget all blocks of all ranks of a worker."""
        for target in [target for target in self._places if target.worker == worker]:
            self.clear(target)

    def find(self, hashes: Hashes) -> Mapping[Target, Overlap]:
        """How much of a prompt each target has, of those that have its first block."""
        return self.find_keys(prefix_keys(hashes))

    def find_keys(self, keys: NDArray[np.uint64]) -> Mapping[Target, Overlap]:
        """Like `find`, by keys of the prompt's prefixes."""
        if not len(keys):
            return {}
        return self._shards[self.shard_of(keys.item(0))].find_keys(keys)

    def _place_of(self, target: Target, engine_hash: int) -> int:
        for places in self._places.get(target, ()):
            place = places.get(engine_hash)
            if place is not None:
                return place
        raise UnknownParentError(
            Code.FAILED_PRECONDITION,
            f"blocks were stored behind block {engine_hash}, which is not in the index: an event "
            "was lost; fetch the worker's state",
        )
