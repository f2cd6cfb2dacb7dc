"""Addresses and keys of links over ZeroMQ.

ZeroMQ has no TLS; CURVE (RFC 26/CURVEZMQ) stands in for it. It is asked for in the address, with
certificate files as `zmq.auth.create_certificates` writes them:

- ``link+zmq://0.0.0.0:5555?key=/etc/a/captioner.key_secret`` listens with that key. With
  ``&clients=/etc/a/clients`` too, only those come in whose public keys (``<name>.key``) lie in that
  folder, and the name is the identity of the caller, as a certificate's common name is with TLS.
  The folder is read once, when it begins to listen.
- ``link+zmq://host:5555?server_key=/etc/a/captioner.key`` connects to the one that has this key,
  ``&key=/etc/b/me.key_secret`` with a key of one's own; otherwise a fresh one is made.

``server_key`` may also be the key itself, in Z85 and percent-encoded; that is how a listener's
address has it, so whoever finds the address in discovery needs no file.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl

from protoplane_base import Code, MissingExtraError, PlaneError

try:
    import zmq
    import zmq.auth
    from zmq.utils import z85
except ModuleNotFoundError as error:
    raise MissingExtraError("zmq", "a link over ZeroMQ") from error

_ZAP = "inproc://zeromq.zap.01"


@dataclass(frozen=True, slots=True)
class ZmqAddress:
    """Where to listen or to connect, and with which keys.

    Attributes:
        host: Name or number, without brackets.
        port: 0 for any that is free.
        key: File of this end's secret key.
        server_key: The server's public key, or its file.
        clients: Folder of the public keys that may come in.
    """

    host: str
    port: int
    key: Path | None = None
    server_key: str = ""
    clients: Path | None = None

    @classmethod
    def parse(cls, address: str) -> ZmqAddress:
        """Read an address.

        Raises:
            PlaneError: INVALID_ARGUMENT where it is none.
        """
        rest, _, query = address.removeprefix("link+zmq://").partition("?")
        host, _, port = rest.rstrip("/").rpartition(":")
        asked = dict(parse_qsl(query, keep_blank_values=True))
        key, server_key = asked.pop("key", ""), asked.pop("server_key", "")
        clients = asked.pop("clients", "")
        number = int(port) if port.isascii() and port.isdigit() else 65536
        if not host or number > 65535 or asked or (clients and not key):
            raise PlaneError(
                Code.INVALID_ARGUMENT,
                f"{address!r} is no ZeroMQ address; one looks like link+zmq://127.0.0.1:5555, with "
                "?key=<file>&clients=<folder> or ?server_key=<file or key>&key=<file>",
            )
        return cls(
            host.removeprefix("[").removesuffix("]"),
            number,
            Path(key) if key else None,
            server_key,
            Path(clients) if clients else None,
        )

    def __str__(self) -> str:
        return f"{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    def secure_server(self, socket: zmq.Socket[bytes]) -> str:
        """Give a socket the server's key; gives the public half, empty for none."""
        if self.key is None:
            return ""
        public, secret = _key_pair(self.key)
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt(zmq.CURVE_PUBLICKEY, public)
        socket.setsockopt(zmq.CURVE_SECRETKEY, secret)
        return public.decode()

    def secure_client(self, socket: zmq.Socket[bytes]) -> None:
        """Give a socket the client's key and the server's public one."""
        if not self.server_key:
            if self.key is not None:
                raise PlaneError(
                    Code.INVALID_ARGUMENT,
                    f"{self}: key without server_key; a client must know whom it talks to",
                )
            return
        public, secret = zmq.curve_keypair() if self.key is None else _key_pair(self.key)
        socket.setsockopt(zmq.CURVE_PUBLICKEY, public)
        socket.setsockopt(zmq.CURVE_SECRETKEY, secret)
        socket.setsockopt(zmq.CURVE_SERVERKEY, _server_key(self.server_key))


class ClientKeys:
    """Says which keys may come in, and whose they are: a context's handler of RFC 27/ZAP."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], folder: Path) -> None:
        self._names = {
            z85.decode(_certificate(file)[0]): file.stem for file in sorted(folder.glob("*.key"))
        }
        self._loop = asyncio.get_running_loop()
        self._socket = context.socket(zmq.REP)
        self._socket.bind(_ZAP)
        self._fd = int(self._socket.FD)
        self._loop.add_reader(self._fd, self._answer)
        self._loop.call_soon(self._answer)

    def _answer(self) -> None:
        try:
            while not self._socket.closed:
                request = self._socket.recv_multipart(zmq.NOBLOCK)
                name = self._names.get(request[6]) if len(request) == 7 else None
                status = (
                    (b"400", b"unknown key", b"")
                    if name is None
                    else (b"200", b"OK", name.encode())
                )
                self._socket.send_multipart([b"1.0", request[1], *status, b""], zmq.NOBLOCK)
        except zmq.Again:
            return

    def close(self) -> None:
        """Let nobody in any more."""
        self._loop.remove_reader(self._fd)
        self._socket.close(0)


def _server_key(text: str) -> bytes:
    if len(text) == 40 and not Path(text).exists():
        return text.encode()
    return _certificate(Path(text))[0]


def _key_pair(file: Path) -> tuple[bytes, bytes]:
    public, secret = _certificate(file)
    if secret is None:
        raise PlaneError(Code.INVALID_ARGUMENT, f"{file} holds no secret key, only a public one")
    return public, secret


def _certificate(file: Path) -> tuple[bytes, bytes | None]:
    try:
        return zmq.auth.load_certificate(file)  # pyright: ignore[reportUnknownMemberType]
    except ValueError as error:
        raise PlaneError(Code.INVALID_ARGUMENT, str(error)) from error
