"""The HTTP door: a server around the application, and an end that comes in bounded time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Any

import uvicorn

from protoplane_runtime.link.carriers.interface import Started
from protoplane_server.dispatcher import Dispatcher
from protoplane_server.http.application import Application
from protoplane_server.http.asgi import App
from protoplane_server.http.beside import BringsRoutes
from protoplane_server.http.cors import Cors
from protoplane_server.http.guard import HEADER_TIMEOUT_S, GuardedProtocol
from protoplane_server.http.reading import Reading
from protoplane_server.http.state import DoorState

if TYPE_CHECKING:
    from protoplane_server.http.http2 import Http2Server

_log = logging.getLogger("protoplane.http")

IDLE_S = 75
"""Seconds after which a connection without a request is closed."""


class HttpDoor:
    """Serves a dispatcher over HTTP/1.1 with uvicorn, or over HTTP/2 too with hypercorn.

    Args:
        dispatcher: Where calls go.
        health: Whether the server is ready for calls; `/readyz` asks it.
        tls: Makes it HTTPS.
        grace_s: Longest that calls may go on once `stop` was called; then they end with
            UNAVAILABLE.
        header_timeout_s: Longest that the head of a request may take to arrive.
        body_timeout_s: Longest that the body of a request with one message may take to arrive.
        keep_alive_s: Seconds of silence after which a stream of events sends a comment.
        retry_ms: How long clients of event streams are told to wait before they reconnect.
        link: Takes on the links that come in here; ``None`` takes none.
        http2: Whether HTTP/2 is spoken as well; that needs the extra ``http2``, costs each call
            some time, and leaves out ``header_timeout_s``.
        cors_origins: Origins whose pages may call, ``*`` for all; see `Cors`.
        beside: Brings further paths, which come after those of all services.

    Attributes:
        app: The ASGI application; another server can run it, but then without the bound on the
            head of a request.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        *,
        health: Callable[[], bool],
        tls: ssl.SSLContext | None = None,
        grace_s: float = 5.0,
        header_timeout_s: float = HEADER_TIMEOUT_S,
        body_timeout_s: float = 60.0,
        keep_alive_s: float = 15.0,
        retry_ms: int = 1000,
        link: Started | None = None,
        http2: bool = False,
        cors_origins: Sequence[str] = (),
        beside: Sequence[BringsRoutes] = (),
    ) -> None:
        self._state = DoorState(
            dispatcher=dispatcher,
            health=health,
            body_timeout_s=body_timeout_s,
            keep_alive_s=keep_alive_s,
            retry_ms=retry_ms,
            reading=Reading(dispatcher.services),
        )
        self._grace_s = grace_s
        self._header_timeout_s = header_timeout_s
        self._tls = tls
        self._ends: set[asyncio.Task[None]] = set()
        self._server: _Server | Http2Server | None = None
        self._http2 = http2
        specs = [service.spec for service in dispatcher.services]
        bringing = [each for each in dispatcher.services if isinstance(each, BringsRoutes)]
        paths = [each.http_routes(self._state) for each in (*bringing, *beside)]
        application = Application(self._state, specs, link, paths)
        self.app: App = Cors(application, cors_origins) if cors_origins else application
        # What pages of other origins may see is told beside the application.
        self._ready = None if cors_origins else application.at_once.ready

    async def run(self, sockets: list[socket.socket]) -> None:
        """Serve on bound sockets until `stop`, then close them.

        Cancelling it stops at once, without grace.
        """
        self._server = server = self._http2_server() if self._http2 else self._http1_server()
        if self._state.closing.is_set():
            server.leave()
        try:
            await server.serve(sockets)
        finally:
            self._state.closing.set()
            for end in self._ends:
                end.cancel()
            server.cut()

    def stop(self) -> None:
        """Take no more connections, end event streams, and let calls finish within the grace.

        `run` returns in at most the grace and a second. Stopping twice does nothing.
        """
        state = self._state
        if state.closing.is_set():
            return
        state.closing.set()
        for stream in list(state.streams):
            stream.cancel()
        if self._server is not None:
            self._server.leave()
            end = asyncio.get_running_loop().create_task(self._end(self._server))
            self._ends.add(end)
            end.add_done_callback(self._ends.discard)

    def _http1_server(self) -> _Server:
        guard = type(
            "GuardedProtocol",
            (GuardedProtocol,),
            {"header_timeout_s": self._header_timeout_s, "ready": self._ready},
        )
        config = uvicorn.Config(
            self.app,
            http=guard,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=IDLE_S,
            timeout_graceful_shutdown=None,
        )
        config.load()
        config.ssl = self._tls
        return _Server(config)

    def _http2_server(self) -> Http2Server:
        from protoplane_server.http.http2 import Http2Server

        return Http2Server(self.app, self._tls)

    async def _end(self, server: _Server | Http2Server) -> None:
        await asyncio.sleep(self._grace_s)
        for call in list(self._state.calls):
            call.cancel()
        await asyncio.sleep(0.5)
        # What is left are clients that do not read what they were sent.
        server.cut()


class _Server(uvicorn.Server):
    """Leaves signals to whoever runs the door."""

    def leave(self) -> None:
        """Take no more connections, and close each once no request is open on it."""
        self.should_exit = True

    def cut(self) -> None:
        """Close all connections now, whatever is open on them."""
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        for task in list(self.server_state.tasks):
            task.cancel()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # Streams that have ended leave their connections idle; only then can these be closed.
        await asyncio.sleep(0)
        await super().shutdown(sockets)


def bound_socket(host: str, port: int) -> socket.socket:
    """A TCP socket that is bound, for `HttpDoor.run`; port 0 lets the system choose.

    Raises:
        OSError: The address is taken, or not one of this machine.
    """
    family: Any = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
    except OSError:
        sock.close()
        raise
    sock.setblocking(False)
    return sock
