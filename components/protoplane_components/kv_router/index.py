"""Which worker holds which prefix: exact, from the events of the workers.

For each tier one dict leads from the key of a prefix (`hashing.prefix_keys`) to a set of owners,
the bits of a Python integer. An engine evicts the end of a sequence before its beginning, so of
the blocks of a prompt an owner has all up to some depth and none behind it: looking at a few
positions tells the depth of all owners at once, instead of a walk through every block. For caches
with holes there is `find(…, every_block=True)`.

What an owner calls its blocks leads to their keys (`block_names`), so that a removal needs no
search. An engine may hold a prefix in several blocks: it is gone when the last of their names is.
To forget an owner takes one step: its bit is masked out at once, and what it had is swept away
piece by piece, with later events or by `sweep`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import islice, repeat
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from protoplane_base import Code, PlaneError
from protoplane_components.kv_router.block_names import BlockNames
from protoplane_components.kv_router.hashing import (
    FAMILY_SHIFT,
    Hashes,
    as_numbers,
    prefix_keys,
)
from protoplane_components.kv_router.prefix_search import Families, PrefixSearch, walk


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


class UnknownParentError(PlaneError):
    """Blocks were stored behind one that the index does not have: an event was lost."""


@dataclass(slots=True)
class _Owner:
    target: Target
    bit: int
    # For each tier, the engine's hashes with the keys of what they stand for.
    blocks: tuple[BlockNames, BlockNames, BlockNames] = field(
        default_factory=lambda: (BlockNames(), BlockNames(), BlockNames())
    )
    # For each tier, how many more engine hashes stand for a key than one; those with none are not
    # in it.
    more: tuple[dict[int, int], dict[int, int], dict[int, int]] = field(
        default_factory=lambda: ({}, {}, {})
    )


@dataclass(frozen=True, slots=True)
class IndexStats:
    """What an index holds.

    Attributes:
        prefixes: Different prefixes, in device memory.
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
        self._tiers: tuple[Families, Families, Families] = ({}, {}, {})
        self._search = PrefixSearch()
        self._owners: dict[Target, _Owner] = {}
        self._by_bit: dict[int, Target] = {}
        self._free_bits: list[int] = []
        self._alive = 0
        self._retired: deque[_Owner] = deque()
        # Sets of bits that were met, as targets; cleared when the targets change.
        self._groups: dict[int, tuple[Target, ...]] = {}
        # Those of device memory alone, by depth: most are, and making one takes its time.
        self._overlaps: list[Overlap] = []
        self._blocks = 0
        self._evicted = 0
        # Keys that were asked for since the last two turns of the clock.
        self._asked: set[int] = set()
        self._asked_before: set[int] = set()

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
        before = None if parent is None else self._key_of(owner, parent)
        if owner is None:
            owner = self._add(target)
        keys: list[int] = prefix_keys(hashes, before).tolist()
        if keys:
            self._note(owner, as_numbers(engine_hashes), keys, tier)

    def restore(
        self,
        target: Target,
        engine_hashes: Hashes,
        keys: Hashes,
        *,
        tier: Tier = Tier.DEVICE,
    ) -> None:
        """Take note of blocks with the keys of their prefixes, as `entries` tells them."""
        owner = self._owners.get(target) or self._add(target)
        families: dict[int, tuple[list[int], list[int]]] = {}
        for engine, key in zip(as_numbers(engine_hashes), as_numbers(keys), strict=True):
            names, prefixes = families.setdefault(key >> FAMILY_SHIFT, ([], []))
            names.append(engine)
            prefixes.append(key)
        for names, prefixes in families.values():
            self._note(owner, names, prefixes, tier)

    def remove(self, target: Target, engine_hashes: Hashes, *, tier: Tier = Tier.DEVICE) -> int:
        """Forget blocks of a tier, and tell how many of them were there."""
        owner = self._owners.get(target)
        if owner is None:
            return 0
        gone = as_numbers(engine_hashes)
        removed = _drop(owner, self._tiers[tier - 1], gone, tier - 1)
        self._blocks -= removed
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
        self._blocks -= sum(map(len, owner.blocks))
        self._retired.append(owner)

    def remove_worker(self, worker: str) -> None:
        """Forget all blocks of all ranks of a worker."""
        for target in [target for target in self._owners if target.worker == worker]:
            self.clear(target)

    def sweep(self, blocks: int) -> int:
        """Free the memory of up to so many blocks that were forgotten; tells how many are left."""
        while self._retired and blocks > 0:
            owner = self._retired[0]
            for place, families in enumerate(self._tiers):
                batch = list(islice(owner.blocks[place], blocks))
                _drop(owner, families, batch, place)
                blocks -= len(batch)
            if not any(owner.blocks):
                self._free_bits.append(owner.bit)
                self._retired.popleft()
        return sum(len(blocks) for owner in self._retired for blocks in owner.blocks)

    # What requests ask.

    def find(self, hashes: Hashes, *, every_block: bool = False) -> dict[Target, Overlap]:
        """How much of a prompt each target has, of those that have its first block.

        Args:
            hashes: Hashes of the prompt's full blocks.
            every_block: Look at every block instead of a few, for caches with holes.
        """
        return self.find_keys(prefix_keys(hashes), every_block=every_block)

    def find_keys(
        self, keys: NDArray[np.uint64], *, every_block: bool = False
    ) -> dict[Target, Overlap]:
        """Like `find`, by keys of the prompt's prefixes."""
        if self._max_blocks is not None:
            self._asked.update(keys.tolist())
        if self._tiers[1] or self._tiers[2]:
            return self._find_tiered(keys, every_block=every_block)
        search = walk if every_block else self._search.jump
        overlaps, alone = self._overlaps, self._by_bit.get
        if len(keys) >= len(overlaps):
            overlaps += map(Overlap, range(len(overlaps), len(keys) + 1))
        found: dict[Target, Overlap] = {}
        for bits, depth in search((self._tiers[0],), keys, self._alive):
            target = alone(bits)
            if target is not None:
                found[target] = overlaps[depth]
            else:
                group = self._groups.get(bits) or self._group(bits)
                found.update(dict.fromkeys(group, overlaps[depth]))
        return found

    def depths(self, hashes: Hashes) -> dict[Target, int]:
        """How many blocks of a prompt each target has, in whatever tier."""
        keys = prefix_keys(hashes)
        tiers = self._tiers if self._tiers[1] or self._tiers[2] else self._tiers[:1]
        found: dict[Target, int] = {}
        for bits, depth in self._search.jump(tiers, keys, self._alive):
            found.update(dict.fromkeys(self._groups.get(bits) or self._group(bits), depth))
        return found

    def _find_tiered(self, keys: NDArray[np.uint64], *, every_block: bool) -> dict[Target, Overlap]:
        search = walk if every_block else self._search.jump
        found: dict[Target, Overlap] = {}
        reached: dict[Target, list[int]] = {}
        for count in (1, 2, 3):
            for bits, depth in search(self._tiers[:count], keys, self._alive):
                for target in self._groups.get(bits) or self._group(bits):
                    reached.setdefault(target, [0, 0, 0])[count - 1] = depth
        for target, (device, host, disk) in reached.items():
            # In a cache with holes halving may go less deep in more tiers.
            with_host = max(device, host)
            with_disk = max(with_host, disk)
            found[target] = Overlap(device, with_host - device, with_disk - with_host)
        return found

    # What there is.

    def targets(self) -> list[Target]:
        """Those that have blocks, or had some."""
        return list(self._owners)

    def count(self, target: Target) -> int:
        """How many blocks a target has, in all tiers."""
        owner = self._owners.get(target)
        return sum(map(len, owner.blocks)) if owner else 0

    def entries(self, target: Target) -> Iterator[tuple[Tier, Mapping[int, int]]]:
        """The blocks of a target, tier by tier: engine hashes with the keys of their prefixes.

        Copy what is to outlive the next event.
        """
        owner = self._owners.get(target)
        if owner is not None:
            for tier in Tier:
                if owner.blocks[tier - 1]:
                    yield tier, owner.blocks[tier - 1].entries()

    def stats(self) -> IndexStats:
        """What it holds."""
        prefixes = sum(map(len, self._tiers[0].values()))
        return IndexStats(prefixes, self._blocks, len(self._owners), self._evicted)

    # Inside.

    def _key_of(self, owner: _Owner | None, engine_hash: int) -> int:
        if owner is not None:
            for blocks in owner.blocks:
                key = blocks.get(engine_hash)
                if key is not None:
                    return key
        raise UnknownParentError(
            Code.FAILED_PRECONDITION,
            f"blocks were stored behind block {engine_hash}, which is not in the index: an event "
            "was lost; fetch the worker's state",
        )

    def _add(self, target: Target) -> _Owner:
        if self._free_bits:
            bit = self._free_bits.pop()
        else:
            bit = 1 << (len(self._owners) + len(self._retired))
        owner = _Owner(target, bit)
        self._owners[target] = owner
        self._by_bit[bit] = target
        self._alive |= bit
        return owner

    def _note(
        self, owner: _Owner, engine_hashes: Sequence[int], keys: list[int], tier: Tier
    ) -> None:
        """Take note of blocks of one family."""
        families, mine = self._tiers[tier - 1], owner.blocks[tier - 1]
        before = len(mine)
        # Mostly all of it is new to the owner: then a few passes do, none of them in Python.
        joined = _join(families, keys, owner.bit)
        if not (joined and mine.add(engine_hashes, keys)):
            _join_one_by_one(owner, families, engine_hashes, keys, tier - 1, joined=joined)
        self._blocks += len(mine) - before
        if self._retired:
            self.sweep(2 * len(keys))
        if self._max_blocks is not None and self._blocks > self._max_blocks:
            self._evict(self._max_blocks)

    def _group(self, bits: int) -> tuple[Target, ...]:
        if len(self._groups) >= 4096:
            self._groups.clear()
        group: list[Target] = []
        rest = bits
        while rest:
            bit = rest & -rest
            group.append(self._by_bit[bit])
            rest ^= bit
        found = self._groups[bits] = tuple(group)
        return found

    def _evict(self, most: int) -> None:
        """Forget blocks, the oldest first; those that were asked for get a second turn."""
        while self._blocks > most:
            owner = max(self._owners.values(), key=lambda owner: sum(map(len, owner.blocks)))
            place = max(range(3), key=lambda place: len(owner.blocks[place]))
            mine = owner.blocks[place]
            batch = list(islice(mine, max(1, min(len(mine) // 16, 4096))))
            asked = self._asked | self._asked_before
            again = [engine for engine in batch if mine.get(engine) in asked]
            for engine in again:
                for key in mine.take((engine,)):
                    mine.put(engine, key)
            stay = set(again)
            gone = [engine for engine in batch if engine not in stay]
            count = _drop(owner, self._tiers[place], gone, place)
            self._blocks -= count
            self._evicted += count
            if again or len(self._asked) > most:
                self._asked_before, self._asked = self._asked, set()


def _join(families: Families, keys: list[int], bit: int) -> bool:
    """Add an owner to prefixes of one family; does nothing where it has one of them already."""
    family = keys[0] >> FAMILY_SHIFT
    everyone = families.get(family)
    if everyone is None:
        everyone = dict.fromkeys(keys, bit)
        if len(everyone) != len(keys):
            return False
        families[family] = everyone
        return True
    before = len(everyone)
    # It leaves what is there, so that what it added is at the end.
    deque(map(everyone.setdefault, keys, repeat(bit)), maxlen=0)
    new = len(everyone) - before
    if new == len(keys):
        return True
    for _ in range(new):
        everyone.popitem()
    had = list(map(everyone.get, keys, repeat(0)))
    kinds = set(had)
    if any(bits & bit for bits in kinds) or len(set(keys)) != len(keys):
        return False
    # Blocks in a row mostly have the same owners, so they share the integer.
    merged = {bits: bits | bit for bits in kinds}
    everyone.update(zip(keys, map(merged.__getitem__, had), strict=True))
    return True


def _join_one_by_one(
    owner: _Owner,
    families: Families,
    engine_hashes: Sequence[int],
    keys: list[int],
    place: int,
    *,
    joined: bool,
) -> None:
    """Note blocks some of which the owner has already, or had others under the same names."""
    mine, more, bit = owner.blocks[place], owner.more[place], owner.bit
    family = keys[0] >> FAMILY_SHIFT
    for engine, key in zip(engine_hashes, keys, strict=True):
        told = mine.get(engine)
        if told == key:
            continue
        if told is not None:
            _drop(owner, families, (engine,), place)
        if not joined:
            everyone = families.setdefault(family, {})
            bits = everyone.get(key, 0)
            if bits & bit:
                more[key] = more.get(key, 0) + 1
            else:
                everyone[key] = bits | bit
        mine.put(engine, key)


def _drop(owner: _Owner, families: Families, engine_hashes: Iterable[int], place: int) -> int:
    """Take blocks of a tier from one owner; tells how many there were."""
    more, bit = owner.more[place], owner.bit
    keys = owner.blocks[place].take(engine_hashes)
    for key in keys:
        if more and key in more:
            # It has the prefix under another name, too.
            more[key] -= 1
            if not more[key]:
                del more[key]
            continue
        family = key >> FAMILY_SHIFT
        everyone = families[family]
        bits = everyone[key]
        if bits != bit:
            everyone[key] = bits & ~bit
            continue
        del everyone[key]
        if not everyone:
            del families[family]
    return len(keys)
