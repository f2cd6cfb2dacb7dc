"""Claims jobs from the queue and works on them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from contextlib import aclosing

from protoplane.jobs.v1 import Job, JobResult
from protoplane_base import Code, PlaneError, Timestamp
from protoplane_components.jobs.board import Board, Record
from protoplane_components.jobs.finishing import Finisher
from protoplane_components.jobs.generator import Image, ImageGenerator
from protoplane_components.jobs.planes import JobPlanes
from protoplane_components.jobs.records import (
    RUNNING,
    cancelled,
    claimed,
    failed,
    later,
    nanos,
    released,
    request_of,
    retried,
    succeeded,
)
from protoplane_components.jobs.reporting import Reporter
from protoplane_components.jobs.roster import worker_instance
from protoplane_components.jobs.settings import JobSettings
from protoplane_components.jobs.tasks import Tasks
from protoplane_runtime.engines.discovery import instance_name

_LOOK_S = 1.0
_RELEASE_S = 5.0
_log = logging.getLogger("protoplane.jobs")


class Worker:
    """Works on jobs, several at a time, for as long as `run` does.

    It is in discovery while it runs, so that others notice at once when its process dies. When it
    is cancelled it gives its jobs back.

    Args:
        generator: What makes the images.
        planes: The planes.
        board: The records.
        finisher: Ends jobs.
        settings: The queue's.
        slots: Jobs at a time.
        name: Its name, ``<component>/<id>``; made up where absent.
    """

    def __init__(
        self,
        generator: ImageGenerator,
        planes: JobPlanes,
        board: Board,
        finisher: Finisher,
        settings: JobSettings,
        *,
        slots: int = 1,
        name: str | None = None,
    ) -> None:
        self._generator = generator
        self._planes = planes
        self._board = board
        self._finisher = finisher
        self._settings = settings
        self._slots = slots
        self.name = name or instance_name(settings.workers)
        self._models = frozenset(model.name for model in generator.models)
        self._claiming: set[str] = set()

    async def run(self) -> None:
        """Work until cancelled."""
        instance = worker_instance(
            self.name, self._generator.models, self._slots, self._planes.namespace
        )
        await self._board.ready()
        slots = Tasks()
        async with self._planes.discovery.register(instance):
            try:
                for number in range(self._slots):
                    slots.keep(self._slot, f"{self.name}, slot {number}")
                await asyncio.get_running_loop().create_future()
            finally:
                # Jobs are given back while others still find this worker.
                await slots.close()

    async def _slot(self) -> None:
        while True:
            record, wait_s = self._next()
            if record is None:
                await self._board.changed(wait_s)
                continue
            id_ = record.job.id
            self._claiming.add(id_)
            try:
                mine = claimed(self._with_model(record.job), self.name, Timestamp.now())
                record = await self._board.put(mine, record.revision)
            except PlaneError as error:
                if error.code is Code.ABORTED:
                    continue  # Another worker was faster.
                raise
            finally:
                self._claiming.discard(id_)
            await self._work(record)

    def _next(self) -> tuple[Record | None, float]:
        """The next job that can be begun, or how long to wait for one at most."""
        now, wait_s = nanos(Timestamp.now()), _LOOK_S
        for record in self._board.queued():
            job = record.job
            model = request_of(job).model
            if job.id in self._claiming or (model and model not in self._models):
                continue
            pause_s = (nanos(job.not_before) - now) / 1e9
            if pause_s <= 0:
                return record, 0.0
            wait_s = min(wait_s, pause_s)
        return None, wait_s

    def _with_model(self, job: Job) -> Job:
        """A job that was accepted while there were no workers gets the first model of this one."""
        request = request_of(job)
        if request.model:
            return job
        first = self._generator.models[0].name
        whole = request.model_copy(update={"model": first})
        return job.model_copy(update={"request": whole})

    async def _work(self, record: Record) -> None:
        """Make one attempt and write down what came of it."""
        job = record.job
        limit = request_of(job).time_limit
        limit_s = self._settings.time_limit_s if limit is None else limit.total_seconds
        making = asyncio.create_task(self._make(job))
        unwanted = asyncio.create_task(self._unwanted(job))
        try:
            await asyncio.wait(
                (making, unwanted), timeout=limit_s, return_when=asyncio.FIRST_COMPLETED
            )
        except asyncio.CancelledError:
            await _ended(making, unwanted)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_RELEASE_S):
                    await self._release(job)
            raise
        in_time = making.done() or unwanted.done()
        await _ended(making, unwanted)
        now = Timestamp.now()
        latest = self._board.get(job.id)
        if latest is None or not _same_attempt(latest.job, job):
            _log.warning("job %s went to another worker; this attempt is dropped", job.id)
            return
        error = None if making.cancelled() else making.exception()
        if not making.cancelled() and error is None:
            # Done is done, also when somebody asked for its end in the last moment.
            after = succeeded(latest.job, making.result(), now)
        elif latest.job.cancel_requested:
            after = cancelled(latest.job, now)
        elif making.cancelled():
            assert not in_time
            message = f"it took longer than its time limit of {limit_s:g} s"
            after = failed(latest.job, Code.DEADLINE_EXCEEDED, message, now)
        else:
            assert error is not None
            after = self._after_error(latest.job, error, now)
        await self._write(latest, after)

    async def _write(self, latest: Record, after: Job) -> None:
        """Write down what came of an attempt, unless it is no longer this worker's."""
        if after.finished_at is None:
            try:
                await self._board.put(after, latest.revision)
            except PlaneError as error:
                if error.code is not Code.ABORTED:
                    raise
            return
        while not await self._finisher.finish(latest, after):
            known = self._board.get(after.id)
            if known is None or not _same_attempt(known.job, after):
                return
            # Somebody asked for its end meanwhile; it is over anyway.
            latest = known

    async def _make(self, job: Job) -> JobResult:
        request = request_of(job)
        estimate_s = self._board.estimates.duration_s(request)
        report = Reporter(self._planes.events, job, self._settings, estimate_s)
        await report.started()
        image: Image | None = None
        async with aclosing(self._generator.generate(request)) as steps:
            async for step in steps:
                if isinstance(step, Image):
                    image = step
                    break
                await report.step(step)
        if image is None:
            raise PlaneError(Code.INTERNAL, f"the model {request.model} made no image")
        await report.saving()
        kept = await self._planes.objects.put(
            f"jobs/{job.id}/image",
            image.data,
            metadata={"media_type": image.media_type, "job": job.id},
        )
        return JobResult(
            object_key=kept.key,
            size=kept.size,
            digest=kept.digest or "",
            media_type=image.media_type,
            width=image.width,
            height=image.height,
            seed=request.seed or 0,
        )

    async def _unwanted(self, job: Job) -> None:
        """Wait until an attempt need not go on."""
        with self._board.following(job.id) as changed:
            while True:
                known = self._board.get(job.id)
                if known is None or not _same_attempt(known.job, job) or known.job.cancel_requested:
                    return
                await changed.wait()
                changed.clear()

    def _after_error(self, job: Job, error: BaseException, now: Timestamp) -> Job:
        if not isinstance(error, PlaneError):
            _log.error("job %s failed", job.id, exc_info=error)
            message = "something went wrong where it was worked on; the worker's log has it"
            return failed(job, Code.INTERNAL, message, now)
        most = request_of(job).max_attempts or self._settings.max_attempts
        if error.code is Code.UNAVAILABLE and job.attempt < most:
            return retried(job, later(now, self._settings.backoff_s(job.attempt)))
        return failed(job, error.code, error.message, now)

    async def _release(self, job: Job) -> None:
        latest = self._board.get(job.id)
        if latest is None or not _same_attempt(latest.job, job):
            return
        try:
            if latest.job.cancel_requested:
                await self._finisher.finish(latest, cancelled(latest.job, Timestamp.now()))
            else:
                await self._board.put(released(latest.job), latest.revision)
        except PlaneError as error:
            # Others find it, and that this worker is gone.
            _log.warning("job %s was not given back: %s", job.id, error.message)


def _same_attempt(known: Job, mine: Job) -> bool:
    return known.state == RUNNING and (known.worker, known.attempt) == (mine.worker, mine.attempt)


async def _ended(*tasks: asyncio.Task[object]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
