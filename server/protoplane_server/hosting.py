"""What a server gives the components that ask for it: what they do outside of calls needs it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from protoplane_base import Message
from protoplane_runtime.engines.discovery import DEFAULT_NAMESPACE, Discovery
from protoplane_runtime.engines.interface import EventLog
from protoplane_runtime.engines.objects.interface import ObjectStore
from protoplane_runtime.engines.state import StateStore
from protoplane_server.access import Access
from protoplane_server.publishing import publish

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry


async def _nobody_to_tell() -> None:
    """There is no engine."""


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
        metadata: What others are told of this instance by discovery. Components add to it until
            they are entered, and await `reannounce` where they change it later.
        engine_url: URL of the engine; empty where the server has none.
        reannounce: Tells others what `metadata` is now; before the instance is announced, and
            without an engine, it does nothing. Raises PlaneError where the engine is away.
    """

    name: str
    events: EventLog
    state: StateStore | None
    open_objects: Callable[[], Awaitable[ObjectStore]]
    metrics: CollectorRegistry
    discovery: Discovery | None = None
    namespace: str = DEFAULT_NAMESPACE
    metadata: dict[str, str] = field(default_factory=dict[str, str], hash=False)
    engine_url: str = ""
    reannounce: Callable[[], Awaitable[None]] = _nobody_to_tell

    async def publish(
        self,
        event: Message,
        *,
        key: str | None = None,
        publisher: str | None = None,
        number: int | None = None,
    ) -> str:
        """Publish an event outside of a call; see `protoplane_base.Context.publish`."""
        return await publish(self.events, event, key, publisher, number)


@runtime_checkable
class Hosted(Protocol):
    """A component that wants to know its host."""

    def hosted(self, host: Host) -> None:
        """The server starts: its engine is open, and the component is entered next."""
        ...


@runtime_checkable
class BringsAccess(Protocol):
    """A component that says itself who may call, at every door of its server."""

    def who_may_call(self) -> Access | None:
        """Asked once the component is entered, before the doors open; ``None`` for everybody."""
        ...


@runtime_checkable
class Endless(Protocol):
    """A component with methods whose calls last until somebody ends them.

    When the server stops, it ends them at once and does not wait for them.
    """

    endless_methods: Collection[str]
    """Names of these methods, ``Watch`` for example."""
