"""A component behind the gateway that does what its prompt says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from protoplane.inference.v1 import (
    Capability,
    Embedding,
    EmbedRequest,
    EmbedResponse,
    FinishReason,
    GenerateRequest,
    GenerateResponse,
    InferenceService,
    InferRequest,
    InferResponse,
    ListModelsRequest,
    ListModelsResponse,
    Model,
    ModelState,
    Usage,
)
from protoplane_base import Code, PlaneError
from protoplane_server import Context
from protoplane_server.backends.queueing import queue_full

MODELS = ("parrot", "parrot/large", "vectors")


class Talker(InferenceService):
    """Says the words of its prompt again, one by one.

    ``!fail`` raises UNAVAILABLE there, ``!hang`` waits for ever, ``!busy`` is a full queue,
    ``!crash`` a mistake.

    Attributes:
        asked: What it was asked to generate.
        contexts: The calls.
        hanging: Calls that hang now.
        cancelled: Calls that were cancelled while they hung.
    """

    def __init__(self) -> None:
        self.asked: list[GenerateRequest] = []
        self.contexts: list[Context] = []
        self.hanging = 0
        self.cancelled = 0
        self.changed = asyncio.Condition()

    async def generate(
        self, request: GenerateRequest, ctx: Context
    ) -> AsyncIterator[GenerateResponse]:
        self.asked.append(request)
        self.contexts.append(ctx)
        _check(request.model)
        words = _prompt(request).split()
        most = request.sampling.max_tokens if request.sampling is not None else None
        for index, word in enumerate(words[:most]):
            await self._obey(word)
            text = word if index == 0 else f" {word}"
            yield GenerateResponse(
                text=text,
                token_ids=[index],
                index=index,
                model=request.model if index == 0 else "",
            )
        cut = most is not None and most < len(words)
        yield GenerateResponse(
            index=len(words),
            model=request.model if not words else "",
            finish_reason=FinishReason.FINISH_REASON_LENGTH
            if cut
            else FinishReason.FINISH_REASON_STOP,
            usage=Usage(prompt_tokens=len(words), completion_tokens=len(words[:most])),
        )

    async def embed(self, request: EmbedRequest, ctx: Context) -> EmbedResponse:
        _check(request.model)
        vectors = [Embedding(values=[1.0, 0.5, -0.25, len(text)]) for text in request.texts]
        return EmbedResponse(embeddings=vectors, usage=Usage(prompt_tokens=3), model=request.model)

    async def infer(self, request: InferRequest, ctx: Context) -> InferResponse:
        _check(request.model)
        self.contexts.append(ctx)
        return InferResponse(model=request.model, outputs=request.inputs)

    async def infer_stream(
        self, request: InferRequest, ctx: Context
    ) -> AsyncIterator[InferResponse]:
        _check(request.model)
        for tensor in request.inputs:
            yield InferResponse(model=request.model, outputs=[tensor])

    async def list_models(self, request: ListModelsRequest, ctx: Context) -> ListModelsResponse:
        return ListModelsResponse(
            models=[
                Model(
                    name=name,
                    platform="test",
                    state=ModelState.MODEL_STATE_LOADED,
                    capabilities=[Capability.CAPABILITY_GENERATE],
                )
                for name in MODELS
            ]
        )

    async def until(self, *, hanging: int, cancelled: int) -> None:
        """Wait until so many calls hang, and so many were cancelled."""
        async with asyncio.timeout(20), self.changed:
            await self.changed.wait_for(
                lambda: (self.hanging, self.cancelled) == (hanging, cancelled)
            )

    async def _obey(self, word: str) -> None:
        match word:
            case "!fail":
                raise PlaneError(Code.UNAVAILABLE, "the worker died")
            case "!busy":
                raise queue_full("requests", 7, 7, 1.5)
            case "!cannot":
                raise PlaneError(Code.UNIMPLEMENTED, "the model cannot generate")
            case "!crash":
                raise ZeroDivisionError("secret 1234")
            case "!hang":
                await self._hang()
            case _:
                pass

    async def _hang(self) -> None:
        self.hanging += 1
        await self._tell()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.hanging -= 1
            await self._tell()

    async def _tell(self) -> None:
        async with self.changed:
            self.changed.notify_all()


def _prompt(request: GenerateRequest) -> str:
    if request.prompt is not None:
        return request.prompt
    if request.token_ids is not None:
        return " ".join(map(str, request.token_ids.ids))
    assert request.conversation is not None
    return request.conversation.messages[-1].content


def _check(model: str) -> None:
    if model not in MODELS:
        raise PlaneError(Code.NOT_FOUND, f"there is no model {model!r}; there are {MODELS}")
