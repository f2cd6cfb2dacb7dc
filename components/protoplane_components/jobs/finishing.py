"""Ends jobs: the record first, by compare-and-set, so once; then the event that says so."""

from __future__ import annotations

import logging

from protoplane.jobs.v1 import Job, JobFinished
from protoplane_base import Code, PlaneError
from protoplane_components.jobs.board import Board, Record
from protoplane_components.jobs.records import announced, nanos, outcome
from protoplane_components.jobs.settings import JobSettings
from protoplane_runtime.engines.interface import EventLog, Publication

_log = logging.getLogger("protoplane.jobs")


class Finisher:
    """Ends jobs and tells all of it.

    Whoever writes the record first ends the job, and nobody else can. A process that dies between
    the record and the event leaves the record marked as unannounced, and the keeper of another one
    publishes the event; a publication's number keeps it from being in the log twice.

    Args:
        board: The records.
        events: Where to publish.
        settings: How long the record is kept.
    """

    def __init__(self, board: Board, events: EventLog, settings: JobSettings) -> None:
        self._board = board
        self._events = events
        self._settings = settings

    async def finish(self, before: Record, after: Job) -> bool:
        """Put an end to a job.

        Args:
            before: How it was.
            after: How it is finished.

        Returns:
            Whether it was still as it was before; if not, nothing is done.

        Raises:
            PlaneError: UNAVAILABLE where the engine is away, which may leave it done.
        """
        try:
            record = await self._board.put(after, before.revision)
        except PlaneError as error:
            if error.code is Code.ABORTED:
                return False
            raise
        try:
            await self.announce(record)
        except PlaneError as error:
            _log.warning("the end of job %s is told later: %s", after.id, error.message)
        return True

    async def announce(self, record: Record) -> None:
        """Publish that a job is finished, and mark its record, which goes by itself from then on.

        Raises:
            PlaneError: What the planes raise; the record stays unmarked, or somebody else marked
                it.
        """
        event = outcome(record.job)
        await self._events.publish(
            f"jobs/{record.job.id}/finished",
            JobFinished.__pb__.DESCRIPTOR.full_name,
            event.to_bytes(),
            event.model_dump_json(),
            durable=True,
            publication=Publication(
                f"{self._settings.queue}/{record.job.id}", nanos(record.job.finished_at)
            ),
        )
        await self._board.put(announced(record.job), record.revision, ttl_s=self._settings.keep_s)
