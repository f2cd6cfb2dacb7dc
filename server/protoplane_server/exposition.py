"""How Prometheus reads what a component counts.

It stands apart from `metrics` because many servers never need the memory that Prometheus' library
takes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

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
from protoplane_server.metrics import BUCKETS_S, Metrics

MEDIA_TYPE: Final = CONTENT_TYPE_LATEST
"""Media type of what `text_of` gives."""


def registry_of(metrics: Metrics) -> CollectorRegistry:
    """A new registry with the counts of a component, where others can be registered beside them."""
    registry = CollectorRegistry()
    registry.register(_Counts(metrics))
    return registry


def text_of(registry: CollectorRegistry) -> bytes:
    """All that is registered, in the text format of Prometheus."""
    return generate_latest(registry)


class _Counts(Collector):
    """Samples of the counts of a component, made when they are asked for."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

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
        for key, stats in self._metrics.calls.items():
            for code, count in zip(Code, stats.codes, strict=True):
                if not count:
                    continue
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
        yield from (ended, errors, sent, in_flight, latency)
        yield from self._of_replies()
        yield from self._of_links()

    def _of_links(self) -> Iterator[Metric]:
        labels = ["carrier"]
        links = GaugeMetricFamily("protoplane_links", "Links that are open.", labels=labels)
        opened = CounterMetricFamily(
            "protoplane_links_opened", "Links that were opened.", labels=labels
        )
        lost = CounterMetricFamily(
            "protoplane_links_lost", "Links that ended with an error.", labels=labels
        )
        moved = [
            CounterMetricFamily(f"protoplane_link_{name}", f"{what} on links.", labels=labels)
            for name, what in (
                ("sent_bytes", "Bytes sent"),
                ("received_bytes", "Bytes received"),
                ("messages_sent", "Messages of calls sent"),
                ("messages_received", "Messages of calls received"),
            )
        ]
        for carrier, stats in self._metrics.carriers.items():
            links.add_metric([carrier], stats.open)
            opened.add_metric([carrier], stats.opened)
            lost.add_metric([carrier], stats.lost)
            for family, count in zip(moved, stats.moved(), strict=True):
                family.add_metric([carrier], count)
        yield from (links, opened, lost, *moved)

    def _of_replies(self) -> Iterator[Metric]:
        replies = self._metrics.replies
        yield GaugeMetricFamily(
            "protoplane_replies_remembered",
            "Replies that are remembered for repeated calls.",
            replies.remembered,
        )
        yield CounterMetricFamily(
            "protoplane_replies_repeated",
            "Calls that were answered with the reply to an earlier one.",
            replies.repeated,
        )
        forgotten = CounterMetricFamily(
            "protoplane_replies_forgotten",
            "Replies that were let go: a call that is repeated later runs again.",
            labels=["reason"],
        )
        for reason, count in replies.forgotten.items():
            forgotten.add_metric([reason], count)
        yield forgotten
