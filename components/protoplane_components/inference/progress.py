"""Publishes how far a request has come, for callers that ask for it."""

from __future__ import annotations

import asyncio
import logging
from typing import Self

from protoplane.inference.v1 import RequestPhase, RequestProgress
from protoplane_base import Code, PlaneError, Timestamp
from protoplane_server import Context

EVERY_TOKENS = 64
"""Tokens from one event to the next."""

_LEFT = (asyncio.CancelledError, GeneratorExit)
_log = logging.getLogger("protoplane.inference")


class Progress:
    """Tells of one request's start, its first token, some of the others and its end.

    Args:
        ctx: The call.
        model: The model that works on it.
        wanted: Whether anything is published at all.
    """

    def __init__(self, ctx: Context, model: str, *, wanted: bool) -> None:
        self._ctx = ctx
        self._model = model
        self._wanted = wanted
        self._tokens = 0
        self._told = -EVERY_TOKENS

    async def __aenter__(self) -> Self:
        await self._tell(RequestPhase.REQUEST_PHASE_STARTED)
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            await self._tell(RequestPhase.REQUEST_PHASE_FINISHED)
        elif isinstance(error, _LEFT) or (
            isinstance(error, PlaneError) and error.code is Code.DEADLINE_EXCEEDED
        ):
            await self._tell(RequestPhase.REQUEST_PHASE_CANCELLED)
        else:
            await self._tell(RequestPhase.REQUEST_PHASE_FAILED)

    async def written(self, tokens: int) -> None:
        """So many more tokens were written."""
        self._tokens += tokens
        if self._wanted and self._tokens and self._tokens - self._told >= EVERY_TOKENS:
            self._told = self._tokens
            await self._tell(RequestPhase.REQUEST_PHASE_GENERATING)

    async def _tell(self, phase: RequestPhase) -> None:
        if not self._wanted:
            return
        event = RequestProgress(
            request_id=self._ctx.request_id,
            model=self._model,
            phase=phase,
            completion_tokens=self._tokens,
            at=Timestamp.now(),
        )
        try:
            await self._ctx.publish(event)
        except PlaneError as error:
            # A request id that is no segment of a key, or an engine that is away: the text counts.
            _log.warning("progress of %s was not published: %s", self._model, error.message)
