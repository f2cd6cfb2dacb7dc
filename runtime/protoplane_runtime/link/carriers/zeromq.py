"""Links over ZeroMQ, ``link+zmq://host:port``: a ROUTER listens, and each link has a DEALER.

TLS settings do nothing here; see `zeromq_keys` for what stands in for TLS.

Two frames (`Kind`, body) are a message of `windowed`; DATA is a single frame, so it is not copied.
A DEALER never connects again: who lost a link makes a new one.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import socket as sockets
from abc import abstractmethod
from collections import deque
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote

from protoplane_base import Code, MissingExtraError, PlaneError
from protoplane_runtime.link.carriers.interface import Started
from protoplane_runtime.link.carriers.windowed import Kind, WindowedCarrier
from protoplane_runtime.link.carriers.zeromq_keys import ClientKeys, ZmqAddress

if TYPE_CHECKING:
    from protoplane_runtime.tls import ClientTls, ServerTls

try:
    import zmq
    from zmq.utils.monitor import parse_monitor_message
except ModuleNotFoundError as error:
    raise MissingExtraError("zmq", "a link over ZeroMQ") from error

_log = logging.getLogger("protoplane.link")

_MAX_BATCH_BYTES = 1024 * 1024
_BURST = 256
"""Messages that a socket brings before it lets others have the event loop."""

_LINGER_MS = 5_000
_TIMEOUT_MS = 5_000
_HEARTBEAT_MS = 5_000
_CURVE_BYTES = 1024
"""More than encryption adds to a message."""

_KINDS: dict[int, bytes] = {kind: bytes([kind]) for kind in Kind}
_FAILURES = (
    zmq.EVENT_DISCONNECTED
    | zmq.EVENT_CLOSED
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)


async def connect(address: str, started: Started, tls: ClientTls | None) -> None:
    """See `carriers.opening.Connect`."""
    where = ZmqAddress.parse(address)
    found = await asyncio.get_running_loop().getaddrinfo(
        where.host, where.port, type=sockets.SOCK_STREAM
    )
    refused: PlaneError | None = None
    for endpoint in dict.fromkeys(_endpoint(entry[4][0], where.port) for entry in found):
        carrier = _Dialled(where, endpoint)
        try:
            await carrier.open(started)
        except PlaneError as error:
            refused = error
        else:
            return
    raise refused or PlaneError(Code.UNAVAILABLE, f"{address}: the name has no address")


async def listen(address: str, started: Started, tls: ServerTls | None) -> ZmqListener:
    """See `carriers.opening.Listen`."""
    where = ZmqAddress.parse(address)
    found = await asyncio.get_running_loop().getaddrinfo(
        where.host, where.port, type=sockets.SOCK_STREAM
    )
    return ZmqListener(where, _endpoint(found[0][4][0], where.port), started)


class _Watched:
    """A ZeroMQ socket with its monitor, on the event loop.

    Its file descriptor speaks up only when something changed, so it is read until nothing is left,
    and looked at again after each send. What the monitor tells is heeded when all messages that
    came before it were read.
    """

    def __init__(self, socket: zmq.Socket[bytes], events: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._socket = socket
        self._monitor = socket.get_monitor_socket(events)
        self._events: deque[tuple[int, int]] = deque()
        self._scheduled = False
        self._closed = False
        self._fds = (int(socket.FD), int(self._monitor.FD))
        self._loop.add_reader(self._fds[0], self._read)
        self._loop.add_reader(self._fds[1], self._monitored)
        # Nothing is signalled to a socket that was never found empty.
        self._drain_monitor()
        self._schedule()

    @abstractmethod
    def _receive(self) -> None:
        """Take one message; raises `zmq.Again` where there is none."""

    @abstractmethod
    def _happened(self, event: int, value: int) -> None:
        """The monitor told something."""

    def _send(self, *parts: bytes) -> None:
        socket = self._socket
        for part in parts[:-1]:
            socket.send(part, zmq.NOBLOCK | zmq.SNDMORE)
        socket.send(parts[-1], zmq.NOBLOCK)
        # Sending may have taken note of what came, and then the descriptor says nothing of it.
        if not self._scheduled and int(socket.get(zmq.EVENTS)) & zmq.POLLIN:
            self._schedule()

    def _schedule(self) -> None:
        self._scheduled = True
        self._loop.call_soon(self._read)

    def _read(self) -> None:
        self._scheduled = empty = False
        try:
            for _ in range(_BURST):
                if self._closed:
                    return
                self._receive()
        except zmq.Again:
            empty = True
            while self._events and not self._closed:
                self._happened(*self._events.popleft())
        finally:
            # Also where taking a message failed: nothing would signal those behind it.
            if not empty and not self._closed:
                self._schedule()

    def _monitored(self) -> None:
        if not self._closed and self._drain_monitor() and not self._scheduled:
            self._schedule()

    def _drain_monitor(self) -> bool:
        try:
            while True:
                told = parse_monitor_message(self._monitor.recv_multipart(zmq.NOBLOCK))
                self._events.append((told["event"], told["value"]))
        except zmq.Again:
            return bool(self._events)

    def _shut(self, linger_ms: int) -> None:
        if not self._closed:
            self._closed = True
            for fd in self._fds:
                self._loop.remove_reader(fd)
            self._socket.disable_monitor()
            self._monitor.close(0)
            self._socket.close(linger_ms)


class _Dialled(WindowedCarrier, _Watched):
    """The end of a link that connected."""

    def __init__(self, where: ZmqAddress, endpoint: str) -> None:
        context = cast("zmq.Context[zmq.Socket[bytes]]", zmq.Context.instance())
        socket = context.socket(zmq.DEALER)
        try:
            _configure(socket)
            socket.setsockopt(zmq.RECONNECT_IVL, -1)
            socket.setsockopt(zmq.CONNECT_TIMEOUT, _TIMEOUT_MS)
            where.secure_client(socket)
            WindowedCarrier.__init__(self, f"zmq:{where}", "", _MAX_BATCH_BYTES)
            _Watched.__init__(self, socket, _FAILURES)
        except BaseException:
            socket.close(0)
            raise
        socket.connect(endpoint)

    def post(self, kind: int, body: bytes) -> None:
        """See `WindowedCarrier`."""
        if self._closed:
            return
        try:
            if kind == Kind.DATA:
                self._send(body)
            else:
                self._send(_KINDS[kind], body)
        except zmq.ZMQError as error:
            self.fail(str(error))

    def ended(self, *, flush: bool) -> None:
        """See `WindowedCarrier`."""
        self._shut(_LINGER_MS if flush else 0)

    def _receive(self) -> None:
        socket = self._socket
        first = socket.recv(zmq.NOBLOCK)
        if not socket.get(zmq.RCVMORE):
            self.take(Kind.DATA, first)
            return
        rest = _rest(socket)
        if len(rest) == 1 and len(first) == 1:
            self.take(first[0], rest[0])

    def _happened(self, event: int, value: int) -> None:
        if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            self.fail(f"the other end refused the key (status {value})")
        elif event & (_FAILURES & ~(zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED)):
            self.fail("the handshake failed; does the other end speak ZeroMQ, with this key?")
        elif event == zmq.EVENT_CLOSED:
            self.fail("nobody listens there")
        else:
            self.fail("the connection is gone")


class _Accepted(WindowedCarrier):
    """The end of a link that was connected to; it shares the socket of its listener."""

    def __init__(
        self, listener: ZmqListener, route: bytes, fd: int, peer: str, identity: str
    ) -> None:
        super().__init__(peer, identity, _MAX_BATCH_BYTES)
        self.route = route
        self.fd = fd
        self._listener = listener

    def post(self, kind: int, body: bytes) -> None:
        """See `WindowedCarrier`."""
        try:
            if kind == Kind.DATA:
                self._listener.send(self.route, body)
            else:
                self._listener.send(self.route, _KINDS[kind], body)
        except zmq.ZMQError as error:
            self.fail(str(error))

    def ended(self, *, flush: bool) -> None:
        """See `WindowedCarrier`."""
        self._listener.gone(self)


class ZmqListener(_Watched):
    """Takes links over ZeroMQ; see `carriers.interface.Listener`.

    ZeroMQ cannot give up a port and keep its connections, so the port stays taken until the last
    link is over.

    Args:
        where: The address that was asked for.
        endpoint: The same for ZeroMQ.
        started: Called for each link.
    """

    def __init__(self, where: ZmqAddress, endpoint: str, started: Started) -> None:
        self._started = started
        self._links: dict[bytes, _Accepted] = {}
        self._by_fd: dict[int, _Accepted] = {}
        self._refusing = False
        # A context of its own, because what checks keys serves a whole context.
        self._context = zmq.Context()
        self._keys: ClientKeys | None = None
        socket = self._context.socket(zmq.ROUTER)
        try:
            _configure(socket)
            socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
            socket.setsockopt(zmq.MAXMSGSIZE, _MAX_BATCH_BYTES + _CURVE_BYTES)
            public = where.secure_server(socket)
            if where.clients is not None:
                self._keys = ClientKeys(self._context, where.clients)
            _bind(socket, endpoint)
            super().__init__(socket, zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED)
        except BaseException:
            if self._keys is not None:
                self._keys.close()
            self._context.destroy(0)
            raise
        port = int(socket.getsockopt_string(zmq.LAST_ENDPOINT).rpartition(":")[2])
        key = f"?server_key={quote(public, safe='')}" if public else ""
        self.address = f"link+zmq://{ZmqAddress(where.host, port)}{key}"
        if not public and not _loopback(endpoint):
            _log.warning("%s takes links from other machines without a key", self.address)

    async def aclose(self) -> None:
        """Take no more connections; those that are open go on."""
        self._refusing = True
        self._close_if_idle()

    def send(self, *parts: bytes) -> None:
        """Send a message of one of the links.

        Raises:
            zmq.ZMQError: Its other end is gone.
        """
        if not self._closed:
            self._send(*parts)

    def gone(self, link: _Accepted) -> None:
        """A link is over."""
        if self._links.get(link.route) is link:
            del self._links[link.route]
        if self._by_fd.get(link.fd) is link:
            del self._by_fd[link.fd]
        self._close_if_idle()

    def _receive(self) -> None:
        socket = self._socket
        route = socket.recv(zmq.NOBLOCK)
        link = self._links.get(route)
        if link is None:
            self._receive_first(route)
            return
        first = socket.recv(zmq.NOBLOCK)
        if not socket.get(zmq.RCVMORE):
            link.take(Kind.DATA, first)
            return
        rest = _rest(socket)
        if len(rest) == 1 and len(first) == 1:
            link.take(first[0], rest[0])

    def _receive_first(self, route: bytes) -> None:
        first = self._socket.recv(zmq.NOBLOCK, copy=False)
        rest = _rest(self._socket)
        if first.bytes != _KINDS[Kind.OPEN] or len(rest) != 1:
            # What a link that is over had under way.
            return
        if self._refusing:
            with contextlib.suppress(zmq.ZMQError):
                self._send(route, _KINDS[Kind.ABORT], b"the listener takes no more links")
            return
        fd = int(first.get(zmq.SRCFD))
        self._settle(fd)
        peer = f"zmq:{_told(first, 'Peer-Address')}"
        link = _Accepted(self, route, fd, peer, _told(first, "User-Id") if self._keys else "")
        self._links[route] = self._by_fd[fd] = link
        link.accept(rest[0], self._started)

    def _settle(self, fd: int) -> None:
        """Heed what the monitor told of connections that had a descriptor before this one."""
        self._drain_monitor()
        events = self._events
        accepted = [at for at, told in enumerate(events) if told == (zmq.EVENT_ACCEPTED, fd)]
        for _ in range(accepted[-1] + 1 if accepted else 0):
            self._happened(*events.popleft())

    def _happened(self, event: int, value: int) -> None:
        if event == zmq.EVENT_DISCONNECTED:
            link = self._by_fd.pop(value, None)
            if link is not None:
                link.fail("the connection is gone")

    def _close_if_idle(self) -> None:
        if self._refusing and not self._links and not self._closed:
            self._shut(_LINGER_MS)
            if self._keys is not None:
                self._keys.close()
            # It waits for what is still to be sent; the loop waits for its executor in the end.
            self._loop.run_in_executor(None, self._context.term)


def _configure(socket: zmq.Socket[bytes]) -> None:
    socket.setsockopt(zmq.IPV6, 1)
    # The window bounds what is under way.
    socket.setsockopt(zmq.SNDHWM, 0)
    socket.setsockopt(zmq.HANDSHAKE_IVL, _TIMEOUT_MS)
    socket.setsockopt(zmq.HEARTBEAT_IVL, _HEARTBEAT_MS)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 2 * _HEARTBEAT_MS)


def _bind(socket: zmq.Socket[bytes], endpoint: str) -> None:
    try:
        socket.bind(endpoint)
    except zmq.ZMQError as error:
        raise OSError(error.errno, f"{error.strerror}: {endpoint}") from error


def _rest(socket: zmq.Socket[bytes]) -> list[bytes]:
    rest: list[bytes] = []
    while socket.get(zmq.RCVMORE):
        rest.append(socket.recv(zmq.NOBLOCK))
    return rest


def _told(frame: zmq.Frame, what: str) -> str:
    try:
        return str(frame.get(what))
    except zmq.ZMQError:
        return ""


def _endpoint(host: Any, port: int) -> str:
    return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"


def _loopback(endpoint: str) -> bool:
    host = endpoint.removeprefix("tcp://").rpartition(":")[0].strip("[]")
    return ipaddress.ip_address(host.partition("%")[0]).is_loopback
