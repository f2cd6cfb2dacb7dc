"""Follows one job to its end, for one caller."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from time import monotonic
from typing import Any, cast

from protoplane.jobs.v1 import (
    FollowResponse,
    Job,
    JobAccepted,
    JobPreview,
    JobProgress,
    JobStarted,
)
from protoplane_base import Code, PlaneError
from protoplane_components.jobs.board import Board
from protoplane_components.jobs.records import RUNNING, is_finished, outcome
from protoplane_runtime.engines.interface import Event, EventId, EventLog, Gap

_REST_S = 0.25
"""Longest wait, once a job is finished, for updates that its record overtook."""


async def follow(
    id_: str,
    accepted: JobAccepted,
    board: Board,
    events: EventLog,
    after: EventId,
    *,
    previews: bool,
) -> AsyncGenerator[FollowResponse, None]:
    """All that happens to a job from a place in the log on, and last what came of it.

    That the job is finished is told by its record and not by an event, so that it is never missed.
    Leaving it gives back all that it holds.

    Args:
        id_: The job.
        accepted: Where it is; the first message.
        board: The records.
        events: The log that updates are in.
        after: Place in the log, taken before ``accepted`` was made.
        previews: Whether previews are wanted.

    Raises:
        PlaneError: NOT_FOUND where the job is deleted meanwhile, UNAVAILABLE where the server
            stops.
    """
    yield FollowResponse(accepted=accepted)
    updates = _Updates(id_, events, after, previews=previews)
    try:
        with board.following(id_) as changed:
            was_open = False
            while True:
                changed.clear()
                record = board.get(id_)
                if record is None:
                    raise PlaneError(Code.NOT_FOUND, f"job {id_} is no longer in the history")
                if is_finished(record.job):
                    if was_open:
                        for update in await updates.rest():
                            yield update
                    yield last(record.job)
                    return
                was_open = True
                if record.job.state == RUNNING and updates.begins(record.job.attempt):
                    yield FollowResponse(started=_started(record.job))
                for update in await updates.next(changed):
                    yield update
    finally:
        await updates.close()


def last(job: Job) -> FollowResponse:
    """What is told last of a finished job."""
    finished = outcome(job)
    return FollowResponse(
        complete=finished.complete, error=finished.error, cancelled=finished.cancelled
    )


def _started(job: Job) -> JobStarted:
    return JobStarted(job_id=job.id, attempt=job.attempt, worker=job.worker, at=job.started_at)


class _Updates:
    """The events of a job, as messages of the stream."""

    def __init__(self, id_: str, events: EventLog, after: EventId, *, previews: bool) -> None:
        keys = ["started", "progress", "finished", *(["preview"] if previews else [])]
        self._batches: AsyncIterator[Sequence[Event | Gap]] = events.read(
            [f"jobs/{id_}/{each}" for each in keys], after=after
        )
        self._next: asyncio.Future[Sequence[Event | Gap]] | None = None
        self._attempt = 0
        self._finished = False

    def begins(self, attempt: int) -> bool:
        """Whether an attempt is new, so that its start is to be told; it is not new again."""
        is_new = attempt > self._attempt
        self._attempt = max(attempt, self._attempt)
        return is_new

    async def next(self, changed: asyncio.Event) -> Sequence[FollowResponse]:
        """The next updates; none where the record changed first.

        Raises:
            PlaneError: UNAVAILABLE; the log was closed.
        """
        waiting = asyncio.ensure_future(changed.wait())
        try:
            await asyncio.wait((self._reading(), waiting), return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
        return self._taken()

    async def rest(self) -> Sequence[FollowResponse]:
        """What is still on its way of a finished job: up to the event that says that it is.

        An engine may deliver the record before updates that were published before it, and a worker
        may have died before it published that event: the wait for it ends after a moment.

        Raises:
            PlaneError: UNAVAILABLE; the log was closed.
        """
        updates: list[FollowResponse] = []
        until = monotonic() + _REST_S
        while not self._finished and (left_s := until - monotonic()) > 0:
            await asyncio.wait((self._reading(),), timeout=left_s)
            updates += self._taken()
        return updates

    def _reading(self) -> asyncio.Future[Sequence[Event | Gap]]:
        if self._next is None:
            self._next = asyncio.ensure_future(anext(self._batches))
        return self._next

    def _taken(self) -> Sequence[FollowResponse]:
        if self._next is None or not self._next.done():
            return ()
        taken, self._next = self._next, None
        try:
            batch = taken.result()
        except StopAsyncIteration:
            raise PlaneError(
                Code.UNAVAILABLE, "this instance stops; follow the job at another"
            ) from None
        updates: list[FollowResponse] = []
        for event in batch:
            if not isinstance(event, Event):
                continue
            update = _update(event)
            if update is None:
                self._finished = True
            elif update.started is None or self.begins(update.started.attempt):
                updates.append(update)
        return updates

    async def close(self) -> None:
        """Give back what it holds."""
        if self._next is not None:
            self._next.cancel()
            await asyncio.wait([self._next])
        await cast("AsyncGenerator[Any, None]", self._batches).aclose()


def _update(event: Event) -> FollowResponse | None:
    """The message that an event makes; none of the one that says that the job is finished."""
    match event.key.rpartition("/")[2]:
        case "started":
            return FollowResponse(started=JobStarted.from_bytes(event.data))
        case "progress":
            return FollowResponse(progress=JobProgress.from_bytes(event.data))
        case "finished":
            return None
        case _:
            return FollowResponse(preview=JobPreview.from_bytes(event.data))
