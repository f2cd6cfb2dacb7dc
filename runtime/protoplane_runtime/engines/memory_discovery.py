"""Discovery of the engine ``memory:``: instances of this process, gone with it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import asynccontextmanager

from protoplane_runtime.engines.discovery import DEFAULT_NAMESPACE, Change, Instance, Registration
from protoplane_runtime.engines.roster import (
    Place,
    Roster,
    RosterRegistration,
    check_asked,
    place_of,
    taken,
)


class MemoryDiscovery:
    """A `Discovery` in memory; use it from one event loop.

    Others derive from it that are told who else is there.
    """

    def __init__(self) -> None:
        self._roster = Roster()
        self._own: dict[Place, RosterRegistration] = {}
        self._others: tuple[Instance, ...] = ()

    @asynccontextmanager
    async def register(self, instance: Instance) -> AsyncGenerator[Registration, None]:
        """Let others in this process find an instance; see `Discovery.register`."""
        self._roster.require_open()
        place = place_of(instance)
        if place in self._roster:
            raise taken(instance)

        async def tell(changed: Instance) -> None:
            self._roster.put(changed)

        registration = self._own[place] = RosterRegistration(instance, tell)
        self._roster.put(instance)
        try:
            yield registration
        finally:
            registration.ended = True
            if self._own.pop(place, None) is not None:
                self._show(self._others)

    async def instances(
        self, path: str | None = None, *, namespace: str | None = DEFAULT_NAMESPACE
    ) -> Sequence[Instance]:
        """Which instances there are now; see `Discovery.instances`."""
        check_asked(path, namespace)
        self._roster.require_open()
        return self._roster.select(path, namespace)

    def watch(
        self, path: str | None = None, *, namespace: str | None = DEFAULT_NAMESPACE
    ) -> AsyncGenerator[Sequence[Change], None]:
        """Follow who comes and goes; see `Discovery.watch`."""
        check_asked(path, namespace)
        return self._roster.watch(path, namespace)

    async def close(self) -> None:
        """End all watches and let go of what is still registered."""
        for registration in self._own.values():
            registration.ended = True
        self._own.clear()
        self._show(self._others)
        self._roster.close()

    def _show(self, others: Iterable[Instance]) -> None:
        """Make these, and those that are registered here, all that there are."""
        self._others = tuple(others)
        own = (registration.instance for registration in self._own.values())
        self._roster.replace((*self._others, *own))
