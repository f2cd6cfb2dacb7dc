"""One worker, as an orchestrator sees it."""

from __future__ import annotations

from collections.abc import Mapping
from time import monotonic
from typing import Final

from protoplane.inference.v1 import Capability, InferenceClient
from protoplane.orchestrator.v1 import Worker as WorkerMessage
from protoplane.orchestrator.v1 import WorkerHealth, WorkerModel
from protoplane_base import PlaneError
from protoplane_client import ConnectionState, Plane, Route
from protoplane_components.inference.announcing import Loaded
from protoplane_runtime.engines.discovery import Instance

FULL: Final = 1_000_000
"""What `Worker.outstanding` is for a worker that has all it takes."""

_AWAY_S = 0.2
_MOST_AWAY_S = 5.0
_LOST = (ConnectionState.RECONNECTING, ConnectionState.FAILED)


class Worker:
    """A worker that is there, and the requests that it has.

    Args:
        instance: How it was announced.
        plane: The way to it; whoever made the worker closes it.
        endpoint: Where that leads.
        capacity: Most requests at a time.

    Attributes:
        models: The models that it has loaded; empty until it says so.
        known: Whether it has said which they are.
        in_flight: Requests that it has, of this orchestrator.
        drained: Whether it is to have no new ones.
        gone: Whether it left discovery.
        dispatched: Requests that it was given.
        failed: Those that it failed.
        last_error: What it failed with last.
    """

    __slots__ = (
        "_away_until",
        "_failures",
        "capacity",
        "client",
        "dispatched",
        "drained",
        "endpoint",
        "failed",
        "gone",
        "in_flight",
        "instance",
        "known",
        "last_error",
        "models",
        "plane",
        "route",
    )

    def __init__(self, instance: Instance, plane: Plane, endpoint: str, capacity: int) -> None:
        self.instance = instance
        self.plane = plane
        self.endpoint = endpoint
        self.capacity = capacity
        # Straight to it: who balances, tries again and gives up is the orchestrator.
        self.route: Route = plane.routes[0]
        self.client = InferenceClient(self.route)
        self.models: Loaded = {}
        self.known = False
        self.in_flight = 0
        self.drained = False
        self.gone = False
        self.dispatched = 0
        self.failed = 0
        self.last_error = ""
        self._failures = 0
        self._away_until = 0.0

    @property
    def name(self) -> str:
        """Name of its instance."""
        return self.instance.name

    @property
    def id(self) -> str:
        """The last segment of it."""
        return self.instance.name.rpartition("/")[2]

    @property
    def metadata(self) -> Mapping[str, str]:
        """What it says of itself."""
        return self.instance.metadata

    @property
    def outstanding(self) -> int:
        """How busy it is, for pickers: its requests relative to what it takes, and what it says."""
        return int(FULL * (self.in_flight / self.capacity + self.instance.load))

    @property
    def has_room(self) -> bool:
        """Whether it takes one more request."""
        return self.in_flight < self.capacity

    @property
    def available(self) -> bool:
        """Whether it is there and not left alone, drained or not."""
        return (
            not self.gone
            and self._away_until <= monotonic()
            and not self.route.draining
            and self.route.state not in _LOST
        )

    def can(self, model: str, capability: Capability) -> bool:
        """Whether something can be asked of a model of it."""
        found = self.models.get(model)
        return found is not None and capability in found

    def answered(self) -> None:
        """A request went well."""
        self._failures = 0

    def fell_away(self, error: PlaneError) -> None:
        """It was lost, or said that it is away: it is left alone for 0.2 s, doubling to 5 s."""
        self.last_error = error.message
        now = monotonic()
        # All its requests fail in the same moment, which is one failure.
        if now >= self._away_until:
            self._failures += 1
            away_s = min(_MOST_AWAY_S, _AWAY_S * 2.0 ** min(self._failures - 1, 10))
            self._away_until = now + away_s

    @property
    def health(self) -> WorkerHealth:
        """Whether it can be given requests."""
        if self.drained or self.gone or self.route.draining:
            return WorkerHealth.WORKER_HEALTH_DRAINING
        if not self.available:
            return WorkerHealth.WORKER_HEALTH_AWAY
        if not self.known:
            return WorkerHealth.WORKER_HEALTH_STARTING
        if not self.has_room:
            return WorkerHealth.WORKER_HEALTH_BUSY
        return WorkerHealth.WORKER_HEALTH_READY

    def message(self) -> WorkerMessage:
        """It as callers are told of it."""
        health = self.health
        models = [
            WorkerModel(name=name, capabilities=sorted(can))
            for name, can in sorted(self.models.items())
        ]
        away = health == WorkerHealth.WORKER_HEALTH_AWAY
        return WorkerMessage(
            id=self.id,
            name=self.name,
            endpoint=self.endpoint,
            health=health,
            reason=(self.last_error or "its connection is lost") if away else "",
            in_flight=self.in_flight,
            capacity=self.capacity,
            load=self.instance.load,
            models=models,
            capabilities=sorted({each for can in self.models.values() for each in can}),
            dispatched=self.dispatched,
            failed=self.failed,
        )
