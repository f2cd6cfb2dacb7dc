"""All that a process needs to take part in a queue of jobs, opened and closed together."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Self, cast

from protoplane.jobs.v1 import JobProgress, Progress
from protoplane_components.jobs.board import Board
from protoplane_components.jobs.finishing import Finisher
from protoplane_components.jobs.generator import ImageGenerator
from protoplane_components.jobs.keeper import Keeper
from protoplane_components.jobs.planes import JobPlanes
from protoplane_components.jobs.roster import Roster
from protoplane_components.jobs.settings import JobSettings
from protoplane_components.jobs.tasks import Tasks
from protoplane_components.jobs.worker import Worker
from protoplane_runtime.engines.interface import Event, Gap


class JobQueue:
    """This process's part in a queue of jobs; use it with ``async with``.

    Args:
        planes: The planes.
        settings: The queue's.
        generator: What makes images; ``None`` for a process that works on none.
        slots: Jobs that this process works on at a time.
        worker: Name of its worker; made up where absent.
    """

    def __init__(
        self,
        planes: JobPlanes,
        settings: JobSettings,
        generator: ImageGenerator | None = None,
        *,
        slots: int = 1,
        worker: str | None = None,
    ) -> None:
        self.planes = planes
        self.settings = settings
        self.board = Board(planes.state, settings)
        self.roster = Roster(planes.discovery, settings)
        self.finisher = Finisher(self.board, planes.events, settings)
        self.progress: dict[str, Progress] = {}
        self._keeper = Keeper(self.board, self.roster, self.finisher, settings)
        self._worker = (
            Worker(generator, planes, self.board, self.finisher, settings, slots=slots, name=worker)
            if generator is not None and slots > 0
            else None
        )
        self._tasks = Tasks()

    async def __aenter__(self) -> Self:
        try:
            self._tasks.keep(self.board.run, "the mirror of the jobs")
            self._tasks.keep(self.roster.run, "the roster of workers")
            await self.board.ready()
            self._tasks.keep(self._keeper.run, "the keeper of the jobs")
            self._tasks.keep(self._track, "the progress of the jobs")
            if self._worker is not None:
                self._tasks.keep(self._worker.run, f"the worker {self._worker.name}")
        except BaseException:
            await self._tasks.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._tasks.close()

    def left_s(self) -> float:
        """Seconds of work that is left of the jobs that are running, as far as is known."""
        total = 0.0
        for id_ in self.board.running:
            progress = self.progress.get(id_)
            if progress is not None and progress.seconds_left is not None:
                total += progress.seconds_left
            else:
                request = self.board.job(id_).request
                total += (request and self.board.estimates.duration_s(request)) or 0.0
        return total

    async def _track(self) -> None:
        """Keep the newest progress of each job that is running."""
        self.progress.clear()
        events = self.planes.events.read(["jobs/*/progress"], latest=True)
        async with aclosing(cast("AsyncGenerator[Sequence[Event | Gap]]", events)) as batches:
            async for batch in batches:
                for event in batch:
                    if not isinstance(event, Event):
                        continue
                    told = JobProgress.from_bytes(event.data)
                    if told.progress is not None:
                        self.progress[told.job_id] = told.progress
                for id_ in [*self.progress]:
                    if id_ not in self.board.running:
                        del self.progress[id_]
