"""All jobs of a queue, as this process knows them: a mirror of the records in the state plane."""

from __future__ import annotations

import asyncio
from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Generator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass

from protoplane.jobs.v1 import Job
from protoplane_base import Code, PlaneError
from protoplane_components.jobs.estimates import Estimates
from protoplane_components.jobs.history import Place, place_of
from protoplane_components.jobs.line import Line
from protoplane_components.jobs.records import (
    QUEUED,
    RUNNING,
    SUCCEEDED,
    is_finished,
    nanos,
)
from protoplane_components.jobs.settings import JobSettings
from protoplane_runtime.engines.state import Deleted, Entry, Snapshot, StateStore


@dataclass(frozen=True, slots=True)
class Record:
    """A job and the revision of the state plane that it was read at."""

    job: Job
    revision: int


class Board:
    """Mirrors the records of a queue, and changes them by compare-and-set.

    What this process changes it sees at once, what others change as soon as the state plane tells
    it. `run` follows the state plane, and has an owner.

    Attributes:
        line: The jobs that are queued.
        running: The jobs that are being worked on, by id.
        unannounced: The jobs that are finished and not yet published as such, by id.
        finished: How many are finished.
        estimates: What was learned from those that are done.
    """

    def __init__(self, state: StateStore, settings: JobSettings) -> None:
        self._state = state
        self._settings = settings
        self._records: dict[str, Record] = {}
        self._places: list[Place] = []
        self.line = Line()
        self.running: dict[str, Record] = {}
        self.unannounced: dict[str, Record] = {}
        self.finished = 0
        self.estimates = Estimates()
        self._known = asyncio.Event()
        self._turn: asyncio.Future[None] | None = None
        self._followers: defaultdict[str, set[asyncio.Event]] = defaultdict(set)

    @property
    def places(self) -> Sequence[Place]:
        """Where all jobs are in the history, the oldest first."""
        return self._places

    def get(self, id_: str) -> Record | None:
        """A job, as far as this process knows."""
        return self._records.get(id_)

    def job(self, id_: str) -> Job:
        """A job that is known."""
        return self._records[id_].job

    def queued(self) -> Iterator[Record]:
        """The queued jobs, the next first."""
        return (self._records[id_] for id_ in self.line)

    async def ready(self) -> None:
        """Wait until the records were read once."""
        await self._known.wait()

    async def run(self) -> None:
        """Follow the state plane until cancelled, or until it is closed."""
        async with aclosing(self._state.watch(f"{self._settings.records}/*")) as changes:
            async for change in changes:
                match change:
                    case Snapshot():
                        self._restart(change)
                        self._known.set()
                    case Entry():
                        self._apply(Record(Job.from_bytes(change.value), change.revision))
                    case Deleted():
                        self._forget(change.key.rpartition("/")[2], change.revision)
                self._tell()

    async def put(self, job: Job, expected: int, *, ttl_s: float | None = None) -> Record:
        """Write a record, if it is still at a revision; 0 for a new job.

        Returns only once the state plane has it. Cancelling may leave it written.

        Raises:
            PlaneError: ABORTED where it is at another revision, which is known from then on; and
                what the state plane raises.
        """
        try:
            revision = await self._state.put(
                self._key(job.id), job.to_bytes(), expected=expected, ttl_s=ttl_s
            )
        except PlaneError as error:
            if error.code is Code.ABORTED:
                await self.refresh(job.id)
            raise
        record = Record(job, revision)
        self._apply(record)
        self._tell()
        return record

    async def refresh(self, id_: str) -> Record | None:
        """Read a record anew.

        Raises:
            PlaneError: UNAVAILABLE where the engine is away.
        """
        entry = await self._state.get(self._key(id_))
        if entry is not None:
            self._apply(Record(Job.from_bytes(entry.value), entry.revision))
        elif (known := self._records.get(id_)) is not None:
            self._forget(id_, known.revision)
        self._tell()
        return self._records.get(id_)

    async def delete(self, record: Record) -> None:
        """Delete a record, if it is still as it was read.

        Raises:
            PlaneError: As `put`.
        """
        await self._state.delete(self._key(record.job.id), expected=record.revision)

    async def changed(self, timeout_s: float | None = None) -> None:
        """Wait for the next change of any job, or until the time is over."""
        if self._turn is None:
            self._turn = asyncio.get_running_loop().create_future()
        await asyncio.wait([self._turn], timeout=timeout_s)

    @contextmanager
    def following(self, id_: str) -> Generator[asyncio.Event]:
        """An event that is set at each change of a job; who waits for it clears it."""
        event = asyncio.Event()
        self._followers[id_].add(event)
        try:
            yield event
        finally:
            self._followers[id_].discard(event)
            if not self._followers[id_]:
                del self._followers[id_]

    def _key(self, id_: str) -> str:
        return f"{self._settings.records}/{id_}"

    def _tell(self) -> None:
        if self._turn is not None:
            self._turn.set_result(None)
            self._turn = None

    def _restart(self, snapshot: Snapshot) -> None:
        records = [
            Record(Job.from_bytes(entry.value), entry.revision) for entry in snapshot.entries
        ]
        there = {record.job.id for record in records}
        for id_ in [*self._records]:
            if id_ not in there:
                self._forget(id_, snapshot.revision)
        # In the order in which they were finished, which is the one to learn in.
        for record in sorted(records, key=lambda record: nanos(record.job.finished_at)):
            self._apply(record)

    def _apply(self, record: Record) -> None:
        job, known = record.job, self._records.get(record.job.id)
        if known is None:
            insort(self._places, place_of(job))
        elif known.revision >= record.revision:
            return
        self._records[job.id] = record
        if job.state == QUEUED:
            self.line.add(job)
        else:
            self.line.remove(job.id)
        if job.state == RUNNING:
            self.running[job.id] = record
        else:
            self.running.pop(job.id, None)
        if is_finished(job):
            if known is None or not is_finished(known.job):
                self.finished += 1
                if job.state == SUCCEEDED:
                    self.estimates.learn(job)
            if job.announced:
                self.unannounced.pop(job.id, None)
            else:
                self.unannounced[job.id] = record
        for follower in self._followers.get(job.id, ()):
            follower.set()

    def _forget(self, id_: str, revision: int) -> None:
        known = self._records.get(id_)
        if known is None or known.revision > revision:
            return
        del self._records[id_]
        place = place_of(known.job)
        del self._places[bisect_left(self._places, place)]
        self.line.remove(id_)
        self.running.pop(id_, None)
        self.unannounced.pop(id_, None)
        self.finished -= is_finished(known.job)
        for follower in self._followers.get(id_, ()):
            follower.set()
