"""Which worker holds which prefix: exact, from the events of the workers.

What anybody has is in one tree of extents, prefixes that follow each other (`extents`): a prompt
leads along a few of them, however long it is, and each says how far every owner gets. What an owner
calls its blocks leads to the runs in which they came (`runs`), so that a removal needs no search.
An event of many blocks costs a few steps, and an entry in a dict for each name.

An engine may hold a prefix in several blocks: it is gone when the last of their names is. To
forget an owner takes one step: its bit is masked out at once, and what it had is swept away piece
by piece, with later events or by `sweep`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from protoplane_base import Code, PlaneError
from protoplane_components.kv_router.extents import ROOT, Extents, Place, Reached
from protoplane_components.kv_router.hashing import Hashes, as_hashes, as_numbers, prefix_keys
from protoplane_components.kv_router.levels import Group, Levels, as_levels, by_target
from protoplane_components.kv_router.owners import Blocks, Owner
from protoplane_components.kv_router.prefix_search import reached, reached_in
from protoplane_components.kv_router.runs import Run


class Target(NamedTuple):
    """What requests go to: a data-parallel rank of a worker."""

    worker: str
    dp_rank: int = 0


class Tier(IntEnum):
    """Where a block is kept; the numbers are those of `StorageTier`."""

    DEVICE = 1
    HOST = 2
    DISK = 3


class Overlap(NamedTuple):
    """How many blocks of a prompt a target has: each block once, in the fastest tier."""

    device: int = 0
    host: int = 0
    disk: int = 0

    @property
    def blocks(self) -> int:
        """In all tiers."""
        return self.device + self.host + self.disk


NOTHING = Overlap()
"""What a target has that is not in any level."""


class UnknownParentError(PlaneError):
    """Blocks were stored behind one that the index does not have: an event was lost."""


class KeptBlocks(NamedTuple):
    """Blocks of a target that follow each other in one tier, as they are kept elsewhere.

    Attributes:
        tier: Where they are.
        depth: How many blocks of the sequence are before them.
        parent: What the engine calls the block before the first, if the target has it.
        engine_hashes: What the engine calls them.
        keys: Keys of the prefixes that they end; where the target lacks the parent, behind those
            that lead there.
    """

    tier: Tier
    depth: int
    parent: int | None
    engine_hashes: Sequence[int]
    keys: Sequence[int]

    def part(self, begin: int, end: int) -> KeptBlocks:
        """Some of them."""
        way = len(self.keys) - len(self.engine_hashes)
        if not begin:
            return self._replace(
                engine_hashes=self.engine_hashes[:end], keys=self.keys[: way + end]
            )
        return KeptBlocks(
            self.tier,
            self.depth + way + begin,
            self.engine_hashes[begin - 1],
            self.engine_hashes[begin:end],
            self.keys[way + begin : way + end],
        )


@dataclass(frozen=True, slots=True)
class IndexStats:
    """What an index holds.

    Attributes:
        prefixes: Different prefixes, in all tiers.
        blocks: Blocks of all targets, in all tiers.
        targets: Targets that have blocks, or had some.
        evicted: Blocks that were forgotten because there were too many.
    """

    prefixes: int
    blocks: int
    targets: int
    evicted: int


class KvIndex:
    """The blocks of thousands of workers.

    It belongs to one thread. No step of it waits for anything.

    Args:
        max_blocks: Most blocks to remember, those of all targets and tiers together; beyond that
            the target with the most loses those that were neither stored nor asked for lately.
            `None`, the default, trusts the workers, whose caches have an end.
    """

    def __init__(self, *, max_blocks: int | None = None) -> None:
        if max_blocks is not None and max_blocks < 1:
            raise PlaneError(
                Code.INVALID_ARGUMENT, f"max_blocks is {max_blocks}; give at least 1, or None"
            )
        self._max_blocks = max_blocks
        self._extents = Extents()
        # How many blocks are elsewhere than in device memory.
        self._slower = 0
        self._owners: dict[Target, Owner] = {}
        self._by_bit: dict[int, Target] = {}
        self._free_bits: list[int] = []
        self._alive = 0
        self._retired: deque[Owner] = deque()
        # Sets of bits that were met; cleared when a target goes.
        self._groups: dict[int, Group] = {}
        # Those of device memory alone, by depth: most are, and making one takes its time.
        self._overlaps: list[Overlap] = []
        self._blocks = 0
        self._evicted = 0

    # What workers tell.

    def store(
        self,
        target: Target,
        engine_hashes: Hashes,
        hashes: Hashes,
        *,
        parent: int | None = None,
        tier: Tier = Tier.DEVICE,
    ) -> None:
        """Take note of blocks that follow each other. Telling it again changes nothing.

        Args:
            target: Who has them.
            engine_hashes: What the engine calls them.
            hashes: Hashes of each block's tokens alone.
            parent: What the engine calls the block before the first; `None` for the beginning of a
                sequence.
            tier: Where they are.

        Raises:
            UnknownParentError: FAILED_PRECONDITION, the target does not have the parent in any
                tier.
            PlaneError: INVALID_ARGUMENT, there are not as many hashes of the one kind as of the
                other.
        """
        if len(engine_hashes) != len(hashes):
            raise PlaneError(
                Code.INVALID_ARGUMENT,
                f"{len(engine_hashes)} engine hashes with {len(hashes)} token hashes; each block "
                "has both",
            )
        owner = self._owners.get(target)
        place, before, after = ROOT, None, None
        if parent is not None:
            place, before, after = self._behind(owner, parent, tier)
        if owner is None:
            owner = self._add(target)
        keys = prefix_keys(hashes, before)
        if len(keys):
            self._note(owner, tier, Blocks.named(engine_hashes, keys), place, after)

    def restore(
        self,
        target: Target,
        engine_hashes: Hashes,
        keys: Hashes,
        *,
        depth: int = 0,
        parent: int | None = None,
        tier: Tier = Tier.DEVICE,
    ) -> None:
        """Take note of blocks with the keys of their prefixes, as `kept` tells them.

        Args:
            target: Who has them.
            engine_hashes: What the engine calls them.
            keys: Keys of prefixes that follow each other. The blocks end the last of them; those
                before lead there, where the parent is not known.
            depth: How many blocks of the sequence are before the first key.
            parent: What the engine calls the block before the first, if the target has it.
            tier: Where they are.
        """
        if not len(engine_hashes):
            return
        prefixes = as_hashes(keys)
        owner = self._owners.get(target)
        place, after = Place(depth=depth), None
        if owner is None:
            owner = self._add(target)
        found = None if parent is None else owner.locate(parent, tier - 1)
        if found is not None:
            place, after = found.behind, found.run
        way = len(prefixes) - len(engine_hashes)
        if way:
            place = self._extents.lay(prefixes[:way], place)
        self._note(owner, tier, Blocks.named(engine_hashes, prefixes[way:]), place, after)

    def remove(self, target: Target, engine_hashes: Hashes, *, tier: Tier = Tier.DEVICE) -> int:
        """Forget blocks of a tier, and tell how many of them were there."""
        owner = self._owners.get(target)
        if owner is None:
            return 0
        removed = owner.drop(self._extents, tier - 1, as_numbers(engine_hashes))
        self._count(tier, -removed)
        if self._retired:
            self.sweep(2 * removed)
        return removed

    def clear(self, target: Target) -> None:
        """Forget all blocks of a target, in one step."""
        owner = self._owners.pop(target, None)
        if owner is None:
            return
        self._alive &= ~owner.bit
        self._by_bit.pop(owner.bit)
        self._groups.clear()
        for tier, holding in zip(Tier, owner.tiers, strict=True):
            self._count(tier, -len(holding.names))
        self._retired.append(owner)

    def remove_worker(self, worker: str) -> None:
        """Forget all blocks of all ranks of a worker."""
        for target in [target for target in self._owners if target.worker == worker]:
            self.clear(target)

    def sweep(self, blocks: int) -> int:
        """Free the memory of up to so many blocks that were forgotten; tells how many are left."""
        while self._retired and blocks > 0:
            owner = self._retired[0]
            for tier, holding in enumerate(owner.tiers):
                while holding.runs and blocks > 0:
                    run = next(reversed(holding.runs.values()))
                    blocks -= owner.drop(self._extents, tier, run.names[-blocks:].tolist())
            if not any(holding.runs for holding in owner.tiers):
                self._free_bits.append(owner.bit)
                self._retired.popleft()
        return sum(map(len, self._retired))

    # What requests ask.

    def find(self, hashes: Hashes) -> dict[Target, Overlap]:
        """How much of a prompt each target has, of those that have its first block.

        Args:
            hashes: Hashes of the prompt's full blocks.
        """
        return self.find_keys(prefix_keys(hashes))

    def find_keys(self, keys: NDArray[np.uint64]) -> dict[Target, Overlap]:
        """Like `find`, by keys of the prompt's prefixes."""
        if self._slower:
            return by_target(self._tiered(keys))
        found: dict[Target, Overlap] = {}
        overlaps, only, known = self._overlaps, self._by_bit.get, self._groups.get
        for depth, bits in self._ends(keys):
            target = only(bits)
            if target is not None:
                found[target] = overlaps[depth]
            else:
                group = known(bits) or self._group(bits)
                found |= dict.fromkeys(group.targets, overlaps[depth])
        return found

    def levels(self, keys: NDArray[np.uint64]) -> Levels:
        """Like `find_keys`, by how much it is."""
        if self._slower:
            return self._tiered(keys)
        overlaps, known = self._overlaps, self._groups.get
        return [
            (overlaps[depth], known(bits) or self._group(bits)) for depth, bits in self._ends(keys)
        ]

    def depths(self, hashes: Hashes) -> dict[Target, int]:
        """How many blocks of a prompt each target has, in whatever tier."""
        path = [*self._extents.path(prefix_keys(hashes))]
        found: dict[Target, int] = {}
        for depth, bits in reached_in(path, len(Tier), self._alive):
            found |= dict.fromkeys(self._group(bits).targets, depth)
        return found

    # What there is.

    def targets(self) -> list[Target]:
        """Those that have blocks, or had some."""
        return list(self._owners)

    def count(self, target: Target) -> int:
        """How many blocks a target has, in all tiers."""
        owner = self._owners.get(target)
        return 0 if owner is None else len(owner)

    def entries(self, target: Target) -> Iterator[tuple[Tier, Mapping[int, int]]]:
        """The blocks of a target, tier by tier: engine hashes with the keys of their prefixes."""
        owner = self._owners.get(target)
        if owner is not None:
            for tier in Tier:
                if owner.tiers[tier - 1].names:
                    yield tier, owner.tiers[tier - 1].entries()

    def kept(self, target: Target) -> Iterator[KeptBlocks]:
        """The blocks of a target as `restore` takes them; the index may not change meanwhile."""
        owner = self._owners.get(target)
        if owner is not None:
            for tier, depth, parent, names, keys in owner.kept():
                yield KeptBlocks(Tier(tier + 1), depth, parent, names, keys)

    def stats(self) -> IndexStats:
        """What it holds."""
        return IndexStats(self._extents.prefixes, self._blocks, len(self._owners), self._evicted)

    # Inside.

    def _behind(
        self, owner: Owner | None, parent: int, tier: Tier
    ) -> tuple[Place, int, Run | None]:
        """The place behind a block, the key of the prefix that it ends, and its run."""
        found = None if owner is None else owner.locate(parent, tier - 1)
        if found is None:
            raise UnknownParentError(
                Code.FAILED_PRECONDITION,
                f"blocks were stored behind block {parent}, which is not in the index: an event "
                "was lost; fetch the worker's state",
            )
        return found.behind, found.extent.keys[found.behind.at - 1], found.run

    def _add(self, target: Target) -> Owner:
        if self._free_bits:
            bit = self._free_bits.pop()
        else:
            bit = 1 << (len(self._owners) + len(self._retired))
        owner = Owner(bit)
        self._owners[target] = owner
        self._by_bit[bit] = target
        self._alive |= bit
        return owner

    def _note(
        self, owner: Owner, tier: Tier, blocks: Blocks, place: Place, after: Run | None
    ) -> None:
        names = owner.tiers[tier - 1].names
        before = len(names)
        owner.note(self._extents, tier - 1, blocks, place, after)
        self._count(tier, len(names) - before)
        if self._retired:
            self.sweep(2 * len(blocks.keys))
        if self._max_blocks is not None and self._blocks > self._max_blocks:
            self._evict(self._max_blocks)

    def _count(self, tier: Tier, blocks: int) -> None:
        self._blocks += blocks
        if tier is not Tier.DEVICE:
            self._slower += blocks

    def _ends(self, keys: NDArray[np.uint64]) -> Reached:
        """How deep who has a prompt, where all is in device memory."""
        self._note_asked(keys)
        overlaps = self._overlaps
        if len(keys) >= len(overlaps):
            overlaps += map(Overlap, range(len(overlaps), len(keys) + 1))
        return reached(self._extents.starts, keys, self._alive if self._retired else None)

    def _tiered(self, keys: NDArray[np.uint64]) -> Levels:
        """What each has, where blocks are in several tiers."""
        self._note_asked(keys)
        path = [*self._extents.path(keys)]
        depths: dict[Target, list[int]] = {}
        for tiers in (1, 2, 3):
            for depth, bits in reached_in(path, tiers, self._alive):
                for target in self._group(bits).targets:
                    depths.setdefault(target, [0, 0, 0])[tiers - 1] = depth
        return as_levels(
            {
                target: Overlap(device, host - device, disk - host)
                for target, (device, host, disk) in depths.items()
            }
        )

    def _note_asked(self, keys: NDArray[np.uint64]) -> None:
        if self._max_blocks is not None:
            for extent, _ in self._extents.path(keys):
                extent.asked = True

    def _group(self, bits: int) -> Group:
        found = self._groups.get(bits)
        if found is None:
            if len(self._groups) >= 4096:
                self._groups.clear()
            targets: list[Target] = []
            rest = bits
            while rest:
                bit = rest & -rest
                targets.append(self._by_bit[bit])
                rest ^= bit
            found = self._groups[bits] = Group(targets)
        return found

    def _evict(self, most: int) -> None:
        """Forget blocks, the oldest runs first; those that were asked for get a second turn."""
        while self._blocks > most:
            owner = max(self._owners.values(), key=len)
            tier = max(Tier, key=lambda tier: len(owner.tiers[tier - 1].names))
            holding = owner.tiers[tier - 1]
            # So many in one go that the look for the owner costs little.
            goal = max(1, min(len(holding.names) // 16, 4096))
            while goal > 0:
                number, run = next(iter(holding.runs.items()))
                if run.extent.asked:
                    run.extent.asked = False
                    holding.runs[number] = holding.runs.pop(number)
                    continue
                gone = owner.drop(self._extents, tier - 1, run.names[-goal:].tolist())
                goal -= gone
                self._count(tier, -gone)
                self._evicted += gone
