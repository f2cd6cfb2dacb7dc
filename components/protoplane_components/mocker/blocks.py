"""The blocks of an engine's KV cache: who holds them, which are kept, which have to go."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Protocol


class CacheObserver(Protocol):
    """Who wants to know what a cache holds; blocks by their sequence hashes."""

    def stored(self, parent: int | None, hashes: Sequence[int]) -> None:
        """Blocks can be found from now on.

        Args:
            parent: Hash of the block before them; ``None`` at the start of a prompt.
            hashes: The blocks, each following the one before it.
        """
        ...

    def removed(self, hashes: Sequence[int]) -> None:
        """Blocks are gone."""
        ...

    def cleared(self) -> None:
        """All blocks are gone."""
        ...


class Unobserved:
    """Nobody wants to know."""

    def stored(self, parent: int | None, hashes: Sequence[int]) -> None:
        """See `CacheObserver.stored`."""

    def removed(self, hashes: Sequence[int]) -> None:
        """See `CacheObserver.removed`."""

    def cleared(self) -> None:
        """See `CacheObserver.cleared`."""


class BlockPool:
    """A cache of blocks of equal size, as paged attention has it.

    A block is private while its request fills it. Once it is full it has a hash and can be found;
    requests that have it in common share it. When its last holder leaves it stays, until its place
    is needed: the block that was left longest ago goes first, and of one request the last block
    first, so that a prefix loses its end and not its beginning.

    Args:
        capacity: How many blocks there are.
        observer: Who wants to know what can be found.
    """

    def __init__(self, capacity: int, observer: CacheObserver | None = None) -> None:
        self._capacity = capacity
        self._observer: CacheObserver = observer or Unobserved()
        self._holders: dict[int, int] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()
        self._private = 0

    @property
    def capacity(self) -> int:
        """How many blocks there are."""
        return self._capacity

    @property
    def held(self) -> int:
        """Blocks that requests hold, shared ones counted once."""
        return len(self._holders) + self._private

    @property
    def available(self) -> int:
        """Blocks that could be taken, if need be from those that are only kept."""
        return self._capacity - self.held

    def cached(self) -> frozenset[int]:
        """All blocks that can be found."""
        return frozenset(self._holders) | frozenset(self._idle)

    def prefix(self, hashes: Sequence[int]) -> int:
        """How many blocks from the beginning can be found."""
        holders, idle = self._holders, self._idle
        for depth, block in enumerate(hashes):
            if block not in holders and block not in idle:
                return depth
        return len(hashes)

    def fits(self, found: Sequence[int], new: int) -> bool:
        """Whether these blocks could be held and as many new ones taken."""
        kept = sum(1 for block in found if block in self._idle)
        return kept + new <= self.available

    def hold(self, hashes: Sequence[int]) -> None:
        """Hold blocks that can be found."""
        holders = self._holders
        for block in hashes:
            count = holders.get(block)
            if count is None:
                del self._idle[block]
                holders[block] = 1
            else:
                holders[block] = count + 1

    def take(self, count: int) -> None:
        """Take new blocks, which must be `available`; where none is free, kept ones go."""
        self._private += count
        over = self.held + len(self._idle) - self._capacity
        if over > 0:
            idle = self._idle
            self._observer.removed([idle.popitem(last=False)[0] for _ in range(over)])

    def fill(self, parent: int | None, hashes: Sequence[int]) -> None:
        """Private blocks are full: let them be found.

        One that somebody else filled meanwhile is held in its stead, and its own given back.
        """
        holders, idle = self._holders, self._idle
        self._private -= len(hashes)
        new: list[int] = []
        before = parent
        for block in hashes:
            count = holders.get(block)
            if count is not None or block in idle:
                if new:
                    self._observer.stored(parent, new)
                    new = []
                idle.pop(block, None)
                holders[block] = (count or 0) + 1
                before = parent = block
                continue
            if not new:
                parent = before
            holders[block] = 1
            new.append(block)
            before = block
        if new:
            self._observer.stored(parent, new)

    def leave(self, hashes: Sequence[int], private: int) -> None:
        """Give up what a request holds; blocks that can be found are kept."""
        self._private -= private
        holders, idle = self._holders, self._idle
        for block in reversed(hashes):
            count = holders[block] - 1
            if count:
                holders[block] = count
            else:
                del holders[block]
                idle[block] = None

    def clear(self) -> None:
        """Forget all blocks that nobody holds."""
        if not self._holders:
            self._idle.clear()
            self._observer.cleared()
        elif self._idle:
            gone = list(self._idle)
            self._idle.clear()
            self._observer.removed(gone)
