"""The component, as a user would write it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing
from time import monotonic
from typing import Self

from protoplane.jobs.v1 import (
    CancelRequest,
    CancelResponse,
    FollowRequest,
    FollowResponse,
    GenerateRequest,
    GenerateResponse,
    GetJobRequest,
    GetJobResponse,
    Job,
    JobAccepted,
    JobCancelled,
    JobsService,
    ListJobsRequest,
    ListJobsResponse,
    ListModelsRequest,
    ListModelsResponse,
    PingRequest,
    PingResponse,
    ReadResultRequest,
    ReadResultResponse,
    StatusRequest,
    StatusResponse,
)
from protoplane_base import VERSION, Code, Duration, PlaneError, Timestamp
from protoplane_components.jobs.board import Record
from protoplane_components.jobs.following import follow
from protoplane_components.jobs.generator import ImageGenerator
from protoplane_components.jobs.history import page
from protoplane_components.jobs.planes import JobPlanes
from protoplane_components.jobs.queueing import JobQueue
from protoplane_components.jobs.records import (
    CANCELLED,
    QUEUED,
    RUNNING,
    SUCCEEDED,
    accepted,
    cancel_requested,
    cancelled,
    request_of,
)
from protoplane_components.jobs.requests import check_id, completed, same
from protoplane_components.jobs.settings import JobSettings
from protoplane_components.jobs.sprites import SpriteGenerator
from protoplane_server import Context, Host

SLOTS = "PROTOPLANE_JOB_SLOTS"
"""The environment variable that says how many jobs a served process works on at a time."""

_TRIES = 20


class Jobs(JobsService):
    """Takes on jobs, works on them beside, and keeps what came of them.

    Any number of processes share a queue, through the engine: instances of this component, and
    workers (`protoplane jobs work`).

    Args:
        generator: What makes images; by default sprites, which need no model file.
        slots: Jobs that this process works on at a time, 0 for none; by default
            ``$PROTOPLANE_JOB_SLOTS``, else 1.
        settings: How the queue behaves.
    """

    def __init__(
        self,
        generator: ImageGenerator | None = None,
        *,
        slots: int | None = None,
        settings: JobSettings | None = None,
    ) -> None:
        self._generator = generator or SpriteGenerator()
        self._slots = _slots() if slots is None else slots
        self._settings = settings or JobSettings()
        self._host: Host | None = None
        self._opened: JobQueue | None = None
        self._stack = AsyncExitStack()
        self._began = monotonic()

    def hosted(self, host: Host) -> None:
        """Remember the server, for its planes."""
        self._host = host

    async def __aenter__(self) -> Self:
        if self._host is None:
            raise PlaneError(Code.FAILED_PRECONDITION, "Jobs runs in a Server; give it to one")
        planes = await JobPlanes.of_host(self._host)
        queue = JobQueue(planes, self._settings, self._generator, slots=self._slots)
        self._opened = await self._stack.enter_async_context(queue)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    @property
    def _queue(self) -> JobQueue:
        assert self._opened is not None
        return self._opened

    async def generate(self, request: GenerateRequest, ctx: Context) -> GenerateResponse:
        """Take on a job, once."""
        queue = self._queue
        known = queue.board.get(request.id) if request.id else None
        if known is None:
            whole = completed(request, queue.roster.models, self._settings)
            if len(queue.board.line) >= self._settings.max_queued:
                raise PlaneError(
                    Code.RESOURCE_EXHAUSTED,
                    f"{self._settings.max_queued} jobs wait already; try again later",
                )
            job = accepted(whole, Timestamp.now())
            try:
                return GenerateResponse(accepted=self._accepted(await queue.board.put(job, 0)))
            except PlaneError as error:
                known = queue.board.get(whole.id)
                if error.code is not Code.ABORTED or known is None:
                    raise
        if not same(request, request_of(known.job)):
            raise PlaneError(
                Code.ALREADY_EXISTS,
                f"{request.id} is the id of a job that asks for something else; give another id",
            )
        return GenerateResponse(accepted=self._accepted(known))

    async def cancel(self, request: CancelRequest, ctx: Context) -> CancelResponse:
        """Cancel a job that is not finished."""
        queue = self._queue
        record = await self._find(request.id)
        for _ in range(_TRIES):
            job = record.job
            if job.state == CANCELLED or (job.state == RUNNING and job.cancel_requested):
                break
            if job.state == QUEUED:
                if await queue.finisher.finish(record, cancelled(job, Timestamp.now())):
                    return _cancelled(job.model_copy(update={"state": CANCELLED}))
            elif job.state == RUNNING:
                try:
                    record = await queue.board.put(cancel_requested(job), record.revision)
                except PlaneError as error:
                    if error.code is not Code.ABORTED:
                        raise
            else:
                raise PlaneError(
                    Code.FAILED_PRECONDITION,
                    f"job {job.id} is finished; only a queued or running one can be cancelled",
                )
            record = await self._find(request.id)
        return _cancelled(record.job)

    async def get_job(self, request: GetJobRequest, ctx: Context) -> GetJobResponse:
        """Tell all about one job."""
        record = await self._find(request.id)
        return GetJobResponse(job=self._shown(record.job))

    async def list_jobs(self, request: ListJobsRequest, ctx: Context) -> ListJobsResponse:
        """List jobs in pages."""
        board = self._queue.board
        found, token = page(request, board.places, board.job)
        return ListJobsResponse(jobs=[self._shown(job) for job in found], next_page_token=token)

    async def follow(self, request: FollowRequest, ctx: Context) -> AsyncIterator[FollowResponse]:
        """Follow a job to its end."""
        queue = self._queue
        events = queue.planes.events
        place = events.last
        record = await self._find(request.id)
        updates = follow(
            record.job.id,
            self._accepted(record),
            queue.board,
            events,
            place,
            previews=not request.without_previews,
        )
        async with aclosing(updates):
            async for update in updates:
                yield update

    async def read_result(
        self, request: ReadResultRequest, ctx: Context
    ) -> AsyncIterator[ReadResultResponse]:
        """Read an image."""
        job = (await self._find(request.id)).job
        if job.state != SUCCEEDED or job.result is None:
            raise PlaneError(
                Code.FAILED_PRECONDITION,
                f"job {job.id} has no image: it is {job.state.name[10:].lower()}",
            )
        yield ReadResultResponse(result=job.result)
        async with self._queue.planes.objects.get(job.result.object_key) as body:
            async for piece in body:
                yield ReadResultResponse(data=bytes(piece))

    async def list_models(self, request: ListModelsRequest, ctx: Context) -> ListModelsResponse:
        """Tell which models there are."""
        return ListModelsResponse(models=[*self._queue.roster.models])

    async def status(self, request: StatusRequest, ctx: Context) -> StatusResponse:
        """Tell how the queue does."""
        queue = self._queue
        assert self._host is not None
        return StatusResponse(
            queued=len(queue.board.line),
            running=len(queue.board.running),
            finished=queue.board.finished,
            workers=queue.roster.workers,
            slots=queue.roster.slots,
            uptime=Duration.from_seconds(monotonic() - self._began),
            version=VERSION,
            instance=self._host.name,
        )

    async def ping(self, request: PingRequest, ctx: Context) -> PingResponse:
        """Answer at once."""
        return PingResponse(nonce=request.nonce, at=Timestamp.now())

    async def _find(self, id_: str) -> Record:
        """A job, also one that this process has not heard of yet."""
        board = self._queue.board
        record = board.get(check_id(id_)) or await board.refresh(id_)
        if record is None:
            raise PlaneError(
                Code.NOT_FOUND, f"there is no job {id_}; it never was, or left the history"
            )
        return record

    def _accepted(self, record: Record) -> JobAccepted:
        queue, job = self._queue, record.job
        answer = JobAccepted(job_id=job.id, state=job.state)
        took_s = queue.board.estimates.duration_s(request_of(job))
        if took_s is not None:
            answer.estimated_duration = Duration.from_seconds(took_s)
        if job.state == QUEUED:
            answer.position = queue.board.line.position(job.id)
            ahead = (request_of(each.job) for each in queue.board.queued())
            wait_s = queue.board.estimates.wait_s(
                ahead, answer.position, queue.left_s(), queue.roster.slots
            )
            if wait_s is not None:
                answer.estimated_wait = Duration.from_seconds(wait_s)
        return answer

    def _shown(self, job: Job) -> Job:
        progress = self._queue.progress.get(job.id) if job.state == RUNNING else None
        return job if progress is None else job.model_copy(update={"progress": progress})


def _cancelled(job: Job) -> CancelResponse:
    return CancelResponse(cancelled=JobCancelled(job_id=job.id, state=job.state))


def _slots() -> int:
    text = os.environ.get(SLOTS, "1")
    if not (text.isascii() and text.isdigit() and int(text) <= 1024):
        raise PlaneError(Code.INVALID_ARGUMENT, f"{SLOTS} is {text!r}; it must be 0 to 1024")
    return int(text)
