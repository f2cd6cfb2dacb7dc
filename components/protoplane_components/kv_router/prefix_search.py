"""How deep owners have a prompt, from looks at a few of its prefixes.

Of the prefixes of a prompt an owner has the short ones up to some depth, so halving finds that
depth. Where owners end changes rarely from one turn of a conversation to the next: a search looks
at the places where the last one found an end before it halves anything. If the same owners are
still on both sides of each end, none can have moved; if not, those looks are the beginning of the
search. So a guess may cost time, and never the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray

from protoplane_components.kv_router.hashing import FAMILY_SHIFT

Owners = dict[int, int]
"""From the key of a prefix to the bits of those who have it."""

Families = dict[int, Owners]
"""Prefixes with the same first block are in one dict, which is small enough for a processor's
cache; those of other prompts stay out of the way."""

Reached = list[tuple[int, int]]
"""Sets of owners, as bits, and the depth that each reached. A set may be empty."""

MAX_GUESSES = 4096
"""Conversations of which a search remembers where owners ended."""

_NOBODY: Owners = {}
# Fewer blocks are halved at once; of more, so many places are looked at first.
_FEW = 64
_PLACES = 16


@dataclass(frozen=True, slots=True)
class _Guess:
    """What a search found.

    Attributes:
        places: Those before and behind each end, in order.
        pick: Takes what is at these places.
        seen: Who had the first prefix, who had the last one, and who those at the places.
        reached: What follows from it, without those that had the whole prompt.
    """

    places: list[int]
    pick: Callable[[memoryview[int]], Iterable[int]]
    seen: tuple[int, int, list[int]]
    reached: Reached


class PrefixSearch:
    """Finds how deep owners have a prompt, and remembers where."""

    def __init__(self) -> None:
        self._guesses: dict[int, _Guess] = {}

    def jump(self, tiers: Sequence[Families], keys: NDArray[np.uint64], alive: int) -> Reached:
        """How deep each owner has a prompt in any of the tiers.

        Args:
            tiers: Who has which prefix, for each tier.
            keys: Keys of the prompt's prefixes.
            alive: Bits of the owners that count.

        Returns:
            Not to be changed: the next search may give it again.
        """
        count = len(keys)
        if not count:
            return []
        first: int = keys.item(0)
        have = _have(tiers, first)
        here = have(first, 0) & alive
        if not here:
            return []
        whole = have(keys.item(count - 1), 0) & here
        if whole == here:
            return [(whole, count)]
        view = keys.data
        # A block far inside, and the same one for the next turns of a conversation.
        inside: int = keys.item(1 << ((count - 1).bit_length() - 1))
        guess = self._guesses.get(inside)
        places: Sequence[int]
        if guess is not None and guess.places[-1] < count:
            places = guess.places
            masks = list(map(have, guess.pick(view), repeat(0)))
            if (here, whole, masks) == guess.seen:
                return [*guess.reached, (whole, count)] if whole else guess.reached
        elif count >= _FEW:
            stride = count // _PLACES
            places = range(stride, count - 1, stride)
            masks = list(map(have, keys[stride : count - 1 : stride].tolist(), repeat(0)))
        else:
            places, masks = (), []
        reached: Reached = []
        begin = 0
        left = here ^ whole
        for place, bits in zip(places, masks, strict=True):
            further = bits & left
            if further != left:
                reached += _halve(have, view, begin, place, left ^ further)
                left = further
                if not left:
                    break
            begin = place
        if left:
            reached += _halve(have, view, begin, count - 1, left)
        if count >= _FEW and 4 * len(reached) <= count:
            ends = sorted({depth for _, depth in reached})
            places = [place for depth in ends for place in (depth - 1, depth)]
            pick = itemgetter(*places)
            seen = (here, whole, list(map(have, pick(view), repeat(0))))
            if len(self._guesses) >= MAX_GUESSES:
                self._guesses.clear()
            self._guesses[inside] = _Guess(places, pick, seen, reached)
        return [*reached, (whole, count)] if whole else reached


def walk(tiers: Sequence[Families], keys: NDArray[np.uint64], alive: int) -> Reached:
    """Like `PrefixSearch.jump`, by a look at every block: for owners that have holes."""
    if not len(keys):
        return []
    have = _have(tiers, keys.item(0))
    reached: Reached = []
    here = alive
    for depth, key in enumerate(keys.tolist()):
        further = have(key, 0) & here
        if further != here:
            if depth:
                reached.append((here ^ further, depth))
            here = further
            if not here:
                return reached
    if here:
        reached.append((here, len(keys)))
    return reached


def _halve(
    have: Callable[[int, int], int], keys: memoryview[int], begin: int, end: int, group: int
) -> Iterator[tuple[int, int]]:
    """The depths of those that have the block at the beginning and lack the one at the end."""
    ranges = [(begin, end, group)]
    while ranges:
        begin, end, group = ranges.pop()
        while end - begin > 1:
            middle = (begin + end) >> 1
            further = have(keys[middle], 0) & group
            if further == group:
                begin = middle
                continue
            if further:
                ranges.append((middle, end, further))
                group ^= further
            end = middle
        yield group, end


def _have(tiers: Sequence[Families], key: int) -> Callable[[int, int], int]:
    """What tells who has a prefix of the family of a key, in any of the tiers."""
    family = key >> FAMILY_SHIFT
    if len(tiers) == 1:
        return tiers[0].get(family, _NOBODY).get
    found = [tier[family] for tier in tiers if family in tier]
    if len(found) == 1:
        return found[0].get

    def have(key: int, default: int) -> int:
        bits = default
        for owners in found:
            bits |= owners.get(key, 0)
        return bits

    return have
