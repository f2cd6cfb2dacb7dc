"""What a model has done: counted on the event loop, told as `ModelStats` and to Prometheus."""

from __future__ import annotations

import asyncio

from protoplane_base import Code, PlaneError
from protoplane_server.backends.interface import ModelStats

_LEFT = frozenset({Code.CANCELLED, Code.DEADLINE_EXCEEDED})


class ModelCounters:
    """The numbers of one model; see `ModelStats`."""

    __slots__ = ("cancelled", "executions", "failed", "in_flight", "items", "succeeded", "tokens")

    def __init__(self) -> None:
        self.succeeded = 0
        self.failed = 0
        self.cancelled = 0
        self.in_flight = 0
        self.executions = 0
        self.items = 0
        self.tokens = 0

    def request(self) -> CountedRequest:
        """Counts what is inside of it as a request, by how it ends."""
        return CountedRequest(self)

    def snapshot(self) -> ModelStats:
        """The numbers as they are now."""
        return ModelStats(
            succeeded=self.succeeded,
            failed=self.failed,
            cancelled=self.cancelled,
            in_flight=self.in_flight,
            executions=self.executions,
            items=self.items,
            tokens=self.tokens,
        )


class CountedRequest:
    """Counts what is inside of it; see `ModelCounters.request`.

    Args:
        counters: Where to count.
    """

    __slots__ = ("_counters",)

    def __init__(self, counters: ModelCounters) -> None:
        self._counters = counters

    def __enter__(self) -> None:
        self._counters.in_flight += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: object
    ) -> None:
        counters = self._counters
        counters.in_flight -= 1
        if error is None:
            counters.succeeded += 1
        elif isinstance(error, (asyncio.CancelledError, GeneratorExit)) or (
            isinstance(error, PlaneError) and error.code in _LEFT
        ):
            counters.cancelled += 1
        else:
            counters.failed += 1
