"""The numbers of an orchestrator, as Prometheus reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from protoplane_components.orchestrator.counts import Counts
from protoplane_components.orchestrator.pool import Pool
from protoplane_components.orchestrator.workers import Worker

_PREFIX = "protoplane_orchestrator_"


class OrchestratorMetrics(Collector):
    """Reads an orchestrator when it is asked; counting costs requests nothing.

    Args:
        pool: Its workers and its queue.
        counts: What it counted.
    """

    def __init__(self, pool: Pool, counts: Counts) -> None:
        self._pool = pool
        self._counts = counts

    def collect(self) -> Iterator[Metric]:
        """All numbers, as of now."""
        counts, workers = self._counts, self._pool.workers
        yield _gauge("workers", "Workers that are there.", len(workers))
        yield _gauge("queued", "Requests that wait for a worker.", self._pool.queued)
        yield _counter("requests", "Requests that came.", counts.requests)
        yield _counter("retries", "Requests that another worker began anew.", counts.retries)
        yield _counter("resumes", "Texts that another worker went on with.", counts.resumes)
        yield _counter("broken", "Streams that broke off.", counts.broken)
        yield _counter("refused", "Requests that a full queue refused.", counts.refused)
        yield _counter("left", "Requests whose callers left the queue.", counts.left)
        yield _counter("routed", "Texts that the KV router placed.", counts.routed)
        yield _counter("unrouted", "Texts that the KV router did not place.", counts.unrouted)
        yield _by_worker(
            "in_flight", "Requests that a worker has.", workers, lambda each: each.in_flight
        )
        yield _by_worker(
            "capacity", "Most requests that a worker has.", workers, lambda each: each.capacity
        )


def _gauge(name: str, words: str, value: float) -> Metric:
    family = GaugeMetricFamily(_PREFIX + name, words)
    family.add_metric([], value)
    return family


def _counter(name: str, words: str, value: float) -> Metric:
    family = CounterMetricFamily(_PREFIX + name, words)
    family.add_metric([], value)
    return family


def _by_worker(
    name: str, words: str, workers: Mapping[str, Worker], value: Callable[[Worker], float]
) -> Metric:
    family = GaugeMetricFamily(_PREFIX + name, words, labels=["worker"])
    for worker in workers.values():
        family.add_metric([worker.name], value(worker))
    return family
