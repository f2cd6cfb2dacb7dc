"""One way to one instance: what load balancing chooses among."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from time import time
from typing import Protocol, runtime_checkable

from protoplane_base import Channel


class ConnectionState(Enum):
    """Where a connection stands."""

    DISCONNECTED = "disconnected"
    CONNECTING = "connecting"
    CONNECTED = "connected"
    RECONNECTING = "reconnecting"
    FAILED = "failed"


@dataclass(slots=True)
class ConnectionStats:
    """What a connection has counted; all but ``since_s`` only grow.

    Attributes:
        messages_sent: Messages of calls that left.
        messages_received: Messages of calls that came.
        bytes_sent: Bytes that left, frames included.
        bytes_received: Bytes that came, frames included.
        errors: Times that the connection was lost or could not be made.
        reconnects: Times that it was made again.
        since_s: When the present state began, in seconds since 1970.
    """

    messages_sent: int = 0
    messages_received: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    errors: int = 0
    reconnects: int = 0
    since_s: float = field(default_factory=time)


class Route(Channel, Protocol):
    """A channel to one instance, with what a balancer needs to know of it."""

    @property
    def name(self) -> str:
        """What it leads to: the instance's name where it is known, else its address."""
        ...

    @property
    def state(self) -> ConnectionState:
        """Where its connection stands."""
        ...

    @property
    def stats(self) -> ConnectionStats:
        """What its connection has counted."""
        ...

    @property
    def outstanding(self) -> int:
        """Calls that are open on it."""
        ...

    @property
    def draining(self) -> bool:
        """Whether the instance said that it is going away: new calls go elsewhere."""
        ...

    async def aclose(self) -> None:
        """Cancel what is open and close the connection; closing twice does nothing."""
        ...


@runtime_checkable
class Introducible(Protocol):
    """A route that learns the name of its instance by connecting, not from who made it."""

    @property
    def introduced(self) -> bool:
        """Whether it knows the name; once it does, it keeps the last that it knew."""
        ...

    def introduce(self) -> None:
        """Begin to connect, where nothing else did; needs a running loop."""
        ...
