"""Where a server takes links: listeners on carriers, and the doors that links come in through."""

from __future__ import annotations

from protoplane.v1.link_pb2 import Hello
from protoplane_base import PlaneError
from protoplane_runtime.entities import EntityId
from protoplane_runtime.link.carriers.interface import Carrier, Listener, Receiver, Started
from protoplane_runtime.link.carriers.opening import listener
from protoplane_runtime.link.errors import LinkError
from protoplane_runtime.link.settings import Identity, LinkLimits, LinkSettings
from protoplane_server.dispatcher import Dispatcher
from protoplane_server.link_door import LinkDoor
from protoplane_server.tls import Tls


class Links:
    """Listens for links, and changes where while calls are open.

    Args:
        dispatcher: Where their calls go.
        name: Name of this instance.
        tls: Certificates, for carriers that speak TLS.

    Attributes:
        addresses: Where links are taken, with the ports that were got.
    """

    def __init__(self, dispatcher: Dispatcher, name: str, tls: Tls | None) -> None:
        self._tls = tls
        self._dispatcher = dispatcher
        parts = name.split("/")
        paths = ["/".join(parts[:length]) for length in range(len(parts), 0, -1)]
        settings = LinkSettings(
            identity=Identity(
                name=name,
                entities=tuple(bytes(EntityId.of(path)) for path in paths),
                agent="protoplane",
            ),
            limits=LinkLimits(max_message_bytes=dispatcher.limits.max_message_bytes),
        )
        self._door = LinkDoor(dispatcher, settings, self._welcome)
        self._listeners: dict[str, Listener] = {}
        self.addresses: tuple[str, ...] = ()

    def through(self, door: str) -> Started:
        """What takes a link on that came through another door, ``grpc`` for example."""

        def started(carrier: Carrier) -> Receiver:
            return self._door.accept(carrier, door)

        return started

    async def listen(self, addresses: tuple[str, ...]) -> None:
        """Listen at these addresses, and no more at any other.

        Raises:
            OSError, PlaneError: One cannot be listened on; then nothing has changed.
        """
        fresh: dict[str, Listener] = {}
        try:
            for address in addresses:
                if address not in self._listeners and address not in fresh:
                    fresh[address] = await listener(address)(
                        address, self.through(address), self._tls
                    )
        except BaseException:
            for opened in fresh.values():
                await opened.aclose()
            raise
        before = self._listeners
        self._listeners = {address: fresh.get(address) or before[address] for address in addresses}
        self.addresses = tuple(found.address for found in self._listeners.values())
        for address, old in before.items():
            if address not in self._listeners:
                await old.aclose()
                self._door.drain("this instance moved", self.addresses, place=address)

    async def drain(self) -> None:
        """Take no more links, and no more calls on those that are open."""
        for found in self._listeners.values():
            await found.aclose()
        self._listeners = {}
        self._door.drain("the server is shutting down")

    async def stop(self, grace_s: float) -> None:
        """Close all links; those that still hold bytes after ``grace_s`` seconds are cut."""
        await self._door.stop(grace_s)

    def _welcome(self, hello: Hello, identity: str) -> str:
        access = self._dispatcher.access
        if access is None:
            return identity
        try:
            return access.identity(hello.token)
        except PlaneError as error:
            raise LinkError(error.code, error.message) from error
