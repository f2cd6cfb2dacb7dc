"""Routes to whom discovery says is there, each by the best way from here."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path

from protoplane_base import PlaneError, ProtoplaneError
from protoplane_client.backoff import Backoff
from protoplane_client.balanced import BalancedChannel
from protoplane_client.route import Route
from protoplane_client.targets import Target, parse_target
from protoplane_runtime.engines.discovery import (
    DEFAULT_NAMESPACE,
    Change,
    Discovery,
    Instance,
    Joined,
    Left,
)
from protoplane_runtime.link.carriers.inprocess import host_at
from protoplane_runtime.link.errors import UnsentError

_log = logging.getLogger("protoplane.client")

READY_S = 5.0
"""Longest wait for the first instance."""

_LOOPBACK = ("127.", "localhost", "[::1]")
_WILDCARDS = ("0.0.0.0", "[::]")  # noqa: S104  # what others listen on
_SOCKETS = ("link+unix:", "unix:")

MakeRoute = Callable[[str, Target], Route]
"""Makes a route to the instance of a name; it need not connect."""


@dataclass(frozen=True, slots=True)
class Here:
    """Where this process runs.

    Attributes:
        host: Name of the machine.
        pid: The process there.
    """

    host: str = field(default_factory=socket.gethostname)
    pid: int = field(default_factory=os.getpid)


def ways(instance: Instance, here: Here | None = None) -> Sequence[Target]:
    """The endpoints of an instance that can be used from here, in its own order of preference.

    What is inside a process is for that process, unix sockets and addresses of the loopback are for
    their machine, and a carrier whose extra is not installed is for nobody. An address that stands
    for every interface stands for the loopback on its own machine, and for the machine's name
    elsewhere.

    Args:
        instance: Whom to reach.
        here: Where from; this process by default.
    """
    here = here or Here()
    found = (_way(endpoint, instance, here) for endpoint in instance.endpoints)
    return tuple(way for way in found if way is not None)


class Resolver:
    """Keeps the routes of a channel those to the instances that a path means.

    From `start` to `aclose` it owns one task. Who joins gets a route, who leaves loses it once its
    open calls are done, and who moved gets another. While the engine is away the routes stay as
    they are; where it refuses to be watched, it is asked again, after 100 ms, doubling to 5 s.

    Args:
        discovery: Says who is there; whoever opened it closes it, after this. Or what opens it,
            once `start` wants it; then this closes it.
        path: Path of an instance, a component or a collection.
        channel: What calls go through; whoever opened it closes it, after this.
        route: Makes a route to an instance.
        namespace: Where the instances are.
        here: Where this process runs.
    """

    def __init__(
        self,
        discovery: Discovery | Callable[[], Awaitable[Discovery]],
        path: str,
        channel: BalancedChannel,
        route: MakeRoute,
        *,
        namespace: str = DEFAULT_NAMESPACE,
        here: Here | None = None,
    ) -> None:
        self._discovery = discovery
        self._path = path
        self._channel = channel
        self._make = route
        self._namespace = namespace
        self._here = here or Here()
        self._instances: dict[str, Instance] = {}
        self._routes: dict[str, tuple[Target, Route]] = {}
        self._some = asyncio.Event()
        self._error: PlaneError | None = None
        self._task: asyncio.Task[None] | None = None
        self._opened: Discovery | None = None
        channel.absence = self._why_nobody

    @property
    def instances(self) -> Sequence[Instance]:
        """Who is there, as far as is known."""
        return tuple(self._instances.values())

    def start(self) -> None:
        """Begin to follow, on the running loop; where it began already this does nothing."""
        if self._task is None:
            self._task = asyncio.create_task(self._follow())

    async def ready(self, timeout_s: float = READY_S) -> None:
        """Wait until there is somebody to call, after `start` if need be.

        Args:
            timeout_s: Seconds to wait at most.

        Raises:
            UnsentError: There was nobody, or nobody whom this process can reach.
        """
        if self._routes:
            return
        self.start()
        try:
            async with asyncio.timeout(timeout_s):
                await self._some.wait()
        except TimeoutError:
            raise UnsentError(self._why_nobody()) from self._error

    def http(self) -> Sequence[tuple[str, Instance]]:
        """Addresses of HTTP doors that can be used from here, each with its instance."""
        found: list[tuple[str, Instance]] = []
        for instance in self.instances:
            doors = (way for way in ways(instance, self._here) if way.door == "http")
            found += [(way.address, instance) for way in doors]
        return found

    async def aclose(self) -> None:
        """Follow no more; the routes stay with the channel. Closing twice does nothing."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        opened, self._opened = self._opened, None
        if opened is not None:
            await opened.close()

    async def _follow(self) -> None:
        backoff = Backoff(first_s=0.1, limit_s=5.0)
        while True:
            try:
                discovery = self._discovery
                if callable(discovery):
                    self._opened = discovery = self._opened or await discovery()
                changes = discovery.watch(self._path, namespace=self._namespace)
                async with aclosing(changes):
                    first = True
                    async for batch in changes:
                        self._error = None
                        backoff.reset()
                        if first:
                            self._begin(batch)
                            first = False
                        self._take(batch)
            except PlaneError as error:
                self._error = error
                _log.warning("who serves %s is not known: %s", self._path, error.message)
            else:
                return  # The discovery was closed.
            await asyncio.sleep(backoff.next_s())

    def _begin(self, snapshot: Iterable[Change]) -> None:
        """Forget those that left while nobody watched."""
        there = {change.instance.name for change in snapshot}
        for name in self._instances.keys() - there:
            del self._instances[name]
            self._routes.pop(name, None)

    def _take(self, changes: Iterable[Change]) -> None:
        for change in changes:
            name = change.instance.name
            if isinstance(change, Left):
                self._instances.pop(name, None)
                self._routes.pop(name, None)
            else:
                known = self._instances.get(name)
                self._instances[name] = change.instance
                if isinstance(change, Joined) and known != change.instance:
                    self._routes.pop(name, None)
                self._reroute(change.instance)
        self._channel.replace([route for _, route in self._routes.values()])
        if self._routes:
            self._some.set()
        else:
            self._some.clear()

    def _reroute(self, instance: Instance) -> None:
        before = self._routes.get(instance.name)
        for way in ways(instance, self._here):
            if before is not None and before[0] == way:
                return
            try:
                self._routes[instance.name] = way, self._make(instance.name, way)
            except (ProtoplaneError, OSError) as error:
                _log.warning("%s cannot be reached at %s: %s", instance.name, way.address, error)
            else:
                return
        self._routes.pop(instance.name, None)

    def _why_nobody(self) -> str:
        if self._instances:
            unreachable = ", ".join(sorted(self._instances))
            return (
                f"no address of {unreachable} can be used from {self._here.host}; let them listen "
                "on one that can, for example --host 0.0.0.0"
            )
        if self._error is not None:
            return f"who serves {self._path} is not known: {self._error.message}"
        return (
            f"nobody serves {self._path} in the namespace {self._namespace}; start it, or look who "
            "is there with `protoplane ps`"
        )


def _way(endpoint: str, instance: Instance, here: Here) -> Target | None:
    same_host = instance.host == here.host
    for wildcard in _WILDCARDS:
        if f"//{wildcard}:" in endpoint:
            host = "127.0.0.1" if same_host else instance.host
            endpoint = endpoint.replace(f"//{wildcard}:", f"//{host}:")
    try:
        way = parse_target(endpoint)
        if way.door == "inproc":
            host_at(way.address)  # Raises where nobody is.
            return way if same_host and instance.pid == here.pid else None
    except ProtoplaneError:
        return None
    if endpoint.startswith(_SOCKETS):
        path = Path(endpoint.partition(":")[2].removeprefix("//"))
        return way if same_host and path.exists() else None
    host = endpoint.partition("://")[2]
    # Whoever made a list of addresses by hand says nothing of machines, and means what he wrote.
    if host.startswith(_LOOPBACK) and not same_host and instance.host:
        return None
    return way
