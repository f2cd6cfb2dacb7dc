"""What planes have counted, as Prometheus reads it; needs ``prometheus_client``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Protocol

from protoplane_base import MissingExtraError
from protoplane_client.route import ConnectionState, ConnectionStats, Route

try:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
    from prometheus_client.registry import Collector
except ImportError as error:
    raise MissingExtraError("server", "counting what planes do") from error

_COUNTS = {
    "messages_sent": "Messages of calls that left.",
    "messages_received": "Messages of calls that came.",
    "sent_bytes": "Bytes that left.",
    "received_bytes": "Bytes that came.",
    "errors": "Times that a connection was lost or could not be made.",
    "reconnects": "Times that a connection was made again.",
}


class Routed(Protocol):
    """What has routes: a `Plane`, or a `BalancedChannel`."""

    @property
    def routes(self) -> tuple[Route, ...]:
        """The ways to the instances."""
        ...


class PlaneCollector(Collector):
    """Shows the connections of planes among other metrics, each time that these are asked for.

    A component that calls others shows them at its own ``/metrics`` so::

        server.dispatcher.metrics.registry.register(PlaneCollector({"captions": plane}))

    A series has the name of its plane and that of the instance; an instance without a name has its
    address until it is connected. The counts of an instance that left its plane are gone.

    Args:
        planes: What to show, each with the name that the label ``plane`` gets.

    Raises:
        MissingExtraError: On importing this module: ``prometheus_client`` is not installed.
    """

    def __init__(self, planes: Mapping[str, Routed]) -> None:
        self._planes = dict(planes)

    def collect(self) -> Iterator[Metric]:
        """Samples for `prometheus_client`."""
        labels = ["plane", "instance"]
        states = GaugeMetricFamily(
            "protoplane_client_connections",
            "Connections in each state.",
            labels=[*labels, "state"],
        )
        since = GaugeMetricFamily(
            "protoplane_client_connection_state_since_timestamp_seconds",
            "When the present state began, in seconds since 1970.",
            labels=labels,
        )
        outstanding = GaugeMetricFamily(
            "protoplane_client_calls_outstanding", "Calls that are open.", labels=labels
        )
        counts = [
            CounterMetricFamily(f"protoplane_client_{name}", what, labels=labels)
            for name, what in _COUNTS.items()
        ]
        for plane, routed in self._planes.items():
            for instance, routes in _by_name(routed.routes).items():
                key = [plane, instance]
                found = Counter(route.state for route in routes)
                for state in ConnectionState:
                    states.add_metric([*key, state.value], found[state])
                stats = [route.stats for route in routes]
                since.add_metric(key, max(each.since_s for each in stats))
                outstanding.add_metric(key, sum(route.outstanding for route in routes))
                for family, count in zip(counts, _total(stats), strict=True):
                    family.add_metric(key, count)
        yield from (states, since, outstanding, *counts)


def _by_name(routes: tuple[Route, ...]) -> dict[str, list[Route]]:
    """Two addresses may lead to one instance, and Prometheus takes each series once."""
    named: dict[str, list[Route]] = {}
    for route in routes:
        named.setdefault(route.name, []).append(route)
    return named


def _total(stats: list[ConnectionStats]) -> tuple[int, ...]:
    """The sums of what `_COUNTS` names, in its order."""
    return (
        sum(each.messages_sent for each in stats),
        sum(each.messages_received for each in stats),
        sum(each.bytes_sent for each in stats),
        sum(each.bytes_received for each in stats),
        sum(each.errors for each in stats),
        sum(each.reconnects for each in stats),
    )
