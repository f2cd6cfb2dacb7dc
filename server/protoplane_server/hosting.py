"""What a server gives the components that ask for it: what they do outside of calls needs it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from prometheus_client import CollectorRegistry

from protoplane_base import Message
from protoplane_runtime.engines.discovery import DEFAULT_NAMESPACE, Discovery
from protoplane_runtime.engines.interface import EventLog
from protoplane_runtime.engines.objects.interface import ObjectStore
from protoplane_runtime.engines.state import StateStore
from protoplane_server.publishing import publish


@dataclass(frozen=True, slots=True)
class Host:
    """The server that a component is in.

    Attributes:
        name: Name of the instance, ``<component>/<id>``.
        events: Where handlers publish.
        state: The state plane; ``None`` where the server has no engine.
        open_objects: Opens the object store; where the planes are served, it is theirs. There is
            nothing to close.
        metrics: Where to register collectors; ``/metrics`` shows them all.
        discovery: Who is there; ``None`` where the server has no engine.
        namespace: Where this instance is found, and should look for others.
    """

    name: str
    events: EventLog
    state: StateStore | None
    open_objects: Callable[[], Awaitable[ObjectStore]]
    metrics: CollectorRegistry
    discovery: Discovery | None = None
    namespace: str = DEFAULT_NAMESPACE

    async def publish(self, event: Message, *, key: str | None = None) -> str:
        """Publish an event outside of a call; see `protoplane_base.Context.publish`."""
        return await publish(self.events, event, key)


@runtime_checkable
class Hosted(Protocol):
    """A component that wants to know its host."""

    def hosted(self, host: Host) -> None:
        """The server starts: its engine is open, and the component is entered next."""
        ...
