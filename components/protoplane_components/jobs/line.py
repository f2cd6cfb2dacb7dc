"""The line that queued jobs stand in: higher priority first, then the order they came in."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator

from protoplane.jobs.v1 import Job
from protoplane_components.jobs.records import nanos, request_of

_Place = tuple[int, int, str]


class Line:
    """Ids of queued jobs in the order in which they are to be worked on.

    Jobs of one priority are in the order of the time they were accepted at, by the clock of the
    process that accepted them; a job that is tried again keeps its place.
    """

    def __init__(self) -> None:
        self._places: list[_Place] = []
        self._of: dict[str, _Place] = {}

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, id_: str) -> bool:
        return id_ in self._of

    def __iter__(self) -> Iterator[str]:
        return (id_ for _, _, id_ in self._places)

    def add(self, job: Job) -> None:
        """Let a job stand in; once more does nothing."""
        if job.id not in self._of:
            place = (-request_of(job).priority, nanos(job.accepted_at), job.id)
            self._of[job.id] = place
            insort(self._places, place)

    def remove(self, id_: str) -> None:
        """Take a job out; where it is not in, it does nothing."""
        place = self._of.pop(id_, None)
        if place is not None:
            del self._places[bisect_left(self._places, place)]

    def position(self, id_: str) -> int:
        """How many stand before a job; 0 where it is not in."""
        place = self._of.get(id_)
        return 0 if place is None else bisect_left(self._places, place)

    def clear(self) -> None:
        """Take all out."""
        self._places.clear()
        self._of.clear()
