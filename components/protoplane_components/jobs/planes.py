"""The planes that a queue of jobs stands on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.discovery import DEFAULT_NAMESPACE, Discovery
from protoplane_runtime.engines.engine import Engine
from protoplane_runtime.engines.interface import EventLog
from protoplane_runtime.engines.objects.interface import ObjectStore
from protoplane_runtime.engines.state import StateStore
from protoplane_server import Host


@dataclass(frozen=True, slots=True)
class JobPlanes:
    """The planes that a queue of jobs stands on.

    Attributes:
        state: Holds the records.
        events: Where updates are published.
        discovery: Says which workers there are.
        objects: Holds the images.
        namespace: Where workers are found.
    """

    state: StateStore
    events: EventLog
    discovery: Discovery
    objects: ObjectStore
    namespace: str = DEFAULT_NAMESPACE

    @classmethod
    async def of_host(cls, host: Host) -> Self:
        """Those of the server that a component is in.

        Raises:
            PlaneError: FAILED_PRECONDITION where it has no engine; what opening the object store
                raises.
        """
        if host.state is None or host.discovery is None:
            raise PlaneError(
                Code.FAILED_PRECONDITION,
                "jobs are kept by an engine, and this server has none; give it one, for example "
                "Options(engine='local:')",
            )
        objects = await host.open_objects()
        return cls(host.state, host.events, host.discovery, objects, host.namespace)

    @classmethod
    def of_engine(
        cls, engine: Engine, objects: ObjectStore, namespace: str = DEFAULT_NAMESPACE
    ) -> Self:
        """Those of an engine, for processes that serve nothing."""
        return cls(engine.state, engine.events, engine.discovery, objects, namespace)
