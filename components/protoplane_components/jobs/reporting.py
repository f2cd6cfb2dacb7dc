"""Publishes how far a job has come."""

from __future__ import annotations

import logging
from time import monotonic

from protoplane.jobs.v1 import (
    Job,
    JobPreview,
    JobProgress,
    JobStage,
    JobStarted,
    Progress,
)
from protoplane_base import Message, PlaneError
from protoplane_components.jobs.generator import Step
from protoplane_components.jobs.records import request_of
from protoplane_components.jobs.settings import JobSettings
from protoplane_runtime.engines.interface import EventLog

_SAVING_PERCENT = 99.0
_log = logging.getLogger("protoplane.jobs")


class Reporter:
    """Tells of one attempt: its start, its steps, now and then a preview.

    An event log that is away is logged once, and the work goes on.

    Args:
        events: Where to publish.
        job: The job, as it was claimed.
        settings: How often to tell.
        estimate_s: How long it is thought to take; ``None`` where nobody knows.
    """

    def __init__(
        self, events: EventLog, job: Job, settings: JobSettings, estimate_s: float | None
    ) -> None:
        self._events = events
        self._job = job
        self._settings = settings
        self._estimate_s = estimate_s
        self._began = monotonic()
        self._stage = JobStage.JOB_STAGE_UNSPECIFIED
        self._told = self._shown = -float("inf")
        self._away = False

    async def started(self) -> None:
        """The attempt begins."""
        job = self._job
        started = JobStarted(
            job_id=job.id, attempt=job.attempt, worker=job.worker, at=job.started_at
        )
        await self._publish("started", started, durable=True)

    async def step(self, step: Step) -> None:
        """The attempt came further: told where its stage changes, else not too often."""
        now = monotonic()
        steps = request_of(self._job).steps or 0
        if step.stage != self._stage or now - self._told >= self._settings.progress_s:
            self._stage, self._told = step.stage, now
            progress = Progress(
                stage=step.stage,
                step=step.step,
                steps=steps,
                percent=step.percent,
                seconds_left=self._left_s(step.percent, now),
            )
            event = JobProgress(job_id=self._job.id, attempt=self._job.attempt, progress=progress)
            await self._publish("progress", event)
        if (
            step.preview is not None
            and request_of(self._job).previews is not False
            and now - self._shown >= self._settings.preview_s
        ):
            self._shown = now
            image = step.preview()
            preview = JobPreview(
                job_id=self._job.id,
                attempt=self._job.attempt,
                step=step.step,
                image=image.data,
                media_type=image.media_type,
                width=image.width,
                height=image.height,
            )
            await self._publish("preview", preview)

    async def saving(self) -> None:
        """The image is made, and is being written."""
        steps = request_of(self._job).steps or 0
        await self.step(Step(JobStage.JOB_STAGE_SAVING, steps, _SAVING_PERCENT))

    def _left_s(self, percent: float, now: float) -> float | None:
        took_s = now - self._began
        if percent <= 0:
            return self._estimate_s
        rest_s = took_s * (100 - percent) / percent
        if self._estimate_s is None:
            return rest_s
        # What is seen of this attempt counts the more, the further it has come.
        seen = percent / 100
        return seen * rest_s + (1 - seen) * max(0.0, self._estimate_s - took_s)

    async def _publish(self, what: str, event: Message, *, durable: bool = False) -> None:
        try:
            await self._events.publish(
                f"jobs/{self._job.id}/{what}",
                event.to_pb().DESCRIPTOR.full_name,
                event.to_bytes(),
                event.model_dump_json(),
                durable=durable,
            )
        except PlaneError as error:
            if not self._away:
                self._away = True
                _log.warning("updates of job %s are not told: %s", self._job.id, error.message)
