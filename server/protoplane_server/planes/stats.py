"""What an instance tells of its work: from the counts of its server to `InstanceStats`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from time import monotonic, process_time
from typing import Protocol

from protoplane.v1 import InstanceStats, MethodStats, Metrics, StatsRequest, StatsResponse
from protoplane_base import Code, Context, Service, Timestamp
from protoplane_server.dispatcher import Dispatcher
from protoplane_server.metrics import BUCKETS_S, CallStats

_MEMORY = Path("/proc/self/statm")
_LEAST_SPAN_S = 0.5
"""Shorter spans say nothing of how busy a process is."""


class Queueing(Protocol):
    """A service in which requests wait for their turn; its server tells how many."""

    @property
    def queued(self) -> int:
        """How many wait now."""
        ...


class Stats:
    """Takes the numbers of one instance.

    Args:
        name: Path of the instance.
        dispatcher: Its calls.
    """

    def __init__(self, name: str, dispatcher: Dispatcher) -> None:
        self._name = name
        self._dispatcher = dispatcher
        self._since = Timestamp.now()
        self._cpu = _Cpu()

    def take(self) -> InstanceStats:
        """The numbers as of now."""
        dispatcher = self._dispatcher
        cpu = self._cpu.cores()
        most = dispatcher.limits.max_concurrent_calls
        # Handlers share one event loop, which a whole core fills.
        load = min(1.0, cpu)
        if most:
            load = max(load, min(1.0, dispatcher.open_calls / most))
        calls = dispatcher.metrics.calls
        return InstanceStats(
            instance=self._name,
            since=self._since,
            taken_at=Timestamp.now(),
            in_flight=dispatcher.open_calls,
            queued=sum(_queued(service) for service in dispatcher.services),
            load=round(load, 3),
            cpu=round(cpu, 3),
            resident_bytes=_resident_bytes(),
            links=dispatcher.metrics.open_links,
            bounds_s=[*BUCKETS_S],
            methods=[
                _method(method, door, stats) for (method, door), stats in sorted(calls.items())
            ],
        )


class MetricsPlane(Metrics):
    """Answers who asks for the numbers of an instance.

    Attributes:
        source: The numbers; its server sets them, because they are those of the calls that come
            here too.
    """

    source: Stats

    async def stats(self, request: StatsRequest, ctx: Context) -> StatsResponse:
        """The numbers as of now."""
        return StatsResponse(stats=self.source.take())


class _Cpu:
    """How busy the process is."""

    def __init__(self) -> None:
        self._at = monotonic()
        self._used = process_time()
        self._cores = 0.0

    def cores(self) -> float:
        """Cores that it kept busy since the time before; the same again where that is just now."""
        now, used = monotonic(), process_time()
        if now - self._at >= _LEAST_SPAN_S:
            self._cores = (used - self._used) / (now - self._at)
            self._at, self._used = now, used
        return self._cores


def quantile(buckets: Sequence[int], share: float) -> float:
    """Seconds that a share of the calls took at most, taken as even within each bucket.

    What took longer than the last bound is told as that bound; 0 where there are no calls.
    """
    total = sum(buckets)
    if not total:
        return 0.0
    wanted = share * total
    for index, below in enumerate(accumulate(buckets)):
        if below >= wanted and buckets[index]:
            if index == len(BUCKETS_S):
                break
            low = BUCKETS_S[index - 1] if index else 0.0
            part = 1 - (below - wanted) / buckets[index]
            return low + part * (BUCKETS_S[index] - low)
    return BUCKETS_S[-1]


def _method(method: str, door: str, stats: CallStats) -> MethodStats:
    ended = {code.name: count for code, count in zip(Code, stats.codes, strict=True) if count}
    p50, p90, p99 = (quantile(stats.buckets, share) for share in (0.5, 0.9, 0.99))
    return MethodStats(
        method=method,
        door=door,
        ended=ended,
        in_flight=stats.in_flight,
        messages_sent=stats.messages_sent,
        total_s=stats.total_s,
        buckets=[*stats.buckets],
        p50_s=p50,
        p90_s=p90,
        p99_s=p99,
    )


def _queued(service: Service) -> int:
    # A schema may have an rpc of that name, which is no number.
    queued = getattr(service, "queued", 0)
    return queued if isinstance(queued, int) else 0


def _resident_bytes() -> int:
    if sys.platform != "linux":
        return 0
    import resource

    try:
        pages = int(_MEMORY.read_text(encoding="ascii").split()[1])
    except OSError:
        return 0
    return pages * resource.getpagesize()
