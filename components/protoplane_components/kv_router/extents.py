"""What is cached, as a tree: prefixes that follow each other share a node, an `Extent`.

A key names a block with all before it, so each has one place in the tree, and where two have the
same key all before it is the same, too. So one dict, from the key of the first prefix of each
extent, leads through the tree; branches begin anywhere, and split nothing. Who has what of an
extent are the bits of Python's integers, one for each owner. Most have it from its beginning up to
some depth.

What nobody has any more leaves the end of its extent. An engine that evicts a beginning before its
end leaves an orphan: an extent to which no way leads, until its beginning is back.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

TIERS = 3
PARTS = 256
"""Into how many dicts the extents are put, by the lower bits of their first keys. None of them
becomes so large that its growth takes long."""

LOWER = PARTS - 1
"""The bits that tell the part."""

Reached = list[tuple[int, int]]
"""Depths, and the owners that reached each, as bits."""


@dataclass(slots=True, eq=False)
class Extent:
    """Prefixes that follow each other.

    Attributes:
        depth: How many blocks are before the first.
        keys: Their keys. Empty where the extent is no longer in the tree.
        whole: Who has all of them in the first tier.
        ends: Who has the first so many of them in the first tier; not all, and not none.
        others: Who has others, by tier, beginning and end.
        held: Who has any.
        parent: The extent that this one follows, or branches off from.
        children: Those that follow or branch off.
        forked: No child begins later than so many blocks into the extent.
        asked: Whether it was asked for since this was last set to false.
    """

    depth: int
    keys: array[int]
    parent: Extent | None = None
    whole: int = 0
    held: int = 0
    forked: int = 0
    ends: dict[int, int] | None = None
    others: dict[tuple[int, int, int], int] | None = None
    children: set[Extent] | None = None
    asked: bool = False

    def overlaps(self, place: int, bit: int, start: int, end: int) -> bool:
        """Whether an owner has any of some prefixes in a tier."""
        return bool(self.held & bit) and any(
            begin < end and start < until for begin, until in self._spans(place, bit)
        )

    def add(self, place: int, bit: int, start: int, end: int) -> None:
        """An owner has prefixes, none of which it had."""
        if self.held & bit:
            for begin, until in self._spans(place, bit):
                if until == start:
                    self._take(place, bit, begin, until)
                    start = begin
                elif begin == end:
                    self._take(place, bit, begin, until)
                    end = until
        else:
            self.held |= bit
        self._put(place, bit, start, end)

    def discard(self, place: int, bit: int, start: int, end: int) -> None:
        """An owner lost prefixes."""
        if not place and not self.others:
            # Mostly it loses the last ones that it has: the only span is from the beginning.
            last = end == len(self.keys) and self.whole & bit
            if last or (self.ends and self.ends.get(end, 0) & bit):
                self._take(0, bit, 0, end)
                if start:
                    self._put(0, bit, 0, start)
                else:
                    self.held ^= bit
                return
        for begin, until in self._spans(place, bit):
            if begin < end and start < until:
                self._take(place, bit, begin, until)
                if begin < start:
                    self._put(place, bit, begin, start)
                if end < until:
                    self._put(place, bit, end, until)
        if not any(self._spans(tier, bit) for tier in range(TIERS)):
            self.held &= ~bit

    def extend(self, keys: bytes, bit: int) -> None:
        """Prefixes follow the last one; only this owner has them, if it had all before."""
        stay = self.whole ^ (self.whole & bit)
        if stay:
            self.ends = self.ends or {}
            self.ends[len(self.keys)] = stay
            self.whole ^= stay
        self.keys.frombytes(keys)

    def used(self) -> int:
        """How many prefixes there are up to the last one that anybody has."""
        if self.whole:
            return len(self.keys)
        return max(
            max(self.ends, default=0) if self.ends else 0,
            max((end for _, _, end in self.others), default=0) if self.others else 0,
        )

    def cut(self, size: int) -> None:
        """Forget prefixes that nobody has."""
        del self.keys[size:]
        if self.ends:
            self.whole = self.ends.pop(size, 0)

    def spans(self, tiers: int) -> list[tuple[int, int, int]]:
        """Beginning and end of what is held in the first so many tiers, and who holds it."""
        spans = [(0, len(self.keys), self.whole)] if self.whole else []
        if self.ends:
            spans += [(0, end, bits) for end, bits in self.ends.items()]
        if self.others:
            spans += [
                (begin, end, bits)
                for (place, begin, end), bits in self.others.items()
                if place < tiers
            ]
        spans.sort()
        return spans

    def _spans(self, place: int, bit: int) -> list[tuple[int, int]]:
        spans: list[tuple[int, int]] = []
        if not place:
            if self.whole & bit:
                return [(0, len(self.keys))]
            if self.ends:
                spans += [(0, end) for end, bits in self.ends.items() if bits & bit]
        if self.others:
            spans += [
                (begin, end)
                for (tier, begin, end), bits in self.others.items()
                if tier == place and bits & bit
            ]
        return spans

    def _put(self, place: int, bit: int, begin: int, end: int) -> None:
        if place or begin:
            if self.others is None:
                self.others = {}
            self.others[place, begin, end] = self.others.get((place, begin, end), 0) | bit
        elif end == len(self.keys):
            self.whole |= bit
        else:
            if self.ends is None:
                self.ends = {}
            self.ends[end] = self.ends.get(end, 0) | bit

    def _take(self, place: int, bit: int, begin: int, end: int) -> None:
        if place or begin:
            others = self.others or {}
            others[place, begin, end] ^= bit
            if not others[place, begin, end]:
                del others[place, begin, end]
        elif end == len(self.keys):
            self.whole ^= bit
        else:
            ends = self.ends or {}
            ends[end] ^= bit
            if not ends[end]:
                del ends[end]


class Piece(NamedTuple):
    """Prefixes in a row of one extent."""

    extent: Extent
    start: int
    size: int


class Place(NamedTuple):
    """Where prefixes go on: behind the first `at` of an extent; without one, at the root.

    Attributes:
        extent: The extent. It may have lost what is before the place.
        at: How many of its prefixes are before.
        depth: How many blocks are before.
    """

    extent: Extent | None = None
    at: int = 0
    depth: int = 0


ROOT = Place()
"""Where all sequences begin."""

Starts = dict[int, Extent]
"""Extents by the key of their first prefix."""


@dataclass(slots=True)
class Extents:
    """The tree.

    Attributes:
        starts: The parts of it.
        prefixes: How many prefixes there are.
        orphans: How many extents cannot be reached.
    """

    starts: list[Starts] = field(default_factory=lambda: [{} for _ in range(PARTS)])
    prefixes: int = 0
    orphans: int = 0

    def match(self, keys: NDArray[np.uint64], place: Place) -> tuple[list[Piece], Place]:
        """Those of some prefixes, from the first on, that are there.

        Args:
            keys: Their keys.
            place: Where they begin.

        Returns:
            Where they are, and the place behind them.
        """
        pieces: list[Piece] = []
        extent, at, depth = place
        view, done = keys.data, 0
        while done < len(view):
            if extent is None or at >= len(extent.keys) or extent.keys[at] != view[done]:
                child = self._starting(view[done])
                if child is None:
                    break
                if child.depth and child.parent is None and extent is not None and extent.keys:
                    self._attach(child, extent)
                    self.orphans -= 1
                extent, at = child, 0
            count = in_common(extent.keys, at, view, done)
            pieces.append(Piece(extent, at, count))
            at += count
            done += count
        return pieces, Place(extent, at, depth + done) if done else place

    def grow(
        self, keys: NDArray[np.uint64], place: Place, tier: int, bit: int
    ) -> tuple[Extent, int]:
        """Add prefixes that are not there; none of them may be the beginning of an orphan.

        Args:
            keys: Their keys.
            place: Where they begin.
            tier: In which tier they are.
            bit: Who has them; 0 for nobody yet.

        Returns:
            The extent that they are in, and how many of its prefixes are before.
        """
        extent, at, depth = place
        self.prefixes += len(keys)
        if extent is not None and 0 < at == len(extent.keys):
            extent.extend(keys.tobytes(), 0 if tier else bit)
            if bit and (tier or not extent.whole):
                extent.add(tier, bit, at, at + len(keys))
            return extent, at
        new = Extent(depth, array("Q", keys.tobytes()), None, 0 if tier else bit, bit)
        if tier:
            new.others = {(tier, 0, len(keys)): bit}
        if extent is not None and at < len(extent.keys):
            self._attach(new, extent)
        elif depth:
            self.orphans += 1
        first = keys.item(0)
        self.starts[first & LOWER][first] = new
        return new, 0

    def lay(self, keys: NDArray[np.uint64], place: Place) -> Place:
        """Add prefixes that nobody has, as the way to those behind them, where they are not there.

        Args:
            keys: Their keys.
            place: Where they begin.

        Returns:
            The place behind them. What is added there stays only if it is held.
        """
        while len(keys):
            _, behind = self.match(keys, place)
            keys, place = keys[behind.depth - place.depth :], behind
            if len(keys):
                end = self.new(keys)
                extent, at = self.grow(keys[:end], place, 0, 0)
                place = Place(extent, at + end, place.depth + end)
                keys = keys[end:]
        return place

    def new(self, keys: NDArray[np.uint64]) -> int:
        """How many prefixes, of which the first one is not there, are before one that is."""
        if self.orphans:
            for at, key in enumerate(keys.tolist()):
                if self._starting(key) is not None:
                    return at
        return len(keys)

    def trim(self, extent: Extent) -> None:
        """Forget what nobody has at the end of an extent, or all of it."""
        before = len(extent.keys)
        size = extent.used()
        if size == before:
            return
        if extent.children and size < extent.forked:
            end = extent.depth + size
            for child in [each for each in extent.children if not size or each.depth > end]:
                extent.children.discard(child)
                child.parent = None
                self.orphans += 1
            extent.forked = size
        if not size:
            first = extent.keys[0]
            del self.starts[first & LOWER][first]
            if extent.parent is not None:
                if extent.parent.children:
                    extent.parent.children.discard(extent)
                extent.parent = None
            elif extent.depth:
                self.orphans -= 1
        extent.cut(size)
        self.prefixes -= before - size

    def path(self, keys: NDArray[np.uint64]) -> Iterator[tuple[Extent, int]]:
        """The extents that lead along a prompt, and how much of each the prompt has."""
        view, at = keys.data, 0
        while at < len(view):
            extent = self._starting(view[at])
            if extent is None:
                return
            count = in_common(extent.keys, 0, view, at)
            yield extent, count
            at += count

    def _starting(self, key: int) -> Extent | None:
        return self.starts[key & LOWER].get(key)

    @staticmethod
    def _attach(child: Extent, parent: Extent) -> None:
        child.parent = parent
        if parent.children is None:
            parent.children = set()
        parent.children.add(child)
        parent.forked = max(parent.forked, child.depth - parent.depth)


def in_common(mine: Sequence[int], start: int, keys: Sequence[int], at: int, guess: int = 0) -> int:
    """How many keys are the same, of two rows whose first ones are: it takes only some looks.

    Args:
        mine: One row.
        start: Where in it to begin.
        keys: The other row.
        at: Where in that to begin.
        guess: How many are the same, perhaps: it is looked at first.
    """
    size = min(len(mine) - start, len(keys) - at)
    if mine[start + size - 1] == keys[at + size - 1]:
        return size
    begin, end = 0, size - 1
    middle = guess if 0 < guess < end else end >> 1
    while end - begin > 1:
        if mine[start + middle] == keys[at + middle]:
            begin = middle
        else:
            end = middle
            if middle == guess and middle > 1:
                # Just before it they should be the same.
                middle, guess = middle - 1, 0
                continue
        middle = (begin + end) >> 1
    return end
