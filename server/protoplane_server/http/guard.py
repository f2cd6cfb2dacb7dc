"""Uvicorn's HTTP/1.1 protocol with bounds on the head of a request, in less memory.

Uvicorn waits for ever for the end of a request's headers and takes any amount of them. A client
that dribbles (slow loris) or never ends its headers would hold a connection and memory for nothing.
Subscribers to events hold one for hours, thousands of them, so what each takes counts.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from typing import Any, cast

from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from protoplane_runtime.link.carriers.stream import common_name
from protoplane_server.http.asgi import WHOLE, Message

HEADER_TIMEOUT_S = 10.0
"""Longest that the head of a request may take to arrive, from the first byte of it, or from the
start of the connection."""

MAX_HEADER_BYTES = 64 * 1024
"""Most bytes that the head of a request may have, give or take one read of the socket."""


class GuardedProtocol(HttpToolsProtocol):
    """Cuts off a client whose request's head is late or endless.

    Attributes:
        lost: Called once when the connection is lost; for what cannot wait for word of it.
    """

    # Beside uvicorn's attributes these would be too many for a dict that shares its keys.
    __slots__ = ("_head_bytes", "_identity", "_in_head", "_timer", "lost")

    header_timeout_s = HEADER_TIMEOUT_S

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
        self.lost: Callable[[], None] | None = None
        self.pipeline = cast("Any", _Pipeline())

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self.flow = _Flow(transport)
        self._identity = common_name(transport.get_extra_info("peercert"))
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._disarm()
        super().connection_lost(exc)
        # Uvicorn leaves that timer on after a reset, and with it all that it has of the connection.
        self._unset_keepalive_if_required()
        lost, self.lost = self.lost, None
        if lost is not None:
            lost()

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self.scope["protoplane.transport"] = self.transport  # type: ignore[typeddict-unknown-key]
        if self._identity:
            self.scope["protoplane.identity"] = self._identity  # type: ignore[typeddict-unknown-key]
        self._in_head = True
        self._head_bytes = 0

    def on_headers_complete(self) -> None:
        """The head of a request is whole."""
        self._in_head = False
        if self._timer is not None:
            self._disarm()
        super().on_headers_complete()
        # Its task has not begun, so nobody has it yet.
        self.cycle.message_event = _Event()
        self.cycle.__class__ = _Cycle

    def data_received(self, data: bytes) -> None:
        """Take the next bytes of the connection."""
        super().data_received(data)
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
        cycle = cast("RequestResponseCycle | None", self.cycle)
        if cycle is None or cycle.response_complete:
            with contextlib.suppress(OSError):
                self.transport.write(
                    b"HTTP/1.1 %s\r\ncontent-type: text/plain; charset=utf-8\r\n"
                    b"content-length: %d\r\nconnection: close\r\n\r\n%s"
                    % (status, len(reason), reason)
                )
        self.transport.close()


class _Cycle(RequestResponseCycle):
    """Sends the head of a response with its body where both are there: one write takes half."""

    async def send(self, message: Message) -> None:  # type: ignore[override]
        if WHOLE in message:
            self.transport = cast("asyncio.Transport", _Held(self.transport))
        await super().send(cast("Any", message))
        held = cast("object", self.transport)
        if isinstance(held, _Held) and WHOLE not in message:
            self.transport = held.release()


class _Held:
    """A transport that holds the first that is written until there is more."""

    __slots__ = ("_first", "_transport")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._first: bytes | None = None

    def write(self, data: bytes) -> None:
        if self._first is None:
            self._first = data
        else:
            first, self._first = self._first, b""
            self._transport.write(first + data)

    def release(self) -> asyncio.Transport:
        """Write what is held; gives the transport back."""
        if self._first:
            self._transport.write(self._first)
            self._first = b""
        return self._transport

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def close(self) -> None:
        self.release().close()


class _Event(asyncio.Event):
    """One whose waiters are in a list: a deque takes ten times the memory, also while empty."""

    def __init__(self) -> None:
        super().__init__()
        self._waiters = cast("deque[asyncio.Future[Any]]", [])


class _Flow(FlowControl):
    """As uvicorn's, with a small event."""

    def __init__(self, transport: asyncio.Transport) -> None:
        super().__init__(transport)
        self._is_writable_event = _Event()
        self._is_writable_event.set()


class _Pipeline(list[Any]):
    """Requests that wait for the one before, mostly none; as much of a deque as uvicorn uses."""

    __slots__ = ()

    def appendleft(self, item: Any) -> None:
        """Add at the left."""
        self.insert(0, item)
