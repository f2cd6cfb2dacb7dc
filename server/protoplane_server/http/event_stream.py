"""A response of server-sent events that keeps itself alive, and ends when nobody takes it."""

from __future__ import annotations

import asyncio
import logging
from types import TracebackType

from protoplane_server.http.asgi import Exchange, Headers
from protoplane_server.http.rounds import Rounds
from protoplane_server.http.sse import HEADERS, KEEP_ALIVE

_log = logging.getLogger("protoplane.http")

_HIDDEN_BYTES = 64 * 1024
"""Where the server does not say what the socket took, a client has the whole time for each so many
bytes."""


class EventStream:
    """The body of a response; within its block, it does not stay silent for long.

    The head of the response leaves with the first bytes, or after one interval of silence. A client
    whose socket takes no byte of what waits for it is cut off after a while: its connection is
    closed, and the block ends as it does for any client that goes. Where the server gives no hold
    of the connection, the block is cancelled, and ends quietly.

    Args:
        exchange: The request that is answered.
        rounds: Those of the door.
        interval_s: Seconds of silence after which a comment is sent.
        stall_s: Seconds without a byte taken after which the client is cut off; ``None`` for never.
        headers: Headers of the response, beside those of any event stream.

    Attributes:
        stalled: Whether the client was cut off.
    """

    __slots__ = (
        "_allowed_s",
        "_beat",
        "_cancelled",
        "_exchange",
        "_headers",
        "_interval_s",
        "_loop",
        "_moved_at",
        "_round",
        "_stall_s",
        "_task",
        "_turn",
        "_unsent",
        "_writes",
        "_wrote_at",
        "stalled",
    )

    def __init__(
        self,
        exchange: Exchange,
        rounds: Rounds,
        interval_s: float,
        *,
        stall_s: float | None = None,
        headers: Headers | None = None,
    ) -> None:
        self.stalled = False
        self._exchange = exchange
        self._interval_s = interval_s
        self._stall_s = stall_s
        self._headers = headers
        self._loop = asyncio.get_running_loop()
        # Half of it, so that neither a beat nor an end is late by more than that.
        every_s = interval_s if stall_s is None else min(interval_s, stall_s)
        self._round = rounds.every(every_s / 2)
        self._turn = 0
        self._beat: asyncio.Task[None] | None = None
        self._task: asyncio.Task[object] | None = None
        self._cancelled = False
        self._writes = 0
        self._wrote_at = 0.0
        self._moved_at = 0.0
        self._allowed_s = 0.0
        self._unsent: int | None = None

    def __enter__(self) -> None:
        self._task = asyncio.current_task()
        self._wrote_at = self._loop.time()
        self._turn = self._round.join(self)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        self._round.leave(self, self._turn)
        if self._beat is not None:
            self._beat.cancel()
        if self._cancelled and kind is asyncio.CancelledError:
            assert self._task is not None
            self._task.uncancel()
            return True
        return False

    async def write(self, data: bytes) -> None:
        """Send bytes; waits while the client is slow to take what it was sent."""
        exchange = self._exchange
        self._wrote_at = now = self._loop.time()
        if self._writes == 0:
            self._moved_at, self._unsent, self._allowed_s = now, None, 0.0
        if self._stall_s is not None:
            self._allowed_s += self._stall_s * max(1.0, len(data) / _HIDDEN_BYTES)
        self._writes += 1
        try:
            if not exchange.started:
                await exchange.start(200, [*HEADERS, *(self._headers or ())])
            if data:
                await exchange.write(data)
        finally:
            self._writes -= 1

    def look(self) -> None:
        """See whether the stream is silent or stalled; the round does this."""
        if self.stalled:
            return
        now = self._loop.time()
        if self._writes:
            # The client is slow, so the stream is not silent; does it take anything at all?
            unsent = self._exchange.unsent
            if self._stall_s is None:
                pass
            elif unsent != self._unsent:
                self._unsent, self._moved_at = unsent, now
            elif now - self._moved_at >= (self._allowed_s if unsent is None else self._stall_s):
                self._cut_off()
        elif now - self._wrote_at >= self._interval_s:
            self._beat = self._loop.create_task(self.write(KEEP_ALIVE))

    def _cut_off(self) -> None:
        self.stalled = True
        _log.info(
            "an event stream is cut off: %s took no byte of it for %g s",
            self._exchange.peer,
            self._stall_s,
        )
        if not self._exchange.abort():
            self._cancelled = True
            assert self._task is not None
            self._task.cancel()
