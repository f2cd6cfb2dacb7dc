"""Looks after many streams with one timer, for a timer of its own is dear to each of them."""

from __future__ import annotations

import asyncio
from typing import Protocol

_TURNS = 8
"""Parts of a round: who joined at one time is not looked after all at once."""


class Watched(Protocol):
    """What is looked after."""

    def look(self) -> None:
        """See what is to be done; called once in a round."""
        ...


class Round:
    """Visits all who joined, each once in a while, the first time within it.

    Args:
        every_s: Seconds that a round takes.
    """

    def __init__(self, every_s: float) -> None:
        self._pause_s = every_s / _TURNS
        self._turns: tuple[set[Watched], ...] = tuple(set() for _ in range(_TURNS))
        self._turn = 0
        self._next = 0
        self._count = 0
        self._timer: asyncio.TimerHandle | None = None

    def join(self, watched: Watched) -> int:
        """Look after somebody from now on; gives the turn, for `leave`."""
        self._next = turn = (self._next + 1) % _TURNS
        self._turns[turn].add(watched)
        self._count += 1
        if self._timer is None:
            self._arm()
        return turn

    def leave(self, watched: Watched, turn: int) -> None:
        """Look after somebody no more; without anybody there is no timer."""
        self._turns[turn].remove(watched)
        self._count -= 1
        if not self._count and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._pause_s, self._visit)

    def _visit(self) -> None:
        self._arm()
        self._turn = (self._turn + 1) % _TURNS
        for watched in tuple(self._turns[self._turn]):
            watched.look()


class Rounds:
    """The rounds of one door, by how long they take."""

    def __init__(self) -> None:
        self._rounds: dict[float, Round] = {}

    def every(self, seconds: float) -> Round:
        """The round that takes so long."""
        found = self._rounds.get(seconds)
        if found is None:
            found = self._rounds[seconds] = Round(seconds)
        return found
