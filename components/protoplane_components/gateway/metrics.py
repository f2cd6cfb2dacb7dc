"""What the gateway counts, by key and by model, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from prometheus_client import Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from protoplane_server.metrics import BUCKETS_S

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

_MOST_NAMES = 1000
OTHER = "other"
"""Label of the keys, or models, past the first thousand: each would be time series of its own."""


class GatewayMetrics:
    """Counts requests.

    Args:
        registry: Where to register.
        open_requests: Gives how many requests are open, by caller.
        audit_lost: Gives how many records of the audit log were lost.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        open_requests: Callable[[], Mapping[str, int]],
        audit_lost: Callable[[], int],
    ) -> None:
        self._keys: set[str] = set()
        self._models: set[str] = set()
        self._requests = Counter(
            "protoplane_gateway_requests",
            "Requests that are over, by code.",
            ["key", "model", "method", "code"],
            registry=registry,
        )
        self._tokens = Counter(
            "protoplane_gateway_tokens",
            "Tokens that were read (prompt) and written (completion).",
            ["key", "model", "kind"],
            registry=registry,
        )
        self._seconds = Histogram(
            "protoplane_gateway_request_seconds",
            "How long requests took that were answered.",
            ["model", "method"],
            buckets=BUCKETS_S,
            registry=registry,
        )
        self._first = Histogram(
            "protoplane_gateway_first_token_seconds",
            "How long the first piece of an answer took.",
            ["model"],
            buckets=BUCKETS_S,
            registry=registry,
        )
        registry.register(_Gauges(open_requests, audit_lost, self._key))

    def ended(
        self,
        *,
        method: str,
        code: str,
        key: str = "",
        model: str = "",
        took_s: float = 0.0,
        first_s: float | None = None,
        prompt_tokens: int = 0,
        completion_tokens: int = 0,
    ) -> None:
        """Count a request that is over."""
        key = self._key(key)
        # Anybody can ask for any model; only those that answered get a name here.
        model = _one_of(model, self._models, known_only=code != "OK")
        self._requests.labels(key, model, method, code).inc()
        if prompt_tokens:
            self._tokens.labels(key, model, "prompt").inc(prompt_tokens)
        if completion_tokens:
            self._tokens.labels(key, model, "completion").inc(completion_tokens)
        if code == "OK":
            self._seconds.labels(model, method).observe(took_s)
        if first_s is not None:
            self._first.labels(model).observe(first_s)

    def _key(self, key: str) -> str:
        return _one_of(key, self._keys)


class _Gauges(Collector):
    def __init__(
        self,
        open_requests: Callable[[], Mapping[str, int]],
        audit_lost: Callable[[], int],
        name: Callable[[str], str],
    ) -> None:
        self._open = open_requests
        self._lost = audit_lost
        self._name = name

    def collect(self) -> Iterator[Metric]:
        """Samples for `prometheus_client`."""
        gauge = GaugeMetricFamily(
            "protoplane_gateway_open_requests", "Requests that are open.", labels=["key"]
        )
        found: dict[str, int] = {}
        for name, count in self._open().items():
            known = self._name(name)
            found[known] = found.get(known, 0) + count
        for name, count in found.items():
            gauge.add_metric([name], count)
        yield gauge
        yield CounterMetricFamily(
            "protoplane_gateway_audit_lost",
            "Records of the audit log that were lost.",
            value=self._lost(),
        )


def _one_of(name: str, names: set[str], *, known_only: bool = False) -> str:
    if name in names or not name:
        return name
    if known_only or len(names) >= _MOST_NAMES:
        return OTHER
    names.add(name)
    return name
