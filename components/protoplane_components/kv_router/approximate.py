"""Which worker holds which prefix, guessed from what was routed: for workers without events."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from protoplane_base import Code, PlaneError
from protoplane_components.kv_router.hashing import Hashes, prefix_keys
from protoplane_components.kv_router.index import KvIndex, Overlap, Target
from protoplane_components.kv_router.levels import Levels, by_target


class ApproximateIndex:
    """The blocks of the prompts that workers were given lately.

    Args:
        ttl_s: How long a block is taken to stay in a cache after it was last used, in seconds.
        max_blocks: Most blocks to remember, of all targets together; those that were used least
            lately are forgotten first.
        clock: Seconds, from any beginning.
    """

    def __init__(
        self,
        *,
        ttl_s: float = 120.0,
        max_blocks: int = 1 << 20,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if ttl_s <= 0 or max_blocks < 1:
            raise PlaneError(
                Code.INVALID_ARGUMENT,
                f"ttl_s is {ttl_s} and max_blocks {max_blocks}; both must be positive",
            )
        self._ttl_s = ttl_s
        self._max_blocks = max_blocks
        self._clock = clock
        self._index = KvIndex()
        self._uses = 0
        # For each target, the number of the last use of each key.
        self._last: dict[Target, dict[int, int]] = {}
        # Each use: its number, when it ends, whose it is, and the keys.
        self._lapses: deque[tuple[int, float, Target, NDArray[np.uint64]]] = deque()

    def routed(self, target: Target, hashes: Hashes) -> None:
        """Take note that a target was given a prompt.

        Args:
            target: Who.
            hashes: Hashes of the prompt's full blocks.
        """
        self.routed_keys(target, prefix_keys(hashes))

    def routed_keys(self, target: Target, keys: NDArray[np.uint64]) -> None:
        """Like `routed`, by keys of the prompt's prefixes."""
        now = self._clock()
        self._lapse(now)
        # One prompt alone may be more than is to be remembered: its beginning is worth most.
        keys = keys[: self._max_blocks]
        numbers: list[int] = keys.tolist()
        self._uses += 1
        self._last.setdefault(target, {}).update(dict.fromkeys(numbers, self._uses))
        self._lapses.append((self._uses, now + self._ttl_s, target, keys))
        self._index.restore(target, keys, keys)
        while self._index.stats().blocks > self._max_blocks:
            self._forget_oldest()

    def find(self, hashes: Hashes) -> dict[Target, Overlap]:
        """How much of a prompt each target should still have, of those that should have some."""
        return by_target(self.levels(prefix_keys(hashes)))

    def levels(self, keys: NDArray[np.uint64]) -> Levels:
        """Like `find`, by keys of the prompt's prefixes, and by how much it is."""
        self._lapse(self._clock())
        return self._index.levels(keys)

    def count(self, target: Target) -> int:
        """How many blocks a target should have."""
        return self._index.count(target)

    def clear(self, target: Target) -> None:
        """Forget a target."""
        self._index.clear(target)
        self._last.pop(target, None)
        # Its uses are not looked at any more, but would keep their keys in memory.
        self._lapses = deque(lapse for lapse in self._lapses if lapse[2] != target)

    def remove_worker(self, worker: str) -> None:
        """Forget all ranks of a worker."""
        for target in [target for target in self._last if target.worker == worker]:
            self.clear(target)

    def __len__(self) -> int:
        """How many blocks it remembers."""
        return self._index.stats().blocks

    def _lapse(self, now: float) -> None:
        while self._lapses and self._lapses[0][1] <= now:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        use, _, target, keys = self._lapses.popleft()
        last = self._last[target]
        gone = [key for key in keys.tolist() if last.get(key) == use]
        for key in gone:
            del last[key]
        # The end of a prompt goes before its beginning.
        self._index.remove(target, gone[::-1])
