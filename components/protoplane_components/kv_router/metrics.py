"""The numbers of a router, as Prometheus reads them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from protoplane_components.kv_router.component import KvRouter
    from protoplane_components.kv_router.feeding import IndexFeed

_PREFIX = "protoplane_router_"


class IndexMetrics(Collector):
    """Reads what feeds an index when it is asked; counting costs events nothing.

    Args:
        feed: What feeds it.
    """

    def __init__(self, feed: IndexFeed) -> None:
        self._feed = feed

    def collect(self) -> Iterator[Metric]:
        """All numbers, as of now."""
        if self._feed.index is not None:
            stats = self._feed.index.stats()
            yield _gauge("index_blocks", "Blocks in the index, of all workers.", stats.blocks)
            yield _gauge("index_prefixes", "Different prefixes in the index.", stats.prefixes)
        follower = self._feed.follower
        if follower is not None:
            courses = follower.courses.values()
            behind = sum(not course.in_sync for course in courses)
            yield _gauge("ranks_out_of_sync", "Ranks whose state is not known as a whole.", behind)
            yield _counter("kv_events", "KV events that were applied.", follower.applied)
            yield _counter("kv_event_gaps", "Holes in the KV events.", follower.gaps)
            yield _counter("kv_events_replayed", "KV events from the log.", follower.replayed)
            yield _counter("kv_states_fetched", "States that workers told.", follower.fetched)


class RouterMetrics(Collector):
    """Reads a router when it is asked; counting costs requests nothing.

    Args:
        component: The router.
    """

    def __init__(self, component: KvRouter) -> None:
        self._component = component

    def collect(self) -> Iterator[Metric]:
        """All numbers, as of now."""
        router, shards = self._component.router, self._component.shards
        yield _gauge("workers", "Workers that requests can go to.", len(router.workers))
        yield _gauge("reservations", "Requests that workers have.", len(router.loads))
        yield _gauge("queued", "Requests that wait for a worker.", router.queued)
        if self._component.replicas is not None:
            peers = len(self._component.replicas.peers)
            yield _gauge("replicas", "Other replicas that are heard.", peers)
        if shards is not None:
            yield _gauge("shards_away", "Shards that do not answer.", len(shards.away))
            yield _counter("shards_unanswered", "Prompts no shard told of.", shards.unanswered)


def _gauge(name: str, words: str, value: float) -> Metric:
    family = GaugeMetricFamily(_PREFIX + name, words)
    family.add_metric([], value)
    return family


def _counter(name: str, words: str, value: float) -> Metric:
    family = CounterMetricFamily(_PREFIX + name, words)
    family.add_metric([], value)
    return family
