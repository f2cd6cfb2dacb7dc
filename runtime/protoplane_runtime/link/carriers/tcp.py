"""Links over TCP (``link+tcp://host:port``) and over TLS on it (``link+tls://host:port``)."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from protoplane_base import Code, PlaneError
from protoplane_runtime.link.carriers.interface import Started
from protoplane_runtime.link.carriers.stream import StreamCarrier
from protoplane_runtime.tls import ClientTls, ServerTls


async def connect(address: str, started: Started, tls: ClientTls | None) -> None:
    """See `carriers.opening.Connect`."""
    secure, host, port = _parse(address)
    context = (tls or ClientTls()).ssl_context() if secure else None
    name = (tls.server_name if tls else None) or host
    carrier = StreamCarrier(started)
    try:
        await asyncio.get_running_loop().create_connection(
            lambda: carrier, host, port, ssl=context, server_hostname=name if secure else None
        )
    except BaseException:
        carrier.give_up()
        raise


async def listen(address: str, started: Started, tls: ServerTls | None) -> TcpListener:
    """See `carriers.opening.Listen`; ``link+tls`` needs a certificate."""
    secure, host, port = _parse(address)
    if secure and tls is None:
        raise PlaneError(Code.INVALID_ARGUMENT, f"{address} needs a certificate and a key")
    server = await asyncio.get_running_loop().create_server(
        lambda: StreamCarrier(started),
        host,
        port,
        ssl=tls.ssl_context() if tls is not None and secure else None,
    )
    got: int = server.sockets[0].getsockname()[1]
    shown = f"[{host}]" if ":" in host else host
    return TcpListener(f"link+{'tls' if secure else 'tcp'}://{shown}:{got}", server)


@dataclass(frozen=True, slots=True)
class TcpListener:
    """Takes connections over TCP; see `carriers.interface.Listener`."""

    address: str
    server: asyncio.Server

    async def aclose(self) -> None:
        """Take no more connections; those that are open go on."""
        self.server.close()


def _parse(address: str) -> tuple[bool, str, int]:
    name, _, rest = address.partition("://")
    host, _, port = rest.rstrip("/").rpartition(":")
    if not host or not (port.isascii() and port.isdigit() and int(port) < 65536):
        raise PlaneError(
            Code.INVALID_ARGUMENT,
            f"{address!r} has no host and port; one looks like link+tcp://127.0.0.1:50052",
        )
    return name == "link+tls", host.removeprefix("[").removesuffix("]"), int(port)
