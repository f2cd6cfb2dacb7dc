"""How long jobs take, learned from those that are done."""

from __future__ import annotations

from collections.abc import Iterable

from protoplane.jobs.v1 import GenerateRequest, Job
from protoplane_components.jobs.records import duration_s, request_of

_WEIGHT = 0.2
_LOOKED_AT = 100


class Estimates:
    """Seconds of work by model: a moving average of what a step of an image took.

    A job of a model that nothing is known of is taken to be as slow as those of all models.
    """

    def __init__(self) -> None:
        self._step_s: dict[str, float] = {}

    def learn(self, job: Job) -> None:
        """Take a job that is done into account."""
        took_s = duration_s(job)
        if took_s is None:
            return
        request = request_of(job)
        step_s = took_s / _steps(request)
        for model in {request.model, ""}:
            known = self._step_s.get(model)
            self._step_s[model] = step_s if known is None else known + _WEIGHT * (step_s - known)

    def duration_s(self, request: GenerateRequest) -> float | None:
        """Seconds that a job will take; ``None`` where nothing was learned yet."""
        step_s = self._step_s.get(request.model, self._step_s.get(""))
        return None if step_s is None else step_s * _steps(request)

    def wait_s(
        self, ahead: Iterable[GenerateRequest], count: int, left_s: float, slots: int
    ) -> float | None:
        """Seconds until so many jobs have begun, and there is room for one more.

        Args:
            ahead: Those that go first; no more than some of them are looked at.
            count: How many they are.
            left_s: Seconds of work that is left of those that are running.
            slots: How many are worked on at a time.

        Returns:
            ``None`` where nobody works, or nothing was learned yet.
        """
        if slots < 1 or (count and not self._step_s):
            return None
        known = [
            seconds
            for request, _ in zip(ahead, range(_LOOKED_AT), strict=False)
            if (seconds := self.duration_s(request)) is not None
        ]
        queued_s = count * sum(known) / len(known) if known else 0.0
        return (queued_s + left_s) / slots


def _steps(request: GenerateRequest) -> int:
    return max(1, request.steps or 1)
