"""When a worker can take a request, who waits, and who is told to come again later."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from heapq import heapify, heappop, heappush
from typing import Generic, TypeVar

import numpy as np
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo
from numpy.typing import NDArray

from protoplane_base import Code, PlaneError
from protoplane_components.kv_router.load import Figures

T = TypeVar("T")


class QueueOrder(Enum):
    """Who leaves a queue first, of those with the same priority."""

    FCFS = "fcfs"
    """Who came first."""

    SHORTEST = "shortest"
    """Who has the least to compute; time makes up for length, so nobody waits forever."""


@dataclass(frozen=True, slots=True)
class Admission:
    """What a target may have before it is too busy for more. `None` stands for no limit.

    Attributes:
        max_prefill_tokens: Tokens of prompts that it still has to compute.
        max_active_requests: Requests at work.
        max_decode_blocks: Blocks in use.
        max_queued: Most requests that wait; one more is refused.
        order: Who leaves the queue first, of those with the same priority.
        aging_tokens_per_s: Under `QueueOrder.SHORTEST`, how many tokens less a request counts for
            each second that it waits.
    """

    max_prefill_tokens: float | None = None
    max_active_requests: int | None = None
    max_decode_blocks: int | None = None
    max_queued: int = 1024
    order: QueueOrder = QueueOrder.FCFS
    aging_tokens_per_s: float = 10_000.0

    def busy(self, loads: Figures) -> NDArray[np.bool_] | None:
        """Which targets are too busy; `None` where nothing is limited."""
        if self.max_prefill_tokens is self.max_active_requests is self.max_decode_blocks is None:
            return None
        limits = (
            (self.max_prefill_tokens, loads.prefill_tokens),
            (self.max_active_requests, loads.active_requests),
            (self.max_decode_blocks, loads.decode_blocks),
        )
        busy: NDArray[np.bool_] | None = None
        for limit, load in limits:
            if limit is not None:
                over = load >= limit
                busy = over if busy is None else busy | over
        return busy


class WaitingLine(Generic[T]):
    """Requests that wait, in the order in which they go. It is only a queue: it wakes nobody.

    Args:
        admission: Where its order comes from.
    """

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._heap: list[tuple[int, float, int, T]] = []
        self._gone: set[int] = set()
        self._count = 0
        # Seconds between two requests that left, as a moving average.
        self._pace_s: float | None = None
        self._left_at: float | None = None

    def __len__(self) -> int:
        return len(self._heap) - len(self._gone)

    def join(self, item: T, *, priority: int, tokens: float, now: float) -> int:
        """Wait.

        Args:
            item: Who.
            priority: Those with a higher one go first.
            tokens: Length of the prompt.
            now: The time, in seconds.

        Returns:
            A ticket to leave with.
        """
        self._count += 1
        rank = now
        if self._admission.order is QueueOrder.SHORTEST:
            rank += tokens / self._admission.aging_tokens_per_s
        heappush(self._heap, (-priority, rank, self._count, item))
        return self._count

    def first(self) -> T | None:
        """Who goes next; `None` where nobody waits."""
        while self._heap and self._heap[0][2] in self._gone:
            self._gone.discard(heappop(self._heap)[2])
        return self._heap[0][3] if self._heap else None

    def pop(self, now: float) -> None:
        """Let the first one go, because it has a worker now."""
        if self.first() is not None:
            heappop(self._heap)
            self.note_departure(now)

    def leave(self, ticket: int) -> None:
        """Wait no longer; who went already must not call this."""
        self._gone.add(ticket)
        if len(self._gone) > len(self._heap) // 2 + 16:
            self._heap = [entry for entry in self._heap if entry[2] not in self._gone]
            heapify(self._heap)
            self._gone.clear()

    def note_departure(self, now: float) -> None:
        """Take note that room was made for one request, for the estimate of the wait."""
        if self._left_at is not None:
            gap = now - self._left_at
            self._pace_s = gap if self._pace_s is None else 0.8 * self._pace_s + 0.2 * gap
        self._left_at = now

    def expected_wait_s(self) -> float | None:
        """How long one more would wait, in seconds, as far as can be told from those who left."""
        return None if self._pace_s is None else self._pace_s * (len(self) + 1)


def refused(reason: str, wait_s: float | None) -> PlaneError:
    """RESOURCE_EXHAUSTED with `google.rpc.RetryInfo`.

    Args:
        reason: What there is too much of.
        wait_s: After how many seconds it is worth to come again; 1 where that is not known.
    """
    after_s = 1.0 if wait_s is None else max(wait_s, 0.01)
    hint = Duration()
    hint.FromNanoseconds(math.ceil(after_s * 1e3) * 1_000_000)
    return PlaneError(
        Code.RESOURCE_EXHAUSTED,
        f"{reason}; try again in {after_s:.2f} s",
        details=[RetryInfo(retry_delay=hint)],
    )
