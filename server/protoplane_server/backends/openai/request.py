"""A request on its way: its time, and what ends it early."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from protoplane_base import PlaneError
from protoplane_server.backends.interface import BackendContext
from protoplane_server.backends.openai.errors import FAILURES, plane_error

_T = TypeVar("_T")


class Request:
    """Waits for the steps of one request.

    Args:
        ctx: What it is for.
        server: Where it goes, for errors.
        timeout_s: Longest that it may take where the context sets no earlier deadline.

    Raises:
        PlaneError: DEADLINE_EXCEEDED; its time is up already.
    """

    def __init__(self, ctx: BackendContext, server: str, timeout_s: float) -> None:
        left_s = ctx.time_remaining_s()
        if left_s == 0:
            raise ctx.too_late()
        self._ctx = ctx
        self._server = server
        self._until = asyncio.get_running_loop().time() + (
            timeout_s if left_s is None else min(left_s, timeout_s)
        )
        self._ended: PlaneError | None = None
        self._scope: asyncio.Timeout | None = None

    def end(self, error: PlaneError) -> None:
        """Let it fail, now where it waits, else at its next step."""
        self._ended = error
        if self._scope is not None:
            self._scope.reschedule(asyncio.get_running_loop().time())

    async def step(self, work: Awaitable[_T]) -> _T:
        """Wait for one step; errors of the client become `PlaneError`.

        Raises:
            PlaneError: DEADLINE_EXCEEDED, what `end` was given, or what the server says.
        """
        try:
            async with asyncio.timeout_at(
                self._until if self._ended is None else 0.0
            ) as self._scope:
                result = await work
        except TimeoutError as error:
            raise (self._ended or self._ctx.too_late()) from error
        except FAILURES as error:
            raise (self._ended or plane_error(error, self._server)) from error
        finally:
            self._scope = None
        if self._ended is not None:
            raise self._ended
        return result
