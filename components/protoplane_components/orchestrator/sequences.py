"""Keeps the requests of a sequence at one worker, where its state is."""

from __future__ import annotations

from collections import OrderedDict

from protoplane.inference.v1 import SequenceStep

_MOST = 100_000


class Sequences:
    """Which worker has the state of which sequence; of too many the longest unused is forgotten."""

    def __init__(self) -> None:
        self._workers: OrderedDict[tuple[str, str], str] = OrderedDict()

    def worker_of(self, model: str, step: SequenceStep | None) -> str:
        """Name of the worker that a request must go to; empty for any."""
        if step is None or step.start:
            return ""
        return self._workers.get((model, step.id), "")

    def went(self, model: str, step: SequenceStep | None, worker: str) -> None:
        """Note where a request went."""
        if step is None:
            return
        key = (model, step.id)
        if step.end:
            self._workers.pop(key, None)
            return
        self._workers[key] = worker
        self._workers.move_to_end(key)
        if len(self._workers) > _MOST:
            self._workers.popitem(last=False)
