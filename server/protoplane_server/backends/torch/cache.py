"""The blocks of the KV cache: whose each is, which can be found, which has to go.

Nothing here touches tensors; a block is its number. A block that is full has a name, the hash of
its tokens and all before them, and can be found by whoever has the same prompt. When its last user
leaves it stays until its place is needed: the one left longest ago goes first, and of one text the
last first, so that what is left of a prompt is always its beginning.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class NamedBlock:
    """What a full block holds.

    Attributes:
        hash: Its block hash.
        tokens_hash: Hash of its tokens alone.
        parent: Block hash of the block before it; ``None`` where it begins a prompt.
        position: How many blocks come before it.
        tokens: Its tokens. Anyone can make two prompts of one hash, and may not read by that what
            is another's.
    """

    hash: int
    tokens_hash: int
    parent: int | None
    position: int
    tokens: tuple[int, ...]


class CacheObserver(Protocol):
    """Who wants to know which blocks can be found."""

    def stored(self, block: NamedBlock) -> None:
        """A block can be found from now on."""
        ...

    def removed(self, block_hash: int) -> None:
        """A block is gone."""
        ...

    def cleared(self) -> None:
        """All blocks are gone."""
        ...


class BlockPool:
    """The blocks of one cache.

    Args:
        blocks: How many there are.
        observer: Who wants to know which can be found.
    """

    def __init__(self, blocks: int, observer: CacheObserver | None = None) -> None:
        self.blocks = blocks
        self._observer = observer
        self._empty = list(range(blocks - 1, -1, -1))
        self._users = [0] * blocks
        self._named: dict[int, NamedBlock] = {}
        self._by_hash: dict[int, int] = {}
        # Named blocks that nobody uses; the first has to go first.
        self._idle: OrderedDict[int, None] = OrderedDict()

    def __iter__(self) -> Iterator[NamedBlock]:
        """The blocks that can be found, each after the one before it in its prompt."""
        return iter(sorted(self._named.values(), key=lambda block: block.position))

    @property
    def free(self) -> int:
        """How many blocks can be taken."""
        return len(self._empty) + len(self._idle)

    @property
    def held(self) -> int:
        """How many blocks are in use."""
        return self.blocks - self.free

    def find(self, prefix: Sequence[NamedBlock]) -> list[int]:
        """Use the blocks of a prompt's beginning, as many as there are; see `release`."""
        found: list[int] = []
        for wanted in prefix:
            block = self._by_hash.get(wanted.hash)
            if block is None or self._named[block] != wanted:
                break
            found.append(block)
        for block in found:
            self._users[block] += 1
            self._idle.pop(block, None)
        return found

    def take(self, count: int) -> list[int] | None:
        """Use so many blocks without a name; ``None``, and nothing changes, where too few are free.

        Those that nobody uses go for it, the one left longest ago first.
        """
        if count > self.free:
            return None
        taken: list[int] = []
        for _ in range(count):
            if self._empty:
                block = self._empty.pop()
            else:
                block, _ = self._idle.popitem(last=False)
                self._forget(block)
            self._users[block] = 1
            taken.append(block)
        return taken

    def name(self, block: int, named: NamedBlock) -> None:
        """A block is full, and can be found; one that another already has keeps no name."""
        if named.hash not in self._by_hash:
            self._by_hash[named.hash] = block
            self._named[block] = named
            if self._observer is not None:
                self._observer.stored(named)

    def release(self, blocks: Sequence[int]) -> None:
        """Use the blocks of a text no more; they are in the order of the text."""
        for block in reversed(blocks):
            self._users[block] -= 1
            if self._users[block]:
                continue
            if block in self._named:
                self._idle[block] = None
            else:
                self._empty.append(block)

    def clear(self) -> None:
        """Forget all names; what is in use stays so."""
        self._empty += self._idle
        self._idle.clear()
        self._named.clear()
        self._by_hash.clear()
        if self._observer is not None:
            self._observer.cleared()

    def _forget(self, block: int) -> None:
        gone = self._named.pop(block)
        del self._by_hash[gone.hash]
        if self._observer is not None:
            self._observer.removed(gone.hash)
