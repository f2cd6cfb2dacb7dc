"""How long jobs take, learned from those that are done."""

from __future__ import annotations

from collections.abc import Iterable

from protoplane.jobs.v1 import GenerateRequest, Job
from protoplane_components.jobs.records import duration_s, request_of

_WEIGHT = 0.2
_LOOKED_AT = 100

_Kind = tuple[str, int]
"""A model, empty for all, and the bits of the number of pixels, 0 for any."""


class Estimates:
    """Seconds of work: a moving average of what a step of an image took, by model and size.

    Sizes are told apart by powers of two of the number of pixels. A job of a size that nothing is
    known of is taken to be as slow as those of its model, one of such a model as those of all.
    """

    def __init__(self) -> None:
        self._step_s: dict[_Kind, float] = {}

    def learn(self, job: Job) -> None:
        """Take a job that is done into account."""
        took_s = duration_s(job)
        if took_s is None:
            return
        request = request_of(job)
        step_s = took_s / _steps(request)
        for kind in _kinds(request):
            known = self._step_s.get(kind)
            self._step_s[kind] = step_s if known is None else known + _WEIGHT * (step_s - known)

    def duration_s(self, request: GenerateRequest) -> float | None:
        """Seconds that a job will take; ``None`` where nothing was learned yet."""
        for kind in _kinds(request):
            step_s = self._step_s.get(kind)
            if step_s is not None:
                return step_s * _steps(request)
        return None

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


def _kinds(request: GenerateRequest) -> Iterable[_Kind]:
    """The kinds that a job is of, the closest first."""
    bits = ((request.width or 0) * (request.height or 0)).bit_length()
    return dict.fromkeys(((request.model, bits), (request.model, 0), ("", 0)))
