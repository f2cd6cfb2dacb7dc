"""Many engines on one virtual clock."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from protoplane_components.mocker.engine import MockEngine, MockRequest, Written

_NEVER = float("inf")


@dataclass(frozen=True, slots=True)
class Happened:
    """What an engine has done.

    Attributes:
        worker: Which engine.
        written: What was written.
    """

    worker: int
    written: Written


class Fleet:
    """Engines that share a virtual clock: time passes only in `advance`, and as fast as it can.

    Only engines for which something ends are looked at, so hundreds of them cost little more than
    one. What happens does not depend on the machine: the same requests give the same times.

    Args:
        engines: The engines; a worker is named by its place among them.
    """

    def __init__(self, engines: Sequence[MockEngine]) -> None:
        self._engines = engines
        self._ends: list[tuple[float, int]] = []
        self.now_s = 0.0

    @property
    def engines(self) -> Sequence[MockEngine]:
        """The engines."""
        return self._engines

    def submit(self, worker: int, request: MockRequest) -> list[Happened]:
        """Give an engine a request, now.

        Returns:
            What the engine had written by now, and nobody was told yet.
        """
        engine = self._engines[worker]
        happened = self._moved(worker)
        engine.submit(request, self.now_s)
        self._expect(worker)
        return happened

    def next_s(self) -> float:
        """When something happens next; infinite when all engines idle."""
        ends, engines = self._ends, self._engines
        while ends:
            end_s, worker = ends[0]
            # A request that came meanwhile has changed when its step ends.
            if engines[worker].next_s == end_s:
                return end_s
            heapq.heappop(ends)
        return _NEVER

    def advance(self, until_s: float = _NEVER) -> list[Happened]:
        """Go to a time; by default until all engines idle.

        Returns:
            What happened on the way, in the order of time.
        """
        happened: list[Happened] = []
        while (end_s := self.next_s()) <= until_s:
            if end_s == _NEVER:
                return happened
            _, worker = heapq.heappop(self._ends)
            self.now_s = max(self.now_s, end_s)
            happened += self._moved(worker)
            self._expect(worker)
        self.now_s = max(self.now_s, until_s)
        return happened

    def _moved(self, worker: int) -> list[Happened]:
        return [Happened(worker, each) for each in self._engines[worker].advance(self.now_s)]

    def _expect(self, worker: int) -> None:
        end_s = self._engines[worker].next_s
        if end_s != _NEVER:
            heapq.heappush(self._ends, (end_s, worker))
