"""What a model has done: counted on the event loop, told as `ModelStats` and to Prometheus."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import contextmanager

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

    @contextmanager
    def request(self) -> Generator[None, None, None]:
        """Count what is inside as a request, by how it ends."""
        self.in_flight += 1
        try:
            yield
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled += 1
            raise
        except PlaneError as error:
            if error.code in _LEFT:
                self.cancelled += 1
            else:
                self.failed += 1
            raise
        except BaseException:
            self.failed += 1
            raise
        else:
            self.succeeded += 1
        finally:
            self.in_flight -= 1

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
