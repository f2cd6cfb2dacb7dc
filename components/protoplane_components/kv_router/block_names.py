"""What an engine calls its blocks: its hashes, with the keys of the prefixes they stand for.

They are in several dicts, in the order in which they came. What is new goes into the last one,
which is small enough for a processor's cache; one dict for all would cost a slow look into memory
for each block. An engine removes old blocks sooner than new ones, and puts new ones behind new
ones, so a look at one or two of the dicts mostly does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, repeat

# As many as CPython's dict of 4,096 slots takes before it grows.
_PART = 2730
_PARTS = 16


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
        """The key that a name stands for."""
        for part in reversed(self._parts):
            key = part.get(name)
            if key is not None:
                return key
        return None

    def add(self, names: Sequence[int], keys: Sequence[int]) -> bool:
        """Take note of names; where one of them was noted lately, it does nothing and says no."""
        newest = self._newest(len(keys))
        before = len(newest)
        # It leaves what is there, so that what it added is at the end.
        deque(map(newest.setdefault, names, keys), maxlen=0)
        new = len(newest) - before
        if new != len(keys):
            for _ in range(new):
                newest.popitem()
            return False
        self._count += new
        return True

    def put(self, name: int, key: int) -> None:
        """Take note of a name that is not there."""
        self._newest(1)[name] = key
        self._count += 1

    def take(self, names: Iterable[int]) -> list[int]:
        """Forget names, and give the keys of those that were there."""
        left = list(names)
        keys: list[int] = []
        for part in self._parts:
            if part.keys().isdisjoint(left):
                continue
            popped = list(map(part.pop, left, repeat(None)))
            keys += [key for key in popped if key is not None]
            left = [name for name, key in zip(left, popped, strict=True) if key is None]
            if not left:
                break
        self._count -= len(keys)
        if keys and len(self._parts) > 1:
            self._tidy()
        return keys

    def __iter__(self) -> Iterator[int]:
        """Names, the oldest first."""
        return chain.from_iterable(self._parts)

    def entries(self) -> Mapping[int, int]:
        """All names with their keys, the oldest first; it may change with the next event."""
        if len(self._parts) == 1:
            return self._parts[0]
        together: dict[int, int] = {}
        for part in self._parts:
            together.update(part)
        return together

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
