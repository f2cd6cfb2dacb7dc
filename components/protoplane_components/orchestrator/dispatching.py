"""Brings requests to workers, and to another one where that is lost."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

from protoplane.inference.v1 import (
    GenerateRequest,
    GenerateResponse,
    InferenceClient,
    InferRequest,
    InferResponse,
)
from protoplane.orchestrator.v1 import StreamBroken
from protoplane_base import CallOptions, Code, Context, PlaneError
from protoplane_components.orchestrator.counts import Counts
from protoplane_components.orchestrator.needs import Need
from protoplane_components.orchestrator.pool import Pool, Slot
from protoplane_components.orchestrator.resuming import Writing
from protoplane_components.orchestrator.sequences import Sequences
from protoplane_components.orchestrator.settings import OrchestratorSettings
from protoplane_components.orchestrator.workers import Worker
from protoplane_runtime.link.errors import UnsentError

_Answer = TypeVar("_Answer")

REQUEST_ID = "x-request-id"
"""Metadata by which a caller names its call; workers get it, too."""

_REFUSED = (Code.RESOURCE_EXHAUSTED, Code.NOT_FOUND, Code.FAILED_PRECONDITION)
"""What a worker answers that cannot take a request which another one may take."""


class Dispatching:
    """Makes the calls of an orchestrator.

    Deadline, trace and cancellation of the caller's request go with what is called here.

    Args:
        pool: Gives workers.
        settings: The orchestrator's.
        counts: What is counted.
    """

    def __init__(self, pool: Pool, settings: OrchestratorSettings, counts: Counts) -> None:
        self._pool = pool
        self._settings = settings
        self._counts = counts
        self._sequences = Sequences()

    async def unary(
        self,
        need: Need,
        ctx: Context,
        call: Callable[[InferenceClient, CallOptions], Awaitable[_Answer]],
    ) -> _Answer:
        """Make a call that has one answer, at another worker where one is lost."""
        self._counts.requests += 1
        options = options_of(ctx)
        while True:
            slot = await self._begin(need)
            try:
                answer = await call(slot.worker.client, options)
            except PlaneError as error:
                self._elsewhere(need, slot.worker, error)
                self._counts.retries += 1
            else:
                slot.worker.answered()
                return answer
            finally:
                slot.release()

    async def generate(
        self, need: Need, request: GenerateRequest, ctx: Context
    ) -> AsyncGenerator[GenerateResponse, None]:
        """Stream a text; where its worker is lost another begins it, or goes on with it."""
        self._counts.requests += 1
        options = options_of(ctx, named=request.progress)
        writing: Writing | None = None
        lost: Worker | None = None
        while True:
            if writing is not None:
                # A policy looks at what is left to do.
                need.text = writing.request()
            try:
                slot = await self._begin(need)
            except PlaneError as error:
                if writing is None or lost is None or not writing.begun:
                    raise
                raise self._broken(
                    lost, error, ctx, writing.told("no other worker is there")
                ) from error
            if writing is None:
                # By now it is known which model it is for.
                need.text = _for_model(request, need.model)
                writing = Writing(need.text, resume=self._settings.resume)
            answers = _started(slot.worker.client.generate, need.text, options)
            reservation = slot.reservation
            first = True
            try:
                async for answer in answers:
                    if first:
                        first = False
                        slot.worker.answered()
                        if reservation is not None and not answer.finish_reason:
                            reservation.answered()
                    for each in writing.delivered(answer):
                        yield each
                    if reservation is not None:
                        reservation.wrote(writing.tokens)
            except PlaneError as error:
                if writing.finished:
                    # Nothing is missing; only the goodbye was lost.
                    return
                lost = slot.worker
                if not writing.begun:
                    self._elsewhere(need, lost, error)
                    self._counts.retries += 1
                    continue
                if not is_lost(error):
                    raise
                if writing.why_not:
                    _lose(lost, error)
                    raise self._broken(lost, error, ctx, writing.told(writing.why_not)) from error
                if writing.advanced:
                    need.attempts = 1
                try:
                    self._elsewhere(need, lost, error)
                except PlaneError:
                    told = writing.told("as many workers were lost as are tried")
                    raise self._broken(lost, error, ctx, told) from error
                self._counts.resumes += 1
            else:
                return
            finally:
                try:
                    await _leave(answers)
                finally:
                    slot.release()

    async def infer_stream(
        self, need: Need, request: InferRequest, ctx: Context
    ) -> AsyncGenerator[InferResponse, None]:
        """Stream results; where the worker is lost before the first, another one begins."""
        self._counts.requests += 1
        options = options_of(ctx)
        delivered = 0
        while True:
            slot = await self._begin(need)
            answers = _started(slot.worker.client.infer_stream, request, options)
            try:
                async for answer in answers:
                    if not delivered:
                        slot.worker.answered()
                    delivered += 1
                    yield answer
            except PlaneError as error:
                if delivered and is_lost(error):
                    _lose(slot.worker, error)
                    told = StreamBroken(messages_delivered=delivered, reason="results are there")
                    raise self._broken(slot.worker, error, ctx, told) from error
                if delivered:
                    raise
                self._elsewhere(need, slot.worker, error)
                self._counts.retries += 1
            else:
                return
            finally:
                try:
                    await _leave(answers)
                finally:
                    slot.release()

    async def _begin(self, need: Need) -> Slot:
        if need.sequence is not None:
            need.only = self._sequences.worker_of(need.model, need.sequence)
        slot = await self._pool.acquire(need)
        need.attempts += 1
        if need.sequence is not None:
            self._sequences.went(need.model, need.sequence, slot.worker.name)
        return slot

    def _elsewhere(self, need: Need, worker: Worker, error: PlaneError) -> None:
        """Note that a worker failed a request; raises where no other may have it."""
        if is_lost(error):
            _lose(worker, error)
            need.tried.add(worker)
            # Where we may not go there, that is no fault of the caller.
            message = f"{worker.name} was lost: {error.message}"
            need.failure = PlaneError(Code.UNAVAILABLE, message, error.details)
        elif error.code in _REFUSED:
            need.barred.add(worker)
            need.failure = error
        else:
            raise error
        # A sequence lives at its worker, and only what never reached that may be sent again.
        sequel = bool(need.only) and not isinstance(error, UnsentError)
        if sequel or need.attempts >= self._settings.max_attempts:
            raise need.failure

    def _broken(
        self, worker: Worker, error: PlaneError, ctx: Context, told: StreamBroken
    ) -> PlaneError:
        """What a caller gets whose stream broke off after something was delivered."""
        self._counts.broken += 1
        told.worker = worker.name
        told.request_id = ctx.request_id
        return PlaneError(
            Code.UNAVAILABLE,
            f"the worker {worker.name} was lost after {told.messages_delivered} messages of "
            f"request {ctx.request_id}, and no other goes on: {told.reason}; ask again",
            [told],
        )


def is_lost(error: PlaneError) -> bool:
    """Whether an error says that the worker is away, rather than what it thinks of the request."""
    if error.code is Code.DEADLINE_EXCEEDED:
        return False
    return error.code is Code.UNAVAILABLE or isinstance(error, UnsentError)


def options_of(ctx: Context, *, named: bool = False) -> CallOptions:
    """Options of a call to a worker: it is called as its caller called it.

    Args:
        ctx: The call that is being served.
        named: Whether the worker needs its name even where the caller gave it none.
    """
    if named or REQUEST_ID in ctx.metadata:
        return {"metadata": {REQUEST_ID: ctx.request_id}}
    return {}


def _lose(worker: Worker, error: PlaneError) -> None:
    worker.failed += 1
    worker.fell_away(error)


def _for_model(request: GenerateRequest, model: str) -> GenerateRequest:
    return request if request.model else request.model_copy(update={"model": model})


def _started(call: Any, request: Any, options: CallOptions) -> AsyncIterator[Any]:
    answers: AsyncIterator[Any] = call(request, **options)
    return answers


async def _leave(answers: AsyncIterator[Any]) -> None:
    """End a stream now, not when its garbage is collected."""
    aclose = getattr(answers, "aclose", None)
    if aclose is not None:
        await aclose()
