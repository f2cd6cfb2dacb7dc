"""The tokens of one text, from the driver that writes them to the task that reads them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Self

from protoplane_base import PlaneError
from protoplane_server.backends.sampling import Rules
from protoplane_server.backends.torch.scheduler import Sequence

AHEAD = 32
"""Tokens that a text may have which nobody has taken yet; then it waits for its reader."""


class TokenStream(Sequence):
    """A sequence whose new tokens are read as they are chosen; close it when done.

    Args:
        prompt: Tokens that it goes on from, at least one.
        rules: How the next are chosen.
        ends: Tokens that end a text.
        longest: Most tokens of prompt and text.
        priority: Those of a higher one begin first.
        changed: Called when it wants another step, or was left.
    """

    __slots__ = ("_changed", "_ends", "_error", "_most", "_ready", "_waiter", "ended")

    def __init__(
        self,
        prompt: list[int],
        rules: Rules,
        *,
        ends: frozenset[int],
        longest: int,
        priority: int,
        changed: Callable[[TokenStream], None],
    ) -> None:
        super().__init__(prompt, rules, priority=priority)
        self.ended = False
        self._ends = ends | rules.stop_tokens
        self._most = min(rules.max_tokens, longest - len(prompt))
        self._changed = changed
        self._ready: deque[int] = deque()
        self._error: PlaneError | None = None
        self._waiter: asyncio.Future[None] | None = None

    @property
    def hungry(self) -> bool:
        """Whether it wants another token."""
        return not self.gone and len(self._ready) < AHEAD

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> int:
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
        was_full = len(self._ready) == AHEAD
        token = self._ready.popleft()
        if was_full:
            self._changed(self)
        return token

    def write(self, token: int) -> None:
        """The next token was chosen."""
        self.tokens.append(token)
        self._ready.append(token)
        if token in self._ends or self.written == self._most:
            self.ended = self.gone = True
        self._tell()

    def fail(self, error: PlaneError) -> None:
        """End it with an error, once what is ready has been taken."""
        if not self.ended and self._error is None:
            self._error = error
            self.close()
            self._tell()

    def close(self) -> None:
        """Write no more of it; closing twice does nothing."""
        if not self.gone:
            self.gone = True
            self._changed(self)

    def _tell(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
