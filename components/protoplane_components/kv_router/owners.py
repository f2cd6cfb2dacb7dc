"""What one owner of blocks has, and how it comes into the tree of all and out of it."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from protoplane_components.kv_router.extents import TIERS, Extent, Extents, Place
from protoplane_components.kv_router.hashing import Hashes, as_numbers, as_words
from protoplane_components.kv_router.runs import Holding, Run


class Blocks(NamedTuple):
    """Blocks that follow each other.

    Attributes:
        names: What their owner calls them.
        words: The same as an array.
        keys: Keys of the prefixes that they end.
    """

    names: Sequence[int]
    words: array[int]
    keys: NDArray[np.uint64]

    @classmethod
    def named(cls, names: Hashes, keys: NDArray[np.uint64]) -> Blocks:
        """Blocks with names in either form."""
        return cls(as_numbers(names), as_words(names), keys)

    def part(self, begin: int, end: int) -> Blocks:
        """Some of them."""
        if not begin and end == len(self.keys):
            return self
        return Blocks(self.names[begin:end], self.words[begin:end], self.keys[begin:end])


class Located(NamedTuple):
    """A block that an owner has.

    Attributes:
        extent: The extent that it is in.
        behind: The place behind it.
        run: The run that it is in, if that is in the tier that was asked for.
    """

    extent: Extent
    behind: Place
    run: Run | None


class KeptRun(NamedTuple):
    """Blocks that follow each other.

    Attributes:
        tier: In which tier they are, from 0.
        depth: How many blocks of the sequence are before them.
        parent: What their owner calls the block before the first, if it has it.
        names: What it calls them.
        keys: Keys of the prefixes that they end; where it lacks the parent, behind those that lead
            there.
    """

    tier: int
    depth: int
    parent: int | None
    names: array[int]
    keys: array[int]


@dataclass(slots=True, eq=False)
class Owner:
    """What one owner has.

    Attributes:
        bit: Its bit in the tree.
        tiers: What it has in each tier.
    """

    bit: int
    tiers: tuple[Holding, Holding, Holding] = field(
        default_factory=lambda: (Holding(), Holding(), Holding())
    )

    def __len__(self) -> int:
        """How many blocks it has, in all tiers."""
        return sum(len(holding.names) for holding in self.tiers)

    def locate(self, name: int, tier: int) -> Located | None:
        """Where a block is, in whatever tier, if the owner has it.

        Args:
            name: What the owner calls it.
            tier: In which tier to look first.
        """
        for each in (tier, *range(TIERS)):
            found = self.tiers[each].locate(name)
            if found is not None:
                run, at = found
                behind = Place(run.extent, at + 1, run.extent.depth + at + 1)
                return Located(run.extent, behind, run if each == tier else None)
        return None

    def note(
        self, extents: Extents, tier: int, blocks: Blocks, place: Place, after: Run | None = None
    ) -> None:
        """Take note of blocks.

        Args:
            extents: The tree.
            tier: Where the blocks are.
            blocks: The blocks, one or more.
            place: Where in the tree they begin.
            after: A run that they might follow.
        """
        if self._join(extents, tier, blocks, place, after):
            return
        count, at = len(blocks.keys), 0
        while at < count:
            told = self._told(tier, blocks, at)
            if told is None:
                place = self._note_one(extents, tier, blocks.part(at, at + 1), place)
                at += 1
                continue
            size, place = told
            at += size
            # What is behind blocks that were told before may all be new.
            if at < count and self._join(extents, tier, blocks.part(at, count), place, None):
                return

    def drop(self, extents: Extents, tier: int, names: Sequence[int]) -> int:
        """Forget blocks by name; tells how many of them were there."""
        holding, bit = self.tiers[tier], self.bit
        gone = 0
        for extent, start, end in holding.take(names):
            gone += end - start
            if holding.more and not holding.more.keys().isdisjoint(extent.keys[start:end]):
                for at in range(start, end):
                    if not holding.lose_another(extent.keys[at]):
                        extent.discard(tier, bit, at, at + 1)
            else:
                extent.discard(tier, bit, start, end)
            extents.trim(extent)
        return gone

    def kept(self) -> Iterator[KeptRun]:
        """All that it has, a run at a time; nothing may change meanwhile.

        A block comes after its parent, if it names that one.
        """
        having: dict[Extent, list[tuple[Holding, Run]]] = {}
        for tier, holding in enumerate(self.tiers):
            for run in holding.runs.values():
                having.setdefault(run.extent, []).append((holding, run))
            stretches = chain.from_iterable(map(holding.stretches, holding.runs.values()))
            for extent, start, names in sorted(stretches, key=_depth):
                before, at = extent, start
                if not start and extent.parent is not None:
                    before, at = extent.parent, extent.depth - extent.parent.depth
                parent = next(
                    (
                        name
                        for other, run in having.get(before, ())
                        if run.start < at <= run.end
                        and other.names.get(name := run.names[at - 1 - run.start]) == run.number
                    ),
                    None,
                )
                keys = extent.keys[start : start + len(names)]
                depth = extent.depth + start
                if parent is None:
                    depth, keys = _with_way(extent, start, keys)
                yield KeptRun(tier, depth, parent, names, keys)

    def _join(
        self, extents: Extents, tier: int, blocks: Blocks, place: Place, after: Run | None
    ) -> bool:
        """Note blocks in a few steps if all of them are new to the owner; else do nothing."""
        holding, bit, keys = self.tiers[tier], self.bit, blocks.keys
        pieces, behind = extents.match(keys, place)
        for extent, start, size in pieces:
            if extent.overlaps(tier, bit, start, start + size):
                return False
        at, end = 0, len(keys)
        done = behind.depth - place.depth
        if extents.orphans and done < end and extents.new(keys[done:]) < end - done:
            return False
        if pieces and (len(pieces) > 1 or done < end) and not holding.names.all_new(blocks.names):
            return False
        for extent, start, size in pieces:
            part = blocks.part(at, at + size)
            if not holding.put(extent, start, part.names, part.words, after):
                return False
            extent.add(tier, bit, start, start + size)
            at += size
            after = None
        if at < end:
            part = blocks.part(at, end)
            extent, start = extents.grow(part.keys, behind, tier, bit)
            if not holding.put(extent, start, part.names, part.words, after):
                extent.discard(tier, bit, start, start + len(part.keys))
                extents.trim(extent)
                return False
        return True

    def _told(self, tier: int, blocks: Blocks, first: int) -> tuple[int, Place] | None:
        """How many were told before, from one on, and the place behind them; `None` for none."""
        found = self.tiers[tier].locate(blocks.names[first])
        if found is None:
            return None
        run, at = found
        keys, begin = run.extent.keys, at - run.start
        if keys[at] != blocks.keys.item(first):
            return None
        count = min(run.end - at, len(blocks.keys) - first)
        if (
            run.gaps
            or keys[at + count - 1] != blocks.keys.item(first + count - 1)
            or run.names[begin : begin + count] != blocks.words[first : first + count]
        ):
            count = 1
        return count, Place(run.extent, at + count, run.extent.depth + at + count)

    def _note_one(self, extents: Extents, tier: int, block: Blocks, place: Place) -> Place:
        """Note a block that may have another name already, or whose name another block had."""
        holding, bit = self.tiers[tier], self.bit
        while holding.names.get(block.names[0]) is not None:
            self.drop(extents, tier, block.names)
        pieces, _ = extents.match(block.keys, place)
        if pieces:
            extent, at, _ = pieces[0]
            if extent.overlaps(tier, bit, at, at + 1):
                holding.add_another(extent.keys[at])
            else:
                extent.add(tier, bit, at, at + 1)
        else:
            extent, at = extents.grow(block.keys, place, tier, bit)
        holding.put(extent, at, block.names, block.words, holding.runs.get(holding.last))
        return Place(extent, at + 1, extent.depth + at + 1)


def _depth(stretch: tuple[Extent, int, array[int]]) -> int:
    extent, start, _ = stretch
    return extent.depth + start


def _with_way(extent: Extent, start: int, keys: array[int]) -> tuple[int, array[int]]:
    """Keys behind those of all that is known of the way to them, and where that begins."""
    keys = extent.keys[:start] + keys
    # What was restored from anywhere may contradict itself; no way goes round in a circle.
    while (before := extent.parent) is not None and before.depth < extent.depth:
        keys = before.keys[: extent.depth - before.depth] + keys
        extent = before
    return extent.depth, keys
