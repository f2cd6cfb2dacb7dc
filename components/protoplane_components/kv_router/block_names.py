"""What an engine calls its blocks: its hashes, with the number of the run that each is in.

They are in several dicts, in the order in which they came. What is new goes into the last one,
which is small enough for a processor's cache; one dict for all would cost a slow look into memory
for each block. An engine removes old blocks sooner than new ones, and puts new ones behind new
ones, so a look at one or two of the dicts mostly does. Blocks of a run share the number, so that
an entry costs no object but the name.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from itertools import compress, repeat

# As many as CPython's dict of 1,024 slots takes before it grows.
_PART = 682
_PARTS = 32


class BlockNames:
    """Names of the blocks that one owner has in one tier."""

    __slots__ = ("_count", "_limit", "_parts")

    def __init__(self) -> None:
        self._parts: list[dict[int, int]] = [{}]
        self._count = 0
        self._limit = _PART

    def __len__(self) -> int:
        return self._count

    def get(self, name: int) -> int | None:
        """The number of the run that a block is in."""
        for part in reversed(self._parts):
            run = part.get(name)
            if run is not None:
                return run
        return None

    def lead_to(self, run: int, name: int) -> bool:
        """Whether a name is one of a run, even if the owner gave it to another block since."""
        return any(part.get(name) == run for part in self._parts)

    def all_new(self, names: Sequence[int]) -> bool:
        """Whether names differ, and none of them was noted lately."""
        different = set(names)
        return len(different) == len(names) and self._parts[-1].keys().isdisjoint(different)

    def add(self, names: Sequence[int], run: int) -> bool:
        """Take note of names; where one of them was noted lately, it does nothing and says no."""
        newest = self._newest(len(names))
        before = len(newest)
        # It leaves what is there, so that what it added is at the end.
        deque(map(newest.setdefault, names, repeat(run)), maxlen=0)
        new = len(newest) - before
        if new != len(names):
            for _ in range(new):
                newest.popitem()
            return False
        self._count += new
        return True

    def take(self, names: Iterable[int]) -> tuple[Sequence[int], Sequence[int]]:
        """Forget names, and give those that were there, with their runs."""
        # Mostly all are in one part, so that of the first one is the one to look at.
        left: list[int] = [*names]
        found: list[int] = []
        runs: list[int] = []
        sparse = False
        while left:
            part = next((part for part in self._parts if left[-1] in part), None)
            if part is None:
                left.pop()
                continue
            popped = list(map(part.pop, left, repeat(None)))
            sparse |= 4 * len(part) < self._limit
            if None not in popped:
                found += left
                # All of them are there.
                runs += popped  # type: ignore[arg-type]
                break
            there = [run is not None for run in popped]
            found += compress(left, there)
            runs += [run for run in popped if run is not None]
            left = [name for name, known in zip(left, there, strict=True) if not known]
        self._count -= len(found)
        if sparse and len(self._parts) > 1:
            self._tidy()
        return found, runs

    def _newest(self, room: int) -> dict[int, int]:
        newest = self._parts[-1]
        if newest and len(newest) + room > self._limit:
            self._parts.append({})
            newest = self._parts[-1]
            if self._count > _PARTS * self._limit:
                self._limit *= 2
        return newest

    def _tidy(self) -> None:
        """Join parts of which little is left."""
        *old, newest = self._parts
        kept: list[dict[int, int]] = []
        for part in old:
            if not part:
                continue
            if (
                kept
                and 2 * (len(kept[-1]) + len(part)) <= self._limit
                and part.keys().isdisjoint(kept[-1])
            ):
                kept[-1].update(part)
            else:
                kept.append(part)
        self._parts = [*kept, newest]
