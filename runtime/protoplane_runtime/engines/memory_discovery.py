"""Discovery of the engine ``memory:``: instances of this process, gone with it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

from protoplane_runtime.engines.discovery import DEFAULT_NAMESPACE, Change, Instance, Registration
from protoplane_runtime.engines.roster import (
    Roster,
    RosterRegistration,
    check_asked,
    closed_error,
    place_of,
    taken,
)


class MemoryDiscovery:
    """A `Discovery` in memory; use it from one event loop."""

    def __init__(self) -> None:
        self._roster = Roster()
        self._registered: set[RosterRegistration] = set()

    @asynccontextmanager
    async def register(self, instance: Instance) -> AsyncGenerator[Registration, None]:
        """Let others find an instance; see `Discovery.register`."""
        if self._roster.closed:
            raise closed_error()
        if place_of(instance) in self._roster:
            raise taken(instance)

        async def tell(changed: Instance) -> None:
            self._roster.put(changed)

        self._roster.put(instance)
        registration = RosterRegistration(instance, tell)
        self._registered.add(registration)
        try:
            yield registration
        finally:
            if not registration.ended:
                self._end(registration)

    async def instances(
        self, path: str | None = None, *, namespace: str | None = DEFAULT_NAMESPACE
    ) -> Sequence[Instance]:
        """Which instances there are now; see `Discovery.instances`."""
        check_asked(path, namespace)
        if self._roster.closed:
            raise closed_error()
        return self._roster.select(path, namespace)

    def watch(
        self, path: str | None = None, *, namespace: str | None = DEFAULT_NAMESPACE
    ) -> AsyncGenerator[Sequence[Change], None]:
        """Follow who comes and goes; see `Discovery.watch`."""
        check_asked(path, namespace)
        return self._roster.watch(path, namespace)

    async def close(self) -> None:
        """End all watches and let go of what is still registered."""
        for registration in tuple(self._registered):
            self._end(registration)
        self._roster.close()

    def _end(self, registration: RosterRegistration) -> None:
        registration.ended = True
        self._registered.discard(registration)
        self._roster.remove(place_of(registration.instance))
