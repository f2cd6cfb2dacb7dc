"""What the services of the planes stand on."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.discovery import DEFAULT_NAMESPACE
from protoplane_runtime.engines.engine import Engine
from protoplane_runtime.engines.interface import EventLog
from protoplane_runtime.engines.objects.interface import ObjectStore
from protoplane_runtime.engines.objects.opening import open_object_store

if TYPE_CHECKING:
    from protoplane_server.planes.uploads import Uploads


@dataclass(frozen=True, slots=True)
class Floor:
    """What is open.

    Attributes:
        events: The event log that the component publishes to.
        engine: Discovery, state and what else the engine has.
        objects: The object store.
        uploads: Uploads that can be gone on with.
    """

    events: EventLog
    engine: Engine
    objects: ObjectStore
    uploads: Uploads


class Ground:
    """Holds what the services of the planes stand on, while their server runs.

    Args:
        namespace: Where discovery looks for those who name no namespace.
        max_bytes: Most bytes of one answer, roughly, where it is made of many parts.
    """

    def __init__(self, *, namespace: str = DEFAULT_NAMESPACE, max_bytes: int = 1_000_000) -> None:
        self.namespace = namespace
        self.max_bytes = max_bytes
        self._floor: Floor | None = None

    @property
    def floor(self) -> Floor:
        """What is open.

        Raises:
            PlaneError: UNAVAILABLE; nothing is, because the server does not run.
        """
        if self._floor is None:
            raise PlaneError(Code.UNAVAILABLE, "the server is not running; call another instance")
        return self._floor

    @asynccontextmanager
    async def open(
        self, engine: Engine, events: EventLog, objects_url: str
    ) -> AsyncGenerator[None, None]:
        """Stand on an engine for as long as the block runs.

        Args:
            engine: The engine; whoever opened it closes it, after this.
            events: The event log; the same.
            objects_url: URL of the object store, see
                `protoplane_runtime.engines.objects.opening.open_object_store`.

        Raises:
            PlaneError, MissingExtraError: The object store cannot be opened.
        """
        # It knows of the engines' storage, which a server without planes does not need.
        from protoplane_server.planes.uploads import Uploads

        objects = await open_object_store(objects_url)
        async with Uploads() as uploads:
            self._floor = Floor(events, engine, objects, uploads)
            try:
                yield
            finally:
                self._floor = None


def objects_beside(engine_url: str) -> str:
    """URL of the object store that goes with an engine, where none is named.

    ``memory:`` for engines that live in one process; the same folder for ``local:``; else the
    default one of this machine.
    """
    scheme, _, rest = engine_url.partition(":")
    if scheme in ("memory", "static"):
        return "memory:"
    folder = rest.partition("?")[0] if scheme == "local" else ""
    return f"local:{folder}"
