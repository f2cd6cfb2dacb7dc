"""Paths that a service answers beside its rpcs, in a protocol of their own."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from protoplane_server.http.asgi import Exchange
from protoplane_server.http.state import DoorState


class Beside(Protocol):
    """Some paths of the door; the routes of schemas come before them."""

    def serves(self, path: str) -> bool:
        """Whether a path is one of them."""
        ...

    async def serve(self, exchange: Exchange) -> None:
        """Serve one request, its errors too.

        Raises:
            Disconnected: The client went away before its request was whole.
        """
        ...


@runtime_checkable
class BringsRoutes(Protocol):
    """A service that has such paths."""

    def http_routes(self, state: DoorState) -> Beside:
        """The paths, for one door."""
        ...
