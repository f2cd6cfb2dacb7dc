"""Addresses to listen on, and the sockets behind them."""

from __future__ import annotations

import errno
import socket
import stat
from dataclasses import dataclass, replace
from pathlib import Path

_BACKLOG = 2048


@dataclass(frozen=True, slots=True)
class Address:
    """Where a door listens: a host and a port, or the path of a unix socket.

    Attributes:
        host: Name or number, without brackets; empty for a unix socket.
        port: 0 for any that is free.
        path: Path of a unix socket, else empty.
    """

    host: str = ""
    port: int = 0
    path: str = ""

    @classmethod
    def parse(cls, text: str | int) -> Address:
        """Read ``host:port``, ``:port`` (every interface), ``unix:path`` or a port (the loopback).

        Raises:
            ValueError: It is none of these.
        """
        text = str(text)
        if text.startswith("unix:"):
            path = text.removeprefix("unix:")
            # As in URLs, unix:///run/x.sock is the absolute path.
            path = path.removeprefix("//") if path.startswith("///") else path
            if not path:
                raise ValueError(f"{text!r} names no socket; one looks like unix:/run/x.sock")
            return cls(path=path)
        host, colon, port = text.rpartition(":")
        if not (port.isascii() and port.isdigit() and int(port) < 65536):
            raise ValueError(f"{text!r} is no address; one looks like 127.0.0.1:50051")
        if not colon:
            host = "127.0.0.1"
        return cls(host.removeprefix("[").removesuffix("]") or "0.0.0.0", int(port))  # noqa: S104

    def with_port(self, port: int) -> Address:
        """The same host at another port."""
        return replace(self, port=port)

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def bind(address: Address, *, reuse_port: bool = False) -> socket.socket:
    """A socket that is bound to an address and does not listen yet.

    Args:
        address: Where; the file of a unix socket that nobody listens on any more is replaced.
        reuse_port: Whether other sockets may be bound to the same port.

    Raises:
        OSError: It cannot be bound; the message says the address, and that it is taken if it is.
    """
    if address.path:
        family, where = socket.AF_UNIX, address.path
        _remove_stale(Path(address.path))
        bound = socket.socket(family)
    else:
        try:
            family, _, _, _, where = socket.getaddrinfo(  # type: ignore[assignment]
                address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
        except socket.gaierror as error:
            raise OSError(error.errno, f"{address.host}: {error.strerror}") from error
        bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        bound.bind(where)
    except OSError as error:
        bound.close()
        raise _said_plainly(error, address) from error
    return bound


def listen(address: Address, *, reuse_port: bool = False) -> tuple[socket.socket, Address]:
    """A socket that listens, and the address that it got.

    Raises:
        OSError: As `bind`.
    """
    bound = bind(address, reuse_port=reuse_port)
    try:
        bound.listen(_BACKLOG)
    except OSError as error:
        bound.close()
        raise _said_plainly(error, address) from error
    bound.setblocking(False)
    if address.path:
        return bound, address
    return bound, address.with_port(int(bound.getsockname()[1]))


def _said_plainly(error: OSError, address: Address) -> OSError:
    if error.errno == errno.EADDRINUSE:
        return OSError(error.errno, f"{address} is taken by another program")
    return OSError(error.errno, f"cannot listen on {address}: {error.strerror}")


def _remove_stale(path: Path) -> None:
    if not path.exists() or not stat.S_ISSOCK(path.stat().st_mode):
        return
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
        except OSError:
            return
