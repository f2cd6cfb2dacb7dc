"""What batchers count, and how Prometheus reads it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
"""Upper bounds of the histogram of batch sizes, in items."""

WAITS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the histogram of waits, in seconds."""


class BatchStats:
    """The numbers of one batcher.

    Attributes:
        batches: Batches that were sent off.
        items: Items in all of them.
        queued: Items that wait now.
        waits: Requests that were sent off.
        waited_s: Seconds that all of these waited together.
        recent_wait_s: How long requests wait lately, in seconds: a moving average.
        dropped: Requests that never came into a batch, or had gone by its end, by why:
            ``cancelled``, ``expired`` or ``refused``.
        sizes: Batches by size: up to each of `SIZES`, and larger.
        wait_buckets: Requests by wait: up to each of `WAITS_S`, and longer.
    """

    __slots__ = (
        "batches",
        "dropped",
        "items",
        "queued",
        "recent_wait_s",
        "sizes",
        "wait_buckets",
        "waited_s",
        "waits",
    )

    def __init__(self) -> None:
        self.batches = 0
        self.items = 0
        self.queued = 0
        self.waits = 0
        self.waited_s = 0.0
        self.recent_wait_s = 0.0
        self.dropped = {"cancelled": 0, "expired": 0, "refused": 0}
        self.sizes = [0] * (len(SIZES) + 1)
        self.wait_buckets = [0] * (len(WAITS_S) + 1)

    def sent(self, size: int) -> None:
        """Count a batch of so many items."""
        self.batches += 1
        self.items += size
        self.sizes[bisect_left(SIZES, size)] += 1

    def waited(self, wait_s: float) -> None:
        """Count a request that comes into a batch after a wait."""
        self.waits += 1
        self.waited_s += wait_s
        self.recent_wait_s += 0.1 * (wait_s - self.recent_wait_s)
        self.wait_buckets[bisect_left(WAITS_S, wait_s)] += 1


class BatchMetrics(Collector):
    """Batchers as metrics, labelled with their model; register it in `Metrics.registry`.

    Args:
        stats: The numbers of each model's batcher; read anew each time.
    """

    def __init__(self, stats: Mapping[str, BatchStats]) -> None:
        self._stats = stats

    def collect(self) -> Iterator[Metric]:
        """Samples for `prometheus_client`."""
        labels = ["model"]
        sizes = HistogramMetricFamily("protoplane_batch_items", "Items in a batch.", labels=labels)
        waits = HistogramMetricFamily(
            "protoplane_batch_wait_seconds", "Wait of a request for its batch.", labels=labels
        )
        queued = GaugeMetricFamily(
            "protoplane_batch_queued_items", "Items that wait for a batch.", labels=labels
        )
        dropped = CounterMetricFamily(
            "protoplane_batch_dropped",
            "Requests that left before they were answered, or were refused, by why.",
            labels=[*labels, "reason"],
        )
        for model, stats in self._stats.items():
            sizes.add_metric([model], _cumulated(SIZES, stats.sizes), stats.items)
            waits.add_metric([model], _cumulated(WAITS_S, stats.wait_buckets), stats.waited_s)
            queued.add_metric([model], stats.queued)
            for reason, many in stats.dropped.items():
                dropped.add_metric([model, reason], many)
        yield from (sizes, waits, queued, dropped)


def _cumulated(bounds: Sequence[float], counts: Iterable[int]) -> list[tuple[str, float]]:
    total = 0
    cumulated: list[tuple[str, float]] = []
    for bound, many in zip((*map(float, bounds), "+Inf"), counts, strict=True):
        total += many
        cumulated.append((str(bound), total))
    return cumulated
