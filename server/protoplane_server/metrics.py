"""What a component counts about its calls, and how Prometheus reads it.

Counting happens on the event loop only, so it needs no locks and costs well under a microsecond;
the numbers become Prometheus samples when they are asked for.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from protoplane_base import Code

BUCKETS_S = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0
)  # fmt: skip
"""Upper bounds of the latency histogram, in seconds."""


class CallStats:
    """The numbers of one method at one door.

    Attributes:
        in_flight: Calls that are open now.
        codes: How many calls ended with each code.
        messages_sent: Messages of streams that were answered.
        total_s: Seconds that all calls took together.
        buckets: Calls by how long they took: up to each of `BUCKETS_S`, and longer.
    """

    __slots__ = ("buckets", "codes", "in_flight", "messages_sent", "total_s")

    def __init__(self) -> None:
        self.in_flight = 0
        self.codes: dict[Code, int] = {}
        self.messages_sent = 0
        self.total_s = 0.0
        self.buckets = [0] * (len(BUCKETS_S) + 1)

    def ended(self, code: Code, took_s: float) -> None:
        """Count a call that is over."""
        self.codes[code] = self.codes.get(code, 0) + 1
        self.buckets[bisect_left(BUCKETS_S, took_s)] += 1
        self.total_s += took_s


class Metrics(Collector):
    """The counts of one component.

    Attributes:
        registry: Where to register more collectors; `render` writes them all.
        content_type: Media type of what `render` gives.
    """

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self._stats: dict[tuple[str, str], CallStats] = {}
        self.registry = CollectorRegistry()
        self.registry.register(self)

    def stats(self, method: str, door: str) -> CallStats:
        """The numbers of a method (``/package.Service/Method``) at a door."""
        return self._stats.setdefault((method, door), CallStats())

    def render(self) -> bytes:
        """All metrics in the text format of Prometheus."""
        return generate_latest(self.registry)

    def collect(self) -> Iterator[Metric]:
        """Samples for `prometheus_client`."""
        labels = ["method", "door"]
        ended = CounterMetricFamily(
            "protoplane_calls", "Calls that are over, by code.", labels=[*labels, "code"]
        )
        errors = CounterMetricFamily(
            "protoplane_call_errors", "Calls that failed, by code.", labels=[*labels, "code"]
        )
        sent = CounterMetricFamily(
            "protoplane_stream_messages_sent", "Messages sent on streams.", labels=labels
        )
        in_flight = GaugeMetricFamily(
            "protoplane_calls_in_flight", "Calls that are open.", labels=labels
        )
        latency = HistogramMetricFamily(
            "protoplane_call_duration_seconds", "How long calls took.", labels=labels
        )
        for key, stats in self._stats.items():
            for code, count in stats.codes.items():
                ended.add_metric([*key, code.name], count)
                if code is not Code.OK:
                    errors.add_metric([*key, code.name], count)
            sent.add_metric(key, stats.messages_sent)
            in_flight.add_metric(key, stats.in_flight)
            below = 0
            buckets: list[tuple[str, float]] = []
            for bound, count in zip((*map(str, BUCKETS_S), "+Inf"), stats.buckets, strict=True):
                below += count
                buckets.append((bound, below))
            latency.add_metric(key, buckets, sum_value=stats.total_s)
        return iter((ended, errors, sent, in_flight, latency))
