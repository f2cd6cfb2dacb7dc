"""A closed loop of HTTP requests on plain sockets: as little work for each as Python can do.

It takes some 20 µs of a core a request, on either side the same; clients with more to them would be
what is measured.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from time import perf_counter

_LENGTH = b"content-length:"
_PIECE = 1 << 18


@dataclass(frozen=True, slots=True)
class Load:
    """What came of it."""

    rate: float
    p50_us: float
    p95_us: float


class _Connection:
    __slots__ = ("_pieces", "began", "sock")

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=30)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.began = 0.0
        self._pieces = b""

    def ask(self, request: bytes) -> None:
        """Send a request."""
        self.began = perf_counter()
        self.sock.sendall(request)

    def answered(self) -> bool:
        """Read on; tells whether the answer is whole."""
        piece = self.sock.recv(_PIECE)
        if not piece:
            raise RuntimeError("the server hung up")
        data = self._pieces + piece if self._pieces else piece
        head = data.find(b"\r\n\r\n")
        if head < 0:
            self._pieces = data
            return False
        at = data[:head].lower().find(_LENGTH)
        length = int(data[at + len(_LENGTH) : head].split(b"\r", 1)[0])
        if len(data) < head + 4 + length:
            self._pieces = data
            return False
        self._pieces = b""
        if not data.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"the server answered {data[:500]!r}")
        return True


def post(path: str, body: bytes) -> bytes:
    """A request with a body of JSON."""
    head = (
        f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def load(port: int, requests: Iterator[bytes], concurrency: int, seconds: float) -> Load:
    """Send requests, so many at a time, and tell how it went.

    Raises:
        RuntimeError: An answer is no success.
    """
    connections = [_Connection(port) for _ in range(concurrency)]
    by_number = {each.sock.fileno(): each for each in connections}
    spent: list[float] = []
    with select.epoll() as poll:
        for fileno in by_number:
            poll.register(fileno, select.EPOLLIN)
        began = perf_counter()
        for each in connections:
            each.ask(next(requests))
        while (now := perf_counter()) < began + seconds:
            for fileno, _ in poll.poll(10):
                connection = by_number[fileno]
                if connection.answered():
                    spent.append(perf_counter() - connection.began)
                    connection.ask(next(requests))
    for each in connections:
        each.sock.close()
    spent.sort()
    return Load(
        len(spent) / (now - began),
        spent[len(spent) // 2] * 1e6,
        spent[int(len(spent) * 0.95)] * 1e6,
    )
