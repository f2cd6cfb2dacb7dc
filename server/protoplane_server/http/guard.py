"""Uvicorn's HTTP/1.1 protocol with bounds on the head of a request, in less memory.

Uvicorn waits for ever for the end of a request's headers and takes any amount of them. A client
that dribbles (slow loris) or never ends its headers would hold a connection and memory for nothing.
Subscribers to events hold one for hours, thousands of them, so what each takes counts.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, cast
from urllib.parse import unquote

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from protoplane_runtime.link.carriers.stream import common_name
from protoplane_server.http.asgi import NEAR, Response, Scope
from protoplane_server.http.at_once import Ready
from protoplane_server.http.cycle import Cycle, SmallFlow, write_response
from protoplane_server.http.known_heads import KnownHead, KnownHeads

HEADER_TIMEOUT_S = 10.0
"""Longest that the head of a request may take to arrive, from the first byte of it, or from the
start of the connection."""

_REST_S = 0.05
"""How long the rest of a request is waited for that could be answered without a task."""

MAX_HEADER_BYTES = 64 * 1024
"""Most bytes that the head of a request may have, give or take one read of the socket."""

_ASGI = {"version": "3.0", "spec_version": "2.3"}


class GuardedProtocol(HttpToolsProtocol):
    """Cuts off a client whose request's head is late or endless.

    It serves a `protoplane_server.http.door.HttpDoor`, so it leaves out what that does not
    configure: WebSockets, an access log, a bound on connections.

    Attributes:
        ready: Tells what answers requests with a head at once, once they have come whole; ``None``
            where nothing does.
        served: The request that is served now, or was the last one.
    """

    # Beside uvicorn's attributes these would be too many for a dict that shares its keys.
    __slots__ = (
        "_head_bytes",
        "_identity",
        "_idle_since",
        "_in_head",
        "_known",
        "_next",
        "_timer",
        "_waiting",
        "served",
    )

    header_timeout_s = HEADER_TIMEOUT_S
    ready: Callable[[Scope], Ready | None] | None = None

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._timer: asyncio.TimerHandle | None = None
        self._in_head = False
        self._head_bytes = 0
        self._identity = ""
        self._idle_since = 0.0
        self.served: Cycle | None = None
        self._next: Cycle | None = None
        self._known: KnownHeads | None = None
        # Mostly it is empty; uvicorn's deque would take ten times the memory.
        self._waiting: list[Cycle] = []
        self.pipeline = cast("Any", self._waiting)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self.flow = SmallFlow(transport)
        self._identity = common_name(transport.get_extra_info("peercert"))
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._disarm()
        self._next = None
        super().connection_lost(exc)
        # Uvicorn leaves that timer on after a reset, and with it all that it has of the connection.
        self._unset_keepalive_if_required()
        served, self.served = self.served, None
        if served is not None:
            # Where requests are pipelined, uvicorn knows of the last one only.
            served.disconnected = True
            served.message_event.set()
            lost, served.lost = served.lost, None
            if lost is not None:
                lost()

    def on_message_begin(self) -> None:
        """A request begins."""
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self._in_head = True
        self._head_bytes = 0

    def on_headers_complete(self) -> None:
        """The head of a request is whole: serve it, once those before it are answered."""
        self._in_head = False
        if self._timer is not None:
            self._disarm()
        parser: Any = self.parser
        version: str = parser.get_http_version()
        scope = self._scope(version, parser.get_method().decode("ascii"))
        before: Cycle | None = self.cycle  # type: ignore[assignment]
        self.cycle = cycle = Cycle(
            self,
            scope,
            keep_alive=version != "1.0" and parser.should_keep_alive(),
            waits_for_100=self.expect_100_continue,
        )
        if before is None or before.response_complete:
            # Once all that has come is read: mostly that is the body, too.
            self._next = cycle
        else:
            self.flow.pause_reading()
            self._waiting.append(cycle)

    def on_body(self, body: bytes) -> None:
        """A piece of the body of a request."""
        cycle = self.cycle
        if cycle.response_complete:
            return
        held: Any = cycle.body
        if not held:
            held = body  # Mostly it is all of it, and need not be copied.
        else:
            if isinstance(held, bytes):
                held = bytearray(held)
            held += body
        cycle.body = held
        if len(cycle.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        cycle.message_event.set()

    def on_message_complete(self) -> None:
        """A request is whole."""
        cycle = self.cycle
        if not cycle.response_complete:
            cycle.more_body = False
            cycle.message_event.set()

    def data_received(self, data: bytes) -> None:
        """Take the next bytes of the connection."""
        before: Cycle | None = self.cycle  # type: ignore[assignment]
        # Of a request that was answered before it was whole, the rest may still come.
        begins = not self._in_head and (
            before is None or (before.response_complete and not before.more_body)
        )
        if begins and self._known is not None:
            found = self._known.find(data)
            if found is not None:
                self._again(*found)
                return
        parser: Any = self.parser
        try:
            parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._unsupported_upgrade_warning()
        except httptools.HttpParserError:
            self.logger.warning("Invalid HTTP request received.")
            self.send_400_response("Invalid HTTP request received.")
            return
        if self._next is not None:
            self._begin(self._next, data if begins else None)
        if self._in_head and not self.transport.is_closing():
            # Most heads come in one piece and need no timer.
            if self._timer is None:
                self._arm()
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEADER_BYTES:
                self._refuse(
                    b"431 Request Header Fields Too Large",
                    f"the headers of a request may have {MAX_HEADER_BYTES} bytes".encode(),
                )

    def on_response_complete(self) -> None:
        """A request has been answered: serve the next, or wait for it."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self._waiting:
            self._serve(self._waiting.pop(0))
            return
        # One timer that looks again is less than one that is set and dropped for each request.
        self._idle_since = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self._look_later(self.timeout_keep_alive)

    def timeout_keep_alive_handler(self) -> None:
        """Close the connection if it has been idle for so long."""
        self.timeout_keep_alive_task = None
        if self._in_head or not self.cycle.response_complete or self.transport.is_closing():
            return  # The end of that request sets a timer again.
        left_s = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if left_s > 0:
            self._look_later(left_s)
        else:
            self.transport.close()

    def _begin(self, cycle: Cycle, alone: bytes | None) -> None:
        """Serve a request whose head has come; wait a little for what can be answered at once.

        Args:
            cycle: The request.
            alone: What came, if that began with the request.
        """
        scope = cast("dict[str, Any]", cycle.scope)
        ready = None if self.ready is None or self._waiting else self.ready(scope)
        if cycle.more_body and ready is not None and self._comes_soon(cycle):
            if self._timer is None:
                # Many clients send the head first.
                self._timer = self.loop.call_later(_REST_S, self._wait_no_more)
            return
        self._next = None
        self._disarm()
        if not (cycle.more_body or self._waiting):
            if alone is not None and cycle.keep_alive:
                if self._known is None:
                    self._known = KnownHeads()
                self._known.learn(alone, scope, ready)
            response = self._response(ready, cycle.body)
            if response is not None:
                cycle.respond(*response)
                return
        self._serve(cycle)

    def _comes_soon(self, cycle: Cycle) -> bool:
        return not (
            cycle.waiting_for_100_continue or self.flow.read_paused or self.transport.is_closing()
        )

    def _wait_no_more(self) -> None:
        self._timer = None
        cycle, self._next = self._next, None
        if cycle is not None and not self.transport.is_closing():
            self._serve(cycle)

    def _again(self, head: KnownHead, body: bytes) -> None:
        """Serve a request whose head was read before."""
        response = self._response(head.ready, body)
        if response is not None:
            write_response(self.transport, response, self.server_state.default_headers)
            self.on_response_complete()
            return
        scope: Any = {**head.scope, "headers": [*head.scope["headers"]]}
        self.cycle = cycle = Cycle(self, scope, keep_alive=True, waits_for_100=False)
        cycle.body = cast("Any", body)
        cycle.more_body = False
        cycle.message_event.set()
        self._serve(cycle)

    def _response(self, ready: Ready | None, body: bytes | bytearray) -> Response | None:
        """The response to a request that has come whole, where it is made at once."""
        if ready is None or self.flow.write_paused:
            return None
        return ready.answer(bytes(body))

    def _serve(self, cycle: Cycle) -> None:
        self.served = cycle
        # Whoever serves the request takes it out: a scope that keeps it would keep itself.
        cast("Any", cycle.scope)[NEAR] = cycle
        app = cast("Any", self.app)  # pyright: ignore[reportUnknownMemberType]
        task = self.loop.create_task(cycle.run_asgi(app))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)

    def _look_later(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(
            seconds, self.timeout_keep_alive_handler
        )

    def _scope(self, version: str, method: str) -> Any:
        url = self.url
        if url.startswith(b"/") and not (b"?" in url or b"#" in url):
            raw_path, query = url, b""
        else:
            parsed = httptools.parse_url(url)
            raw_path, query = parsed.path, parsed.query or b""
        path = raw_path.decode("ascii")
        scope: dict[str, Any] = {
            "type": "http",
            "asgi": _ASGI,
            "http_version": version,
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme,
            "root_path": "",
            "headers": self.headers,
            "method": method,
            "path": unquote(path) if "%" in path else path,
            "raw_path": raw_path,
            "query_string": query,
        }
        if self._identity:
            scope["protoplane.identity"] = self._identity
        return scope

    def _arm(self) -> None:
        self._timer = self.loop.call_later(self.header_timeout_s, self._late)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _late(self) -> None:
        self._timer = None
        self._refuse(
            b"408 Request Timeout",
            f"the headers did not arrive within {self.header_timeout_s:g} s".encode(),
        )

    def _refuse(self, status: bytes, reason: bytes) -> None:
        self._disarm()
        if self.transport.is_closing():
            return
        # An earlier request on this connection may still be in the middle of its answer.
        cycle = cast("Cycle | None", self.cycle)
        if cycle is None or cycle.response_complete:
            with contextlib.suppress(OSError):
                self.transport.write(
                    b"HTTP/1.1 %s\r\ncontent-type: text/plain; charset=utf-8\r\n"
                    b"content-length: %d\r\nconnection: close\r\n\r\n%s"
                    % (status, len(reason), reason)
                )
        self.transport.close()
