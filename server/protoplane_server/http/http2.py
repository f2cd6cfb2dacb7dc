"""The door over HTTP/2, and HTTP/1.1 for those who ask for that: hypercorn's protocols.

A browser allows six streams of events to an origin over HTTP/1.1, and a hundred over HTTP/2. Over
TLS the protocol is agreed on by ALPN; in plain text HTTP/2 is spoken by those who know beforehand.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from typing import TYPE_CHECKING, Any, cast

from protoplane_base import MissingExtraError
from protoplane_runtime.link.carriers.stream import common_name
from protoplane_server.http.asgi import App, Message, Receive, Scope, Send

try:
    from hypercorn.app_wrappers import ASGIWrapper
    from hypercorn.asyncio.tcp_server import TCPServer
    from hypercorn.asyncio.worker_context import WorkerContext
    from hypercorn.config import Config
except ModuleNotFoundError as missing:
    raise MissingExtraError("http2", "HTTP/2") from missing

if TYPE_CHECKING:
    from hypercorn.typing import ASGIFramework, LifespanState

_log = logging.getLogger("protoplane.http")

MAX_STREAMS = 1000
"""Most requests that are open at once on one connection."""

_BACKLOG = 2048
_DRAIN_BYTES = 64 * 1024 * 1024
_DRAIN_S = 5.0
_IDLE_S = 75.0


class Http2Server:
    """Serves an ASGI application until it is told to leave.

    Args:
        app: The application.
        tls: Makes it HTTPS.
    """

    def __init__(self, app: App, tls: ssl.SSLContext | None) -> None:
        self._app = app
        self._tls = tls
        if tls is not None:
            tls.set_alpn_protocols(["h2", "http/1.1"])
        self._config = config = Config()
        config.errorlog = _log
        config.include_server_header = False
        config.h2_max_concurrent_streams = MAX_STREAMS
        config.keep_alive_max_requests = 1 << 62
        # Also the longest that the head of a request over HTTP/1.1 may take.
        config.keep_alive_timeout = _IDLE_S
        self._leaving = asyncio.Event()
        self._connections: dict[asyncio.Task[Any], asyncio.StreamWriter] = {}

    def leave(self) -> None:
        """Take no more connections, and close each once no request is open on it."""
        self._leaving.set()

    async def serve(self, sockets: list[socket.socket]) -> None:
        """Serve on bound sockets until `leave`, and until the last connection is closed."""
        context = WorkerContext(None)

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._connections[task] = writer
            try:
                await self._connected(context, reader, writer)
            finally:
                del self._connections[task]

        servers = [
            await asyncio.start_server(connected, sock=each, ssl=self._tls, backlog=_BACKLOG)
            for each in sockets
        ]
        try:
            await self._leaving.wait()
            await context.terminated.set()
        finally:
            for server in servers:
                server.close()
        while self._connections:
            await asyncio.wait(list(self._connections))

    def cut(self) -> None:
        """Close all connections now, whatever is open on them."""
        for task, writer in list(self._connections.items()):
            writer.transport.abort()
            task.cancel()

    async def _connected(
        self, context: WorkerContext, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        identity = common_name(writer.get_extra_info("peercert"))

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            if identity:
                scope["protoplane.identity"] = identity
            if scope.get("http_version") == "2":
                whole = _WholeRequest(receive, send)
                receive, send = whole.receive, whole.send
            await self._app(scope, receive, send)

        serving = TCPServer(
            ASGIWrapper(cast("ASGIFramework", app)),
            asyncio.get_running_loop(),
            self._config,
            context,
            cast("LifespanState", {}),
            reader,
            writer,
        )
        # Where it was cut, or the other end does not keep to the protocol, there is nobody to tell.
        with contextlib.suppress(asyncio.CancelledError, ConnectionError):
            await serving.run()


class _WholeRequest:
    """Reads what is left of a request before its answer ends.

    Hypercorn drops the connection, and with it all other requests on it, when data comes for a
    request that has been answered.
    """

    __slots__ = ("_ended", "_receive", "_send")

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._ended = False

    async def receive(self) -> Message:
        message = await self._receive()
        if not message.get("more_body"):
            self._ended = True
        return message

    async def send(self, message: Message) -> None:
        if (
            not self._ended
            and message["type"] == "http.response.body"
            and not message.get("more_body")
        ):
            await self._drain()
        await self._send(message)

    async def _drain(self) -> None:
        left = _DRAIN_BYTES
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_S):
                while not self._ended and left > 0:
                    left -= len((await self.receive()).get("body", b""))
