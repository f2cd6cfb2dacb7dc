"""Which of several instances takes the next call.

A picker chooses among those that can take one; `BalancedChannel` leaves out the others before. A
call that names its instance needs no picker, and one with a sticky key is given to `Sticky`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from hashlib import blake2b
from typing import Protocol, TypeVar


class Candidate(Protocol):
    """What a picker knows of a route."""

    @property
    def name(self) -> str:
        """The instance that it leads to."""
        ...

    @property
    def outstanding(self) -> int:
        """Calls that are open on it."""
        ...


_C = TypeVar("_C", bound=Candidate)


class Picker(Protocol):
    """Chooses who takes a call."""

    def pick(self, candidates: Sequence[_C]) -> _C:
        """One of the candidates, of which there is at least one."""
        ...


class RoundRobin:
    """One after the other."""

    __slots__ = ("_next",)

    def __init__(self) -> None:
        self._next = 0

    def pick(self, candidates: Sequence[_C]) -> _C:
        """The one whose turn it is."""
        turn = self._next % len(candidates)
        self._next = turn + 1
        return candidates[turn]


class LeastOutstanding:
    """Whoever has the fewest open calls; among equals, one after the other."""

    __slots__ = ("_next",)

    def __init__(self) -> None:
        self._next = 0

    def pick(self, candidates: Sequence[_C]) -> _C:
        """The one with the fewest open calls."""
        count = len(candidates)
        first = self._next % count
        chosen = min(range(first, first + count), key=lambda at: candidates[at % count].outstanding)
        self._next = chosen % count + 1
        return candidates[chosen % count]


class PowerOfTwoChoices:
    """Of two that chance names, the one with fewer open calls.

    Nearly as even as looking at all, at a cost that does not grow with their number, and many
    clients do not all run to the same one.

    Source: Mitzenmacher, The Power of Two Choices in Randomized Load Balancing (2001).
    """

    __slots__ = ()

    def pick(self, candidates: Sequence[_C]) -> _C:
        """The less busy of two."""
        count = len(candidates)
        if count == 1:
            return candidates[0]
        one = int(random.random() * count)  # noqa: S311 - spreads load, hides nothing
        two = int(random.random() * (count - 1))  # noqa: S311
        first, second = candidates[one], candidates[two + (two >= one)]
        return first if first.outstanding <= second.outstanding else second


class Sticky:
    """The same one for the same key, in every process, for as long as it is there.

    By rendezvous hashing: when an instance leaves, only its own keys move, evenly to the others;
    when one comes, it takes its share and nothing else moves.

    Source: Thaler and Ravishankar, Using Name-Based Mappings to Increase Hit Rates (1998).

    Args:
        key: What keeps together, for example a session.
    """

    __slots__ = ("_key",)

    def __init__(self, key: str) -> None:
        self._key = blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).digest()

    def pick(self, candidates: Sequence[_C]) -> _C:
        """The one that the key belongs to."""
        return max(candidates, key=self._weight)

    def _weight(self, candidate: Candidate) -> bytes:
        name = candidate.name.encode("utf-8", "surrogatepass")
        return blake2b(name, key=self._key, digest_size=8).digest()
