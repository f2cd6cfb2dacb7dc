"""The tokens of one text, from the driver that writes them to the task that reads them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

from protoplane_base import PlaneError
from protoplane_server.backends.sampling import Rules
from protoplane_server.backends.token_queue import TokenQueue
from protoplane_server.backends.torch.scheduler import Sequence


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

    __slots__ = ("_changed", "_ends", "_most", "_queue")

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
        self._ends = ends | rules.stop_tokens
        self._most = min(rules.max_tokens, longest - len(prompt))
        self._changed = changed
        self._queue = TokenQueue()

    @property
    def hungry(self) -> bool:
        """Whether it wants another token."""
        return not self.gone and not self._queue.full

    @property
    def ended(self) -> bool:
        """Whether its last token was chosen."""
        return self._queue.ended

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> int:
        was_full = self._queue.full
        token = await self._queue.take()
        if was_full:
            self._changed(self)
        return token

    def write(self, token: int) -> None:
        """The next token was chosen."""
        self.tokens.append(token)
        is_last = token in self._ends or self.written == self._most
        self.gone = self.gone or is_last
        self._queue.put(token, last=is_last)

    def fail(self, error: PlaneError) -> None:
        """End it with an error, once what is ready has been taken."""
        if self._queue.fail(error):
            self.close()

    def close(self) -> None:
        """Write no more of it; closing twice does nothing."""
        if not self.gone:
            self.gone = True
            self._changed(self)
