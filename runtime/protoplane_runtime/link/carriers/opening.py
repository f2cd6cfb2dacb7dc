"""Carriers by address: which module opens what.

An address is ``link+<carrier>:`` and what that carrier needs: ``link+unix:/run/x.sock``,
``link+tcp://host:port``, ``link+tls://host:port``, ``link+grpc://host:port``,
``link+grpcs://host:port``, ``link+http://host:port``, ``link+https://host:port``,
``link+zmq://host:port``, ``link+nats://server:port/subject`` and ``link+zenoh:name``.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, Protocol

from protoplane_base import Code, PlaneError
from protoplane_runtime.link.carriers.interface import Listener, Started
from protoplane_runtime.tls import ClientTls, ServerTls

PREFIX = "link+"


class Connect(Protocol):
    """Connects; ``started`` was called once this returns.

    Raises:
        OSError: There is no way there, or TLS failed.
        PlaneError: INVALID_ARGUMENT for an address of the wrong form, otherwise what stood in the
            way. Cancelling it leaves nothing open.
    """

    async def __call__(self, address: str, started: Started, tls: ClientTls | None) -> None:
        """Connect."""


class Listen(Protocol):
    """Listens; ``started`` is called for each connection.

    Raises:
        OSError: It cannot listen there.
        PlaneError: INVALID_ARGUMENT for an address of the wrong form.
    """

    async def __call__(self, address: str, started: Started, tls: ServerTls | None) -> Listener:
        """Listen."""
        ...


_MODULES = {
    "unix": "unix",
    "tcp": "tcp",
    "tls": "tcp",
    "grpc": "grpc_stream",
    "grpcs": "grpc_stream",
    "http": "http",
    "https": "http",
    "zmq": "zeromq",
    "nats": "nats",
    "zenoh": "zenoh",
}
_DOORS = frozenset({"grpc", "grpcs", "http", "https"})


def connector(address: str) -> Connect:
    """What connects to an address.

    Raises:
        PlaneError: INVALID_ARGUMENT where no carrier has such addresses.
        MissingExtraError: The carrier needs an extra that is not installed.
    """
    connect: Connect = _module(address).connect
    return connect


def listener(address: str) -> Listen:
    """What listens on an address; gRPC and HTTP links come in through the doors of that name.

    Raises:
        PlaneError: INVALID_ARGUMENT where no carrier listens on such addresses.
        MissingExtraError: The carrier needs an extra that is not installed.
    """
    if scheme(address) in _DOORS:
        raise PlaneError(
            Code.INVALID_ARGUMENT,
            f"{address}: links over gRPC and HTTP come in through those doors; open the door",
        )
    listen: Listen = _module(address).listen
    return listen


def scheme(address: str) -> str:
    """The carrier that an address names; empty where it is no link's."""
    if not address.startswith(PREFIX):
        return ""
    return address.removeprefix(PREFIX).partition(":")[0]


def _module(address: str) -> Any:
    name = _MODULES.get(scheme(address))
    if name is None:
        raise PlaneError(
            Code.INVALID_ARGUMENT,
            f"{address!r} is no link's address; they begin with link+unix:, link+tcp://, "
            "link+tls://, link+grpc://, link+grpcs://, link+http://, link+https://, "
            "link+zmq://, link+nats:// or link+zenoh:",
        )
    # Only the carriers that are used are imported: each brings its own libraries.
    return import_module(f"protoplane_runtime.link.carriers.{name}")
