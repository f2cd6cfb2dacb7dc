"""What a replay has shown."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

_POINTS = 101


@dataclass(frozen=True, slots=True)
class Distribution:
    """How values are distributed; all of them zero where there are no values.

    Attributes:
        mean: Their mean.
        p50: Their median, by nearest rank as the other percentiles.
        p95: What 95 % of them do not exceed.
        p99: What 99 % of them do not exceed.
        most: The largest.
        curve: 101 of them, from the least to the largest at each percent.
    """

    mean: float
    p50: float
    p95: float
    p99: float
    most: float
    curve: tuple[float, ...] = ()

    @classmethod
    def of(cls, values: Iterable[float]) -> Self:
        """The distribution of some values."""
        ordered = sorted(values)
        if not ordered:
            return cls(0.0, 0.0, 0.0, 0.0, 0.0)

        def rank(share: float) -> float:
            return ordered[max(0, math.ceil(share * len(ordered)) - 1)]

        return cls(
            mean=math.fsum(ordered) / len(ordered),
            p50=rank(0.50),
            p95=rank(0.95),
            p99=rank(0.99),
            most=ordered[-1],
            curve=tuple(rank(percent / (_POINTS - 1)) for percent in range(_POINTS)),
        )


@dataclass(frozen=True, slots=True)
class ReplayReport:
    """What one policy has made of a trace.

    Attributes:
        policy: Its name.
        speedup: By how much the trace was sped up.
        workers: How many engines there were.
        requests: Requests that were answered.
        rejected: Requests that were refused.
        ttft_ms: Time to first token, from the arrival.
        tpot_ms: Time per output token after the first, of each request that wrote more than one.
        reuse: Share of the prompt tokens that were in a cache.
        imbalance: Prompt tokens that the busiest worker computed, by the mean of all; 1 is even.
        computed_tokens: Prompt tokens that each worker computed.
        requests_by_worker: Requests that each worker answered.
        duration_s: Simulated seconds until the last answer.
        output_tokens_per_s: Tokens that all workers together wrote in a simulated second.
        preemptions: How often a request lost its blocks.
    """

    policy: str
    speedup: float
    workers: int
    requests: int
    rejected: int
    ttft_ms: Distribution
    tpot_ms: Distribution
    reuse: float
    imbalance: float
    computed_tokens: tuple[int, ...]
    requests_by_worker: tuple[int, ...]
    duration_s: float
    output_tokens_per_s: float
    preemptions: int

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it, without the curves."""
        shown = asdict(self)
        for name in ("ttft_ms", "tpot_ms"):
            del shown[name]["curve"]
        return shown


def imbalance(loads: Sequence[int]) -> float:
    """The largest load by the mean; 1 where there is none."""
    total = sum(loads)
    return max(loads) * len(loads) / total if total else 1.0
