"""What caches are about to hold: the blocks of prompts that workers were given and still compute.

Events tell what a cache holds now. Under load a prompt waits for seconds before it is computed, and
the next turn of its conversation may come meanwhile: an index of what is there would send it
elsewhere.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

from protoplane_components.kv_router.index import Overlap, Target
from protoplane_components.kv_router.levels import Group, Levels


@dataclass(frozen=True, slots=True, eq=False)
class _Prompt:
    target: Target
    keys: list[int]


class PromisedBlocks:
    """The prompts that are under way, by the reservations that brought them there."""

    def __init__(self) -> None:
        # What has the key of a prefix: mostly one prompt; else how many of each target. Who has one
        # has all shorter prefixes too.
        self._having: dict[int, _Prompt | dict[Target, int]] = {}
        self._prompts: dict[str, _Prompt] = {}

    def __len__(self) -> int:
        """How many prompts are under way."""
        return len(self._prompts)

    def promise(self, id: str, target: Target, keys: NDArray[np.uint64]) -> None:  # noqa: A002  # what it is called everywhere else
        """Take note that a target was given a prompt.

        Args:
            id: Name of the reservation; what it promised before is settled.
            target: Who.
            keys: Keys of the prompt's prefixes.
        """
        self.settle(id)
        numbers: list[int] = keys.tolist()
        if not numbers:
            return
        prompt = self._prompts[id] = _Prompt(target, numbers)
        everyone = self._having
        # One pass adds what is new, and finds what others have as well: the beginning.
        for key, having in zip(
            numbers, map(everyone.setdefault, numbers, repeat(prompt)), strict=True
        ):
            if having is prompt:
                continue
            if isinstance(having, _Prompt):
                shared = everyone[key] = {having.target: 1}
            else:
                shared = having
            shared[target] = shared.get(target, 0) + 1

    def settle(self, id: str) -> None:  # noqa: A002
        """A prompt is computed, so that events tell of it, or will not be; twice does no more."""
        prompt = self._prompts.pop(id, None)
        if prompt is None:
            return
        everyone, target = self._having, prompt.target
        for key in prompt.keys:
            having = everyone[key]
            if isinstance(having, _Prompt):
                del everyone[key]
                continue
            if having[target] > 1:
                having[target] -= 1
                continue
            del having[target]
            if not having:
                del everyone[key]

    def remove_worker(self, worker: str) -> None:
        """Forget all ranks of a worker."""
        for name, prompt in [*self._prompts.items()]:
            if prompt.target.worker == worker:
                self.settle(name)

    def joined(self, found: Levels, keys: NDArray[np.uint64]) -> Levels:
        """What each target has of a prompt, or will have by the time that it gets to it.

        What is promised counts as in device memory.

        Args:
            found: What each has now.
            keys: Keys of the prompt's prefixes.
        """
        promised = self._depths(keys) if self._prompts else None
        if not promised:
            return found
        better: dict[Overlap, set[Target]] = {}
        for depth, targets in promised:
            rest = targets
            for has, group in reversed(found):
                left = rest.difference(group.targets)
                if len(left) < len(rest):
                    if depth > has.device:
                        fast = max(depth, has.device + has.host)
                        overlap = Overlap(depth, fast - depth, max(has.blocks, fast) - fast)
                        better.setdefault(overlap, set()).update(rest - left)
                    if not left:
                        break
                    rest = left
            else:
                better.setdefault(Overlap(depth), set()).update(rest)
        return [*found, *((overlap, Group(those)) for overlap, those in better.items())]

    def _depths(self, keys: NDArray[np.uint64]) -> list[tuple[int, set[Target]]]:
        """How many blocks of a prompt targets were promised."""
        view, last = keys.data, len(keys)
        having = self._having.get

        def among(place: int) -> Collection[Target]:
            found = having(view[place]) if place < last else None
            if found is None:
                return ()
            return (found.target,) if isinstance(found, _Prompt) else found

        depths: list[tuple[int, set[Target]]] = []
        # Who has a block has all before it, so where as many have two blocks, they are the same,
        # and have all between. Where they are not, halving finds the place.
        first = among(0)
        ranges = [(0, first, last, among(last))] if first else []
        while ranges:
            begin, those, end, others = ranges.pop()
            if end - begin > 1:
                middle = (begin + end) >> 1
                between = among(middle)
                if len(between) > len(others):
                    ranges.append((middle, between, end, others))
                if len(between) < len(those):
                    ranges.append((begin, those, middle, between))
            else:
                depths.append((end, set(those).difference(others)))
        return depths
