"""Links over unix sockets: ``link+unix:/run/x.sock``."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path

from protoplane_base import Code, PlaneError
from protoplane_runtime.link.carriers.interface import Started
from protoplane_runtime.link.carriers.stream import StreamCarrier
from protoplane_runtime.sockets import Address
from protoplane_runtime.sockets import listen as listen_on
from protoplane_runtime.tls import ClientTls, ServerTls


async def connect(address: str, started: Started, tls: ClientTls | None) -> None:
    """See `carriers.opening.Connect`; the kernel keeps others out, so there is no TLS."""
    path = _path(address)
    carrier = StreamCarrier(started)
    try:
        await asyncio.get_running_loop().create_unix_connection(lambda: carrier, str(path))
    except BaseException:
        carrier.give_up()
        raise


async def listen(address: str, started: Started, tls: ServerTls | None) -> UnixListener:
    """See `carriers.opening.Listen`; a socket that nobody listens on any more is replaced."""
    path = _path(address)
    listening, _ = listen_on(Address(path=str(path)))
    path.chmod(0o600)
    server = await asyncio.get_running_loop().create_unix_server(
        lambda: StreamCarrier(started), sock=listening
    )
    return UnixListener(f"link+unix:{path}", server, path, path.stat().st_ino)


@dataclass(frozen=True, slots=True)
class UnixListener:
    """Takes connections on a unix socket; see `carriers.interface.Listener`."""

    address: str
    server: asyncio.Server
    path: Path
    inode: int

    async def aclose(self) -> None:
        """Take no more connections; those that are open go on, and the file goes."""
        self.server.close()
        try:
            # Another process may listen at the same path by now.
            if os.stat(self.path).st_ino == self.inode:  # noqa: PTH116
                self.path.unlink()
        except FileNotFoundError:
            return


def _path(address: str) -> Path:
    path = address.removeprefix("link+unix:")
    path = path.removeprefix("//") if path.startswith("///") else path
    if not path:
        raise PlaneError(
            Code.INVALID_ARGUMENT,
            f"{address!r} names no socket; one looks like link+unix:/run/x.sock",
        )
    return Path(path)
