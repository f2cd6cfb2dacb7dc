"""Tokens of one text, from what writes them to the one task that reads them."""

from __future__ import annotations

import asyncio
from collections import deque

from protoplane_base import PlaneError

AHEAD = 32
"""Tokens that a text may have which nobody has taken yet; then it waits for its reader."""


class TokenQueue:
    """Tokens that were chosen and not read yet; both sides are on the event loop.

    Attributes:
        ended: Whether its last token is in it, or was read.
    """

    __slots__ = ("_error", "_ready", "_waiter", "ended")

    def __init__(self) -> None:
        self.ended = False
        self._ready: deque[int] = deque()
        self._error: PlaneError | None = None
        self._waiter: asyncio.Future[None] | None = None

    @property
    def full(self) -> bool:
        """Whether its writer is to wait."""
        return len(self._ready) >= AHEAD

    async def take(self) -> int:
        """The next token; cancelling the wait takes none.

        Raises:
            StopAsyncIteration: The text is over.
            PlaneError: It failed.
        """
        while not self._ready:
            if self._error is not None:
                raise self._error
            if self.ended:
                raise StopAsyncIteration
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return self._ready.popleft()

    def put(self, token: int, *, last: bool) -> None:
        """Add a token."""
        self._ready.append(token)
        self.ended = last
        self._tell()

    def fail(self, error: PlaneError) -> bool:
        """End it with an error, once what is in it has been taken.

        Returns:
            Whether it was not over yet.
        """
        if self.ended or self._error is not None:
            return False
        self._error = error
        self._tell()
        return True

    def _tell(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
