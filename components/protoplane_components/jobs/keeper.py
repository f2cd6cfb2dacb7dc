"""Looks after jobs whose worker or whose front has died; one in each process of a queue."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from protoplane_base import Code, PlaneError, Timestamp
from protoplane_components.jobs.board import Board, Record
from protoplane_components.jobs.finishing import Finisher
from protoplane_components.jobs.records import (
    cancelled,
    failed,
    is_finished,
    later,
    nanos,
    request_of,
    retried,
)
from protoplane_components.jobs.roster import Roster
from protoplane_components.jobs.settings import JobSettings

_LOOK_S = 0.25
_HISTORY_S = 10.0
_log = logging.getLogger("protoplane.jobs")


class Keeper:
    """Queues the jobs of dead workers again, ends those that are overdue, tells what was not told.

    Each process of a queue has one. They do the same and need no leader: what one has done, the
    others find done, by compare-and-set.
    """

    def __init__(
        self, board: Board, roster: Roster, finisher: Finisher, settings: JobSettings
    ) -> None:
        self._board = board
        self._roster = roster
        self._finisher = finisher
        self._settings = settings

    async def run(self) -> None:
        """Look several times a second until cancelled."""
        await self._board.ready()
        looked = 0.0
        clock = asyncio.get_running_loop().time
        while True:
            await self._look(self._dead)
            await self._look(self._overdue)
            await self._look(self._untold)
            if clock() - looked > _HISTORY_S:
                looked = clock()
                await self._look(self._shorten)
            await asyncio.sleep(_LOOK_S)

    async def _look(self, after: Callable[[], Awaitable[None]]) -> None:
        try:
            await after()
        except PlaneError as error:
            # ABORTED: somebody else was first. Else the engine is away, and the next look tells.
            if error.code is not Code.ABORTED:
                _log.warning("jobs are looked after later: %s", error.message)

    async def _dead(self) -> None:
        missed = [
            record
            for record in self._board.running.values()
            if record.job.worker not in self._roster
        ]
        if not missed:
            return
        # The roster may lag behind the records: a worker is there before its first claim is.
        there = await self._roster.look()
        for record in missed:
            if record.job.worker not in there:
                await self._retry(record)

    async def _retry(self, record: Record) -> None:
        job, now = record.job, Timestamp.now()
        if job.cancel_requested:
            await self._finisher.finish(record, cancelled(job, now))
        elif job.attempt >= (request_of(job).max_attempts or self._settings.max_attempts):
            message = (
                f"its worker {job.worker} died, and so did those of all {job.attempt} attempts"
            )
            await self._finisher.finish(record, failed(job, Code.UNAVAILABLE, message, now))
        else:
            wait_s = self._settings.backoff_s(job.attempt)
            try:
                await self._board.put(retried(job, later(now, wait_s)), record.revision)
            except PlaneError as error:
                if error.code is not Code.ABORTED:
                    raise
            else:
                _log.warning(
                    "worker %s died; job %s is tried again in %g s", job.worker, job.id, wait_s
                )

    async def _overdue(self) -> None:
        now = Timestamp.now()
        for record in [*self._board.running.values()]:
            job = record.job
            limit = request_of(job).time_limit
            limit_s = self._settings.time_limit_s if limit is None else limit.total_seconds
            if job.started_at is None or now <= later(
                job.started_at, limit_s + self._settings.grace_s
            ):
                continue
            message = f"it took longer than its {limit_s:g} s, and its worker {job.worker} hangs"
            await self._finisher.finish(record, failed(job, Code.DEADLINE_EXCEEDED, message, now))

    async def _untold(self) -> None:
        now = nanos(Timestamp.now())
        for record in [*self._board.unannounced.values()]:
            if now - nanos(record.job.finished_at) > self._settings.grace_s * 1e9:
                await self._finisher.announce(record)

    async def _shorten(self) -> None:
        over = self._board.finished - self._settings.max_history
        if over <= 0:
            return
        oldest = [
            record
            for _, id_ in self._board.places
            if (record := self._board.get(id_)) is not None
            and is_finished(record.job)
            and record.job.announced
        ]
        for record in oldest[:over]:
            await self._board.delete(record)
