"""How a queue of jobs behaves; all its processes are to be given the same."""

from __future__ import annotations

from dataclasses import dataclass

DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class JobSettings:
    """How a queue of jobs behaves.

    Attributes:
        queue: Path that the queue's records are filed under in the state plane; processes that say
            the same share the queue.
        max_queued: Most jobs that wait; further ones are refused.
        max_side: Most pixels of a side of an image.
        max_steps: Most steps.
        max_prompt_chars: Longest prompt.
        width: Pixels across, where a request does not say.
        height: Pixels down, where it does not say.
        steps: Steps, where it does not say.
        time_limit_s: Seconds of an attempt, where it does not say.
        max_time_limit_s: Most seconds that a request may ask for.
        max_attempts: Attempts, where it does not say.
        retry_s: Seconds before a job is tried again whose worker died; they double from attempt to
            attempt.
        max_retry_s: Most seconds between two attempts.
        grace_s: Seconds that the others leave a worker to end an attempt, or to say that a job is
            finished, before they do it.
        keep_s: Seconds that a finished job stays in the history.
        max_history: Most finished jobs in the history; the oldest go.
        progress_s: Least seconds between two events of progress of a job.
        preview_s: Least seconds between two previews of a job.
    """

    queue: str = "protoplane/jobs"
    max_queued: int = 100_000
    max_side: int = 2048
    max_steps: int = 1000
    max_prompt_chars: int = 10_000
    width: int = 128
    height: int = 128
    steps: int = 20
    time_limit_s: float = 600.0
    max_time_limit_s: float = DAY_S
    max_attempts: int = 5
    retry_s: float = 0.5
    max_retry_s: float = 60.0
    grace_s: float = 5.0
    keep_s: float = 7 * DAY_S
    max_history: int = 10_000
    progress_s: float = 0.1
    preview_s: float = 0.3

    @property
    def records(self) -> str:
        """Path of the records in the state plane."""
        return f"{self.queue}/records"

    @property
    def workers(self) -> str:
        """Path of the workers in discovery."""
        return f"{self.queue}-worker"

    def backoff_s(self, attempts: int) -> float:
        """Seconds to wait after so many attempts."""
        return min(self.max_retry_s, self.retry_s * 2.0 ** min(attempts - 1, 30))
