"""What stands behind discovery: the contract that every engine keeps.

An instance says where it is reached and what it serves, for as long as it lives; others look it up
by the path of the instance, of its component, or of any collection above that.
"""

from __future__ import annotations

import math
import os
import secrets
import socket
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from pydantic import TypeAdapter, ValidationError

from protoplane_base import Code, PlaneError
from protoplane_runtime.entities import EntityId, check_path

DEFAULT_NAMESPACE = "default"
"""The namespace of those who name none."""

_INTERNAL = "protoplane."

# What pydantic makes of the annotations has to be there when it looks for them.
_Texts = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Instance:
    """A running component, as it tells others of itself.

    Attributes:
        name: ``<component>/<id>``, its path.
        endpoints: Addresses of its doors, the best first: ``inproc:<name>``, ``link+unix:/path``,
            ``link+tcp://host:port``, ``grpc://host:port``, ``http://host:port``.
        services: Full names of the proto services that it serves.
        protocols: What else it speaks at these doors, for example ``sse`` or ``kserve.v2``.
        metadata: What its owner says of it, for example the model that it holds.
        load: How busy it is; 0 for idle, 1 for as much as it can take.
        namespace: Who can see it: those who ask in the same namespace.
        started_s: When it started, in seconds since 1970.
        host: Name of its machine.
        pid: Its process there.
        log: Which event log it publishes to; instances that say the same share it. Empty where that
            is not known.

    Raises:
        PlaneError: INVALID_ARGUMENT; one of them is none.
    """

    name: str
    endpoints: _Texts = ()
    services: _Texts = ()
    protocols: _Texts = ()
    metadata: Mapping[str, str] = field(default_factory=dict[str, str], hash=False)
    load: float = 0.0
    namespace: str = DEFAULT_NAMESPACE
    started_s: float = field(default_factory=time.time)
    host: str = field(default_factory=socket.gethostname)
    pid: int = field(default_factory=os.getpid)
    log: str = ""

    def __post_init__(self) -> None:
        check_path(self.name)
        if "/" not in self.name:
            raise PlaneError(
                Code.INVALID_ARGUMENT,
                f"{self.name!r} names no instance; one looks like forge/captioner/1f3a9c20: the "
                "component, then the id",
            )
        check_namespace(self.namespace)
        if not (math.isfinite(self.load) and self.load >= 0):
            raise PlaneError(
                Code.INVALID_ARGUMENT,
                f"a load is 0 or more, and that of {self.name} is {self.load}",
            )

    @property
    def component(self) -> str:
        """Path of its component."""
        return self.name.rpartition("/")[0]

    @property
    def id(self) -> EntityId:
        """Its entity id."""
        return EntityId.of(self.name)

    def to_json(self) -> bytes:
        """It as JSON."""
        return _ADAPTER.dump_json(self)

    @classmethod
    def from_json(cls, data: bytes | str) -> Instance:
        """Read what `to_json` wrote, or something like it.

        Raises:
            PlaneError: INVALID_ARGUMENT with what is wrong.
        """
        try:
            return _ADAPTER.validate_json(data)
        except ValidationError as error:
            raise _invalid(error) from None

    @classmethod
    def from_data(cls, data: Any) -> Instance:
        """Make one of what a JSON or TOML file holds.

        Raises:
            PlaneError: INVALID_ARGUMENT with what is wrong.
        """
        try:
            return _ADAPTER.validate_python(data)
        except ValidationError as error:
            raise _invalid(error) from None


_ADAPTER = TypeAdapter(Instance)


@dataclass(frozen=True, slots=True)
class Joined:
    """An instance is there, for the one who is told the first time."""

    instance: Instance


@dataclass(frozen=True, slots=True)
class Changed:
    """An instance says something else of itself than before."""

    instance: Instance


@dataclass(frozen=True, slots=True)
class Left:
    """An instance is gone: it said so, or it died."""

    instance: Instance


Change = Joined | Changed | Left
"""What a watcher is told."""


class Registration(Protocol):
    """An instance that is registered."""

    @property
    def instance(self) -> Instance:
        """What others are told."""
        ...

    async def update(
        self,
        *,
        load: float | None = None,
        metadata: Mapping[str, str] | None = None,
        endpoints: Sequence[str] | None = None,
    ) -> None:
        """Tell others something new; what is left out stays.

        Cancelling it may leave others told.

        Raises:
            PlaneError: INVALID_ARGUMENT for what cannot be, UNAVAILABLE where the instance is
                registered no more, or the engine is away.
        """
        ...


class Discovery(Protocol):
    """Says which instances there are.

    What a watcher sees of one instance is in order, and what it sees last is how things are; steps
    in between may be left out. Nothing orders the changes of different instances. An instance is
    there for others within 100 ms on one machine, and gone as fast when its process dies.

    While the engine is away, registering and `instances` raise UNAVAILABLE; registrations and
    watches go on, keep what they know, and catch up by themselves when it is back. Engines of one
    machine are never away.
    """

    def register(self, instance: Instance) -> AbstractAsyncContextManager[Registration]:
        """Let others find an instance for as long as the block runs, or the process lives.

        Cancelling a block that is being entered leaves nothing registered.

        Raises:
            PlaneError: On entering: ALREADY_EXISTS where one of that name is there already,
                UNAVAILABLE where the engine is away or closed, PERMISSION_DENIED where it may not
                be told to others.
        """
        ...

    async def instances(
        self, path: str | None = None, *, namespace: str | None = DEFAULT_NAMESPACE
    ) -> Sequence[Instance]:
        """Which instances there are now, the oldest first.

        Args:
            path: Path of an instance, a component or a collection; all there are where absent.
            namespace: Where to look; ``None`` for everywhere.

        Raises:
            PlaneError: INVALID_ARGUMENT for what is no path, UNAVAILABLE where the engine is away.
        """
        ...

    def watch(
        self, path: str | None = None, *, namespace: str | None = DEFAULT_NAMESPACE
    ) -> AsyncGenerator[Sequence[Change], None]:
        """Follow who comes and goes; arguments as in `instances`.

        The first batch is `Joined` for all who are there, and comes also where nobody is. An
        instance that was replaced by another of its name is `Left`, then `Joined`. Watching holds
        what was told and nothing more, however slow the watcher is. The stream ends when the
        discovery is closed; leaving it, or cancelling who waits on it, gives back what it holds.

        Raises:
            PlaneError: INVALID_ARGUMENT for what is no path.
        """
        ...

    async def close(self) -> None:
        """End all watches and let go of what is still registered; twice does nothing more."""
        ...


def is_internal(namespace: str) -> bool:
    """Whether a namespace is one of Protoplane's own, in which there are no components."""
    return namespace.startswith(_INTERNAL)


def check_namespace(namespace: str) -> None:
    """Make sure that a text is a namespace: one name of ``A-Z a-z 0-9 . _ -``.

    Raises:
        PlaneError: INVALID_ARGUMENT with what is wrong.
    """
    check_path(namespace)
    if "/" in namespace:
        raise PlaneError(
            Code.INVALID_ARGUMENT, f"{namespace!r} is no namespace: it is one name, without '/'"
        )


def instance_name(component: str) -> str:
    """A name for a new instance of a component: ``<component>/<id>``."""
    return f"{component}/{secrets.token_hex(4)}"


def _invalid(error: ValidationError) -> PlaneError:
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(map(str, first["loc"]))
    return PlaneError(
        Code.INVALID_ARGUMENT, f"this is no instance: {place + ': ' if place else ''}{first['msg']}"
    )
