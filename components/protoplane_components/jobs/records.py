"""What a job can become: one pure function for each step, from record to record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from protoplane.jobs.v1 import (
    GenerateRequest,
    Job,
    JobCancelled,
    JobComplete,
    JobError,
    JobFailure,
    JobFinished,
    JobResult,
    JobState,
)
from protoplane_base import Code, Duration, Timestamp

QUEUED: Final = JobState.JOB_STATE_QUEUED
RUNNING: Final = JobState.JOB_STATE_RUNNING
SUCCEEDED: Final = JobState.JOB_STATE_SUCCEEDED
FAILED: Final = JobState.JOB_STATE_FAILED
CANCELLED: Final = JobState.JOB_STATE_CANCELLED

_FINISHED = frozenset({SUCCEEDED, FAILED, CANCELLED})
_BILLION = 10**9


def nanos(moment: Timestamp | None) -> int:
    """A time in nanoseconds since 1970; 0 where there is none."""
    return 0 if moment is None else moment.seconds * _BILLION + moment.nanos


def later(moment: Timestamp, seconds: float) -> Timestamp:
    """A time so many seconds after another."""
    return Timestamp(*divmod(nanos(moment) + round(seconds * _BILLION), _BILLION))


def request_of(job: Job) -> GenerateRequest:
    """What a job is to make; a record always has it."""
    return job.request or GenerateRequest()


def is_finished(job: Job) -> bool:
    """Whether nothing more becomes of a job."""
    return job.state in _FINISHED


def accepted(request: GenerateRequest, now: Timestamp) -> Job:
    """A new job."""
    return Job(id=request.id, request=request, state=QUEUED, accepted_at=now)


def claimed(job: Job, worker: str, now: Timestamp) -> Job:
    """A worker begins an attempt."""
    return _with(
        job,
        state=RUNNING,
        worker=worker,
        attempt=job.attempt + 1,
        started_at=now,
        not_before=None,
    )


def released(job: Job) -> Job:
    """A worker that leaves gives a job back; the attempt does not count."""
    return _with(job, state=QUEUED, worker="", attempt=job.attempt - 1, started_at=None)


def retried(job: Job, not_before: Timestamp) -> Job:
    """An attempt came to nothing, and there will be another."""
    return _with(job, state=QUEUED, worker="", not_before=not_before)


def cancel_requested(job: Job) -> Job:
    """Somebody asked for the end of a running job."""
    return _with(job, cancel_requested=True)


def succeeded(job: Job, result: JobResult, now: Timestamp) -> Job:
    """The image is there."""
    return _with(job, state=SUCCEEDED, result=result, finished_at=now)


def failed(job: Job, code: Code, message: str, now: Timestamp) -> Job:
    """There will be no image."""
    failure = JobFailure(code=code.name, message=message)
    return _with(job, state=FAILED, failure=failure, finished_at=now)


def cancelled(job: Job, now: Timestamp) -> Job:
    """Nobody wants the image any more."""
    return _with(job, state=CANCELLED, finished_at=now)


def announced(job: Job) -> Job:
    """All were told that the job is finished."""
    return _with(job, announced=True)


def duration_s(job: Job) -> float | None:
    """Seconds that the last attempt of a finished job took; ``None`` where there was none."""
    if job.started_at is None or job.finished_at is None:
        return None
    return max(0, nanos(job.finished_at) - nanos(job.started_at)) / _BILLION


def outcome(job: Job) -> JobFinished:
    """What all are told of a finished job."""
    finished = JobFinished(job_id=job.id, at=job.finished_at)
    if job.state == SUCCEEDED:
        finished.complete = JobComplete(
            job_id=job.id,
            result=job.result,
            duration=Duration.from_seconds(duration_s(job) or 0.0),
            attempts=job.attempt,
        )
    elif job.state == FAILED:
        finished.error = JobError(job_id=job.id, failure=job.failure, attempts=job.attempt)
    else:
        finished.cancelled = JobCancelled(job_id=job.id, state=CANCELLED)
    return finished


def _with(job: Job, **changes: Any) -> Job:
    update: Mapping[str, Any] = changes
    return job.model_copy(update=update)
