"""Links that come in through the HTTP door; `protoplane_runtime.link.carriers.http` says how.

Whoever knows a link's id can speak on it, so ids are secrets that nobody guesses.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import secrets
from collections import deque
from urllib.parse import parse_qs

from protoplane_base import Code, PlaneError
from protoplane_runtime.link.carriers.http_names import CLOSED, OPENED, PATH
from protoplane_runtime.link.carriers.interface import Started
from protoplane_runtime.link.carriers.pumped import PumpedCarrier
from protoplane_server.http.asgi import Exchange
from protoplane_server.http.body import read_body
from protoplane_server.http.departure import Departure, disconnection
from protoplane_server.http.event_stream import EventStream
from protoplane_server.http.faults import HttpError
from protoplane_server.http.sse import sse_event
from protoplane_server.http.state import DoorState

_BODY_BYTES = 1024 * 1024
_WRITE_BYTES = 256 * 1024
_LAST_WORD_S = 1.0


class LinkRoutes:
    """Serves ``/link`` and what is below it.

    Args:
        state: The door's state.
        started: Takes a link on.
    """

    def __init__(self, state: DoorState, started: Started) -> None:
        self._state = state
        self._started = started
        self._links: dict[str, _ServerPump] = {}

    def serves(self, path: str) -> bool:
        """Whether a path belongs to links."""
        return path == PATH or path.startswith(PATH + "/")

    async def serve(self, exchange: Exchange) -> None:
        """Serve one request.

        Raises:
            HttpError: 404 for a link that there is not, 405, 409 for a body out of turn, 413.
        """
        id_ = exchange.scope["path"].removeprefix(PATH).removeprefix("/")
        verb = exchange.scope["method"]
        if not id_ and verb == "POST":
            return await self._open(exchange)
        if not id_ or verb not in ("POST", "DELETE"):
            allow = "POST, DELETE" if id_ else "POST"
            raise HttpError(
                405,
                Code.UNIMPLEMENTED,
                f"links take {allow}, not {verb}",
                [(b"allow", allow.encode())],
            )
        pump = self._links.get(id_)
        if pump is None:
            raise _gone()
        if verb == "POST":
            await self._up(exchange, pump)
        else:
            with Departure(self._state, disconnection(exchange.receive)):
                await pump.put(None)
        return await exchange.answer(204, [], b"")

    async def _open(self, exchange: Exchange) -> None:
        state = self._state
        await read_body(exchange, state, encoded=False)
        id_ = secrets.token_urlsafe(32)
        said = {"id": id_, "max_body_bytes": min(_BODY_BYTES, state.max_bytes)}
        stream = EventStream(exchange, state.rounds, state.keep_alive_s)
        departure = Departure(
            state, disconnection(exchange.receive), at_once=True, group=state.streams
        )
        pump = _ServerPump(stream)
        last = b""
        try:
            with departure, stream:
                await stream.write(sse_event(json.dumps(said), event=OPENED))
                self._links[id_] = pump
                carrier = PumpedCarrier(
                    self._started,
                    pump,
                    peer=exchange.peer,
                    identity=exchange.scope.get("protoplane.identity", ""),
                    write_bytes=_WRITE_BYTES,
                )
                await carrier.run()
                if not carrier.aborted and not carrier.broken:
                    last = sse_event("", event=CLOSED)
        except PlaneError:
            # The door closes; what that means the client reads from an end without a `close`.
            if not state.closing.is_set():
                raise
        finally:
            self._links.pop(id_, None)
            pump.end()
        if not departure.gone:
            # A client that takes nothing any more learns of it when its connection is cut.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LAST_WORD_S):
                    await exchange.finish(last)

    async def _up(self, exchange: Exchange, pump: _ServerPump) -> None:
        query = parse_qs(exchange.scope["query_string"].decode("latin-1"))
        text = query.get("n", [""])[-1]
        number = int(text) if text.isascii() and text.isdigit() and len(text) < 20 else -1
        if pump.busy or number not in (pump.expected, pump.expected - 1) or number < 0:
            raise HttpError(
                409,
                Code.FAILED_PRECONDITION,
                f"body {text or 'without a number'} came and {pump.expected} is due, one at a time",
            )
        pump.busy = True
        try:
            body = await read_body(exchange, self._state, encoded=False)
            if number == pump.expected:
                pump.expected += 1
                with Departure(self._state, disconnection(exchange.receive)):
                    await pump.put(body)
        finally:
            pump.busy = False


class _ServerPump:
    """The end of a link that was connected to; see `pumped.Pump`.

    Args:
        stream: Where bytes go down.

    Attributes:
        expected: Number of the body that is due.
        busy: Whether a body is being taken.
    """

    def __init__(self, stream: EventStream) -> None:
        self.expected = 0
        self.busy = False
        self._stream = stream
        self._over = False
        self._bodies: deque[bytes | None] = deque()
        self._arrived = asyncio.Event()
        self._taken = asyncio.Event()

    async def put(self, body: bytes | None) -> None:
        """Hand over what came; returns once it is taken. ``None`` is the orderly end.

        Raises:
            HttpError: 404 where the link ended meanwhile.
        """
        if self._over:
            raise _gone()
        self._bodies.append(body)
        self._arrived.set()
        while body is not None and self._bodies and not self._over:
            self._taken.clear()
            await self._taken.wait()

    def end(self) -> None:
        """Let go of who still waits in `put`: the link is over."""
        self._over = True
        self._taken.set()

    async def read(self) -> bytes | None:
        """See `Pump`."""
        while not self._bodies:
            self._arrived.clear()
            await self._arrived.wait()
        body = self._bodies.popleft()
        self._taken.set()
        return body

    async def write(self, pieces: list[bytes]) -> None:
        """See `Pump`; a client that goes away cancels it."""
        await self._stream.write(b"data: %b\n\n" % base64.b64encode(b"".join(pieces)))

    async def finish(self) -> bool:
        """See `Pump`; the last event, which follows, says it."""
        return False


def _gone() -> HttpError:
    return HttpError(404, Code.NOT_FOUND, "there is no such link; it may have ended")
