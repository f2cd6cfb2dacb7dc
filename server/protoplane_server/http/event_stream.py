"""A response of server-sent events that keeps itself alive."""

from __future__ import annotations

import asyncio

from protoplane_server.http.asgi import Exchange
from protoplane_server.http.sse import HEADERS, KEEP_ALIVE


class EventStream:
    """The body of a response; within its block, it does not stay silent for long.

    The head of the response leaves with the first bytes, or after one interval of silence.

    Args:
        exchange: The request that is answered.
        interval_s: Seconds of silence after which a comment is sent.
    """

    def __init__(self, exchange: Exchange, interval_s: float) -> None:
        self._exchange = exchange
        self._interval_s = interval_s
        self._wrote = False
        self._timer: asyncio.TimerHandle | None = None
        self._beat: asyncio.Task[None] | None = None

    def __enter__(self) -> None:
        self._arm()

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._beat is not None:
            self._beat.cancel()

    async def write(self, data: bytes) -> None:
        """Send bytes; waits while the client is slow to take what it was sent."""
        self._wrote = True
        if not self._exchange.started:
            await self._exchange.start(200, HEADERS)
        if data:
            await self._exchange.write(data)

    def _arm(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._interval_s, self._tick)

    def _tick(self) -> None:
        # A beat that still waits says that the client is slow, not that the stream is silent.
        if not self._wrote and (self._beat is None or self._beat.done()):
            self._beat = asyncio.get_running_loop().create_task(self.write(KEEP_ALIVE))
        self._wrote = False
        self._arm()
