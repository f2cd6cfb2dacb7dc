"""The instances that one process knows of, and those in it who watch them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.discovery import (
    DEFAULT_NAMESPACE,
    Change,
    Changed,
    Instance,
    Joined,
    Left,
    check_namespace,
)
from protoplane_runtime.entities import check_path

Place = tuple[str, str]
"""Namespace and name: what tells one instance from another."""


class Roster:
    """What a driver of `Discovery` knows now; use it on one event loop.

    The driver keeps it up to date. A watcher holds what it was told last, and is told the
    difference when it asks.
    """

    def __init__(self) -> None:
        self._instances: dict[Place, Instance] = {}
        self._changed = asyncio.Event()
        self._version = 0
        self._error: PlaneError | None = None
        self._closed = False

    def __contains__(self, place: Place) -> bool:
        return place in self._instances

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._closed

    def require_open(self) -> None:
        """Make sure that it is not closed.

        Raises:
            PlaneError: UNAVAILABLE; it is.
        """
        if self._closed:
            raise closed_error()

    def put(self, instance: Instance) -> None:
        """Add an instance, or what is new about it."""
        self._instances[place_of(instance)] = instance
        self._wake()

    def remove(self, place: Place) -> None:
        """Take an instance out; nothing where it is not there."""
        if self._instances.pop(place, None) is not None:
            self._wake()

    def replace(self, instances: Iterable[Instance]) -> None:
        """Make these all that there are."""
        found = {place_of(instance): instance for instance in instances}
        if found != self._instances:
            self._instances = found
            self._wake()

    def fail(self, error: PlaneError) -> None:
        """End all watches of now with an error."""
        self._error = error
        self._wake()
        self._error = None

    def close(self) -> None:
        """End all watches."""
        self._closed = True
        self._wake()

    def select(self, path: str | None, namespace: str | None) -> Sequence[Instance]:
        """The instances at a path, the oldest first."""
        found = (each for each in self._instances.values() if meant(each, path, namespace))
        return tuple(sorted(found, key=lambda each: (each.started_s, each.name)))

    async def watch(
        self, path: str | None, namespace: str | None
    ) -> AsyncGenerator[Sequence[Change], None]:
        """Follow the instances at a path; see `Discovery.watch`."""
        told: dict[Place, Instance] | None = None
        version = -1
        while not self._closed:
            if version == self._version:
                changed = self._changed
                await changed.wait()
                if self._error is not None:
                    raise self._error
                continue
            version = self._version
            now = {place_of(each): each for each in self.select(path, namespace)}
            changes = difference(told or {}, now)
            if changes or told is None:
                told = now
                yield changes

    def _wake(self) -> None:
        self._version += 1
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


def place_of(instance: Instance) -> Place:
    """What tells an instance from others."""
    return instance.namespace, instance.name


def check_asked(path: str | None, namespace: str | None) -> None:
    """Make sure that a path and a namespace can be asked for.

    Raises:
        PlaneError: INVALID_ARGUMENT; they cannot.
    """
    if path is not None:
        check_path(path)
    if namespace is not None:
        check_namespace(namespace)


def meant(instance: Instance, path: str | None, namespace: str | None = DEFAULT_NAMESPACE) -> bool:
    """Whether who asks for a path in a namespace means an instance."""
    if namespace is not None and instance.namespace != namespace:
        return False
    return path is None or instance.name == path or instance.name.startswith(f"{path}/")


def difference(before: Mapping[Place, Instance], now: Mapping[Place, Instance]) -> Sequence[Change]:
    """What leads from some instances to others; who left comes first."""
    left: list[Change] = []
    rest: list[Change] = []
    for place, instance in before.items():
        if place not in now or not _same(instance, now[place]):
            left.append(Left(instance))
    for place, instance in now.items():
        known = before.get(place)
        if known is None or not _same(known, instance):
            rest.append(Joined(instance))
        elif known != instance:
            rest.append(Changed(instance))
    return (*left, *rest)


class RosterRegistration:
    """A `Registration`; ``tell`` brings what is new to the others.

    Args:
        instance: What they are told at first.
        tell: Brings it to them.
    """

    def __init__(self, instance: Instance, tell: Callable[[Instance], Awaitable[None]]) -> None:
        self._instance = instance
        self._tell = tell
        self._turn = asyncio.Lock()
        self.ended = False

    @property
    def instance(self) -> Instance:
        """What others are told."""
        return self._instance

    async def update(
        self,
        *,
        load: float | None = None,
        metadata: Mapping[str, str] | None = None,
        endpoints: Sequence[str] | None = None,
    ) -> None:
        """Tell others something new; see `Registration.update`."""
        async with self._turn:
            if self.ended:
                raise PlaneError(
                    Code.UNAVAILABLE,
                    f"{self._instance.name} is registered no more; update it within the block",
                )
            before = self._instance
            changed = replace(
                before,
                load=before.load if load is None else load,
                metadata=before.metadata if metadata is None else dict(metadata),
                endpoints=before.endpoints if endpoints is None else tuple(endpoints),
            )
            if changed != before:
                await self._tell(changed)
                self._instance = changed


def taken(instance: Instance) -> PlaneError:
    """The error of who registers a name that another has."""
    return PlaneError(
        Code.ALREADY_EXISTS,
        f"an instance {instance.name} is registered already in the namespace {instance.namespace}; "
        "give this one another id",
    )


def closed_error() -> PlaneError:
    """The error of who uses a discovery that is closed."""
    return PlaneError(Code.UNAVAILABLE, "the discovery is closed")


def _same(one: Instance, other: Instance) -> bool:
    return (one.started_s, one.pid, one.host) == (other.started_s, other.pid, other.host)
