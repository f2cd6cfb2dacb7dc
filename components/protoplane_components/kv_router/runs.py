"""Blocks of an engine that follow each other, by the engine's own names for them."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np

from protoplane_components.kv_router.block_names import BlockNames
from protoplane_components.kv_router.extents import Extent


@dataclass(slots=True, eq=False)
class Run:
    """Blocks that follow each other, in one extent.

    Attributes:
        number: Its number; no other run of the owner in this tier has it.
        extent: What they are blocks of.
        start: Which of its prefixes the first block ends.
        names: What the engine calls them; the last one is there.
        gaps: How many of the names are of blocks that are not there any more.
    """

    number: int
    extent: Extent
    start: int
    names: array[int]
    gaps: int = 0

    @property
    def end(self) -> int:
        """Behind which of the extent's prefixes the last block is."""
        return self.start + len(self.names)

    def place_of(self, name: int) -> int:
        """Which of the extent's prefixes a block ends."""
        if self.names[-1] == name:
            return self.end - 1
        # An engine may have used the name before, for a block that is gone.
        found = np.flatnonzero(np.frombuffer(self.names, np.uint64) == name)
        return self.start + found.item(-1)


@dataclass(slots=True, eq=False)
class Holding:
    """What an owner has in one tier.

    Attributes:
        names: What it calls its blocks, with the numbers of their runs.
        runs: The runs by number, the oldest first.
        more: By key, how many more names it has for a prefix than one; those with none are not in
            it.
        last: The highest number that a run was given.
    """

    names: BlockNames = field(default_factory=BlockNames)
    runs: dict[int, Run] = field(default_factory=dict[int, Run])
    more: dict[int, int] = field(default_factory=dict[int, int])
    last: int = 0

    def locate(self, name: int) -> tuple[Run, int] | None:
        """The run of a block, and which of the prefixes of its extent it ends."""
        number = self.names.get(name)
        if number is None:
            return None
        run = self.runs[number]
        return run, run.place_of(name)

    def put(
        self, extent: Extent, start: int, names: Sequence[int], words: array[int], after: Run | None
    ) -> bool:
        """Take note of blocks that follow each other, unless a name of them was noted lately.

        Args:
            extent: Of which they are blocks.
            start: Which of its prefixes the first block ends.
            names: What the owner calls them.
            words: The same.
            after: A run that they might follow.
        """
        if after is not None and after.extent is extent and after.end == start:
            if not self.names.add(names, after.number):
                return False
            after.names.extend(words)
            return True
        number = self.last + 1
        if not self.names.add(names, number):
            return False
        self.last = number
        self.runs[number] = Run(number, extent, start, words)
        return True

    def add_another(self, key: int) -> None:
        """There is one more name for a prefix."""
        self.more[key] = self.more.get(key, 0) + 1

    def lose_another(self, key: int) -> bool:
        """One name for a prefix is gone; tells whether it has another one."""
        more = self.more.pop(key, 0)
        if more > 1:
            self.more[key] = more - 1
        return more > 0

    def take(self, names: Sequence[int]) -> Iterator[tuple[Extent, int, int]]:
        """Forget blocks by name: gives the prefixes of extents that they ended."""
        found, numbers = self.names.take(names)
        if not found:
            return
        if numbers.count(numbers[0]) == len(numbers):
            yield from self._take_of(numbers[0], found)
            return
        parts: dict[int, list[int]] = {}
        for number, name in zip(numbers, found, strict=True):
            parts.setdefault(number, []).append(name)
        for number, part in parts.items():
            yield from self._take_of(number, part)

    def entries(self) -> dict[int, int]:
        """Names of all blocks, the oldest run first, with the keys of their prefixes."""
        entries: dict[int, int] = {}
        for number, run in self.runs.items():
            pairs = zip(run.names, run.extent.keys[run.start : run.end], strict=True)
            if run.gaps:
                entries.update(pair for pair in pairs if self.names.lead_to(number, pair[0]))
            else:
                entries.update(pairs)
        return entries

    def stretches(self, run: Run) -> Iterator[tuple[Extent, int, array[int]]]:
        """Blocks of a run that follow each other: where they begin, and their names."""
        if not run.gaps:
            yield run.extent, run.start, run.names
            return
        there = [self.names.lead_to(run.number, name) for name in run.names]
        at = 0
        for held, group in groupby(there):
            count = sum(1 for _ in group)
            if held:
                yield run.extent, run.start + at, run.names[at : at + count]
            at += count

    def _take_of(self, number: int, gone: Sequence[int]) -> Iterator[tuple[Extent, int, int]]:
        run = self.runs[number]
        count = len(gone)
        if not run.gaps and count == len(run.names):
            del self.runs[number]
            yield run.extent, run.start, run.end
            return
        tail = run.names[-count:].tolist()
        if not run.gaps and (tail == gone or tail[::-1] == gone):
            # An engine evicts the end of a sequence first.
            del run.names[-count:]
            yield run.extent, run.end, run.end + count
            return
        places = sorted(map(run.place_of, gone))
        run.gaps += count
        # What is at the end is no gap.
        while run.names and not self.names.lead_to(number, run.names[-1]):
            run.names.pop()
            run.gaps -= 1
        if not run.names:
            del self.runs[number]
        begin = 0
        for at in range(1, len(places) + 1):
            if at == len(places) or places[at] != places[at - 1] + 1:
                yield run.extent, places[begin], places[at - 1] + 1
                begin = at
