"""The mocker as a component: an LLM worker that routers and clients cannot tell from a real one."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing
from typing import Self
from zlib import crc32

from protoplane.inference.v1 import (
    Capability,
    FinishReason,
    GenerateRequest,
    GenerateResponse,
    InferenceService,
    ListModelsRequest,
    ListModelsResponse,
    Model,
    ModelState,
    Usage,
)
from protoplane.router.v1 import Worker
from protoplane_base import Code, PlaneError, Service
from protoplane_components.kv_router.hashing import block_hashes, sequence_hashes
from protoplane_components.kv_router.worker import KvWorker
from protoplane_components.mocker.announcing import KvEvents
from protoplane_components.mocker.engine import MockEngine, MockRequest
from protoplane_components.mocker.realtime import RealTimeEngine
from protoplane_components.mocker.settings import VARIABLE, MockerSettings, parse_settings
from protoplane_components.mocker.timing import TimingModel
from protoplane_server import Context

_MAX_TOKENS = 128
_LETTERS = b"etaoin shrdlu"


class Mocker(InferenceService):
    """Answers `Generate` with as many letters as are asked for, as fast as an engine would.

    A text's tokens are its bytes. The answer depends on the prompt alone, so the same conversation
    has the same blocks wherever it goes. What its cache holds it tells through `cache`, which is
    served beside it, see `mocker`.

    Args:
        settings: What it plays; by default what ``$PROTOPLANE_MOCKER`` says.
        timing: How long its steps take.
    """

    def __init__(
        self, settings: MockerSettings | None = None, timing: TimingModel | None = None
    ) -> None:
        self._settings = settings or parse_settings(os.environ.get(VARIABLE, ""))
        options = self._settings.engine
        self.cache = KvWorker(
            Worker(
                model=self._settings.model,
                block_size=options.block_size,
                total_blocks=options.blocks,
                max_batched_tokens=options.max_batch_tokens,
            )
        )
        self._events = KvEvents(self.cache)
        self.engine = MockEngine(options, timing, self._events)
        self._running = RealTimeEngine(self.engine, self._settings.speedup)
        self._stack = AsyncExitStack()
        self._count = 0

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self._running)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def generate(
        self, request: GenerateRequest, ctx: Context
    ) -> AsyncIterator[GenerateResponse]:
        """Stream letters, each when an engine would have written it."""
        name = self._settings.model
        if request.model not in ("", name):
            raise PlaneError(
                Code.NOT_FOUND, f"there is no model {request.model!r} here; there is {name!r}"
            )
        prompt = _tokens_of(request)
        wanted = request.sampling.max_tokens if request.sampling is not None else None
        output = written_after(prompt, _MAX_TOKENS if wanted is None else wanted)
        tokens_hashes = block_hashes([*prompt, *output], self._settings.block_size).tolist()
        hashes = sequence_hashes(tokens_hashes)
        self._count += 1
        mock = MockRequest(f"{self._count}", len(prompt), len(output), hashes)
        self._events.begin(hashes, tokens_hashes)
        try:
            index = told = 0
            async with aclosing(self._running.write(mock)) as stream:
                async for written in stream:
                    letters = output[told : written.tokens]
                    answer = GenerateResponse(
                        text=bytes(letters).decode(), token_ids=list(letters), index=index
                    )
                    if index == 0:
                        answer.model = name
                    if written.finished:
                        answer.finish_reason = FinishReason.FINISH_REASON_LENGTH
                        answer.usage = Usage(
                            prompt_tokens=len(prompt), completion_tokens=written.tokens
                        )
                    yield answer
                    index, told = index + 1, written.tokens
        finally:
            self._events.end(hashes)

    async def list_models(self, request: ListModelsRequest, ctx: Context) -> ListModelsResponse:
        """Tell the one model that there is."""
        model = Model(
            name=self._settings.model,
            platform="mocker",
            capabilities=[Capability.CAPABILITY_GENERATE],
            state=ModelState.MODEL_STATE_LOADED,
            context_tokens=self._settings.blocks * self._settings.block_size,
        )
        return ListModelsResponse(models=[model])


def mocker() -> Sequence[Service]:
    """A mocker and what tells of its cache, to be served together."""
    made = Mocker()
    return made, made.cache


def written_after(prompt: Sequence[int], count: int) -> list[int]:
    """What a mocker writes: letters that depend on the prompt.

    Args:
        prompt: Its tokens.
        count: How many letters.
    """
    packed = b"".join(token.to_bytes(4, "little") for token in prompt)
    start = crc32(packed)
    # A generator of its own, so that two answers seldom have a block in common.
    letters: list[int] = []
    for _ in range(count):
        start = (start * 1664525 + 1013904223) & 0xFFFFFFFF
        letters.append(_LETTERS[(start >> 16) % len(_LETTERS)])
    return letters


def _tokens_of(request: GenerateRequest) -> Sequence[int]:
    """The tokens of a prompt: those that it has, else the bytes of its text.

    Raises:
        PlaneError: INVALID_ARGUMENT for a request without a prompt, or a token below zero.
    """
    if request.token_ids is not None:
        tokens: Sequence[int] = request.token_ids.ids
        if any(token < 0 for token in tokens):
            raise PlaneError(Code.INVALID_ARGUMENT, "token_ids: a token is a number from 0 on")
    elif request.conversation is not None:
        lines = (f"{each.role}: {each.content}\n" for each in request.conversation.messages)
        tokens = "".join(lines).encode()
    else:
        tokens = (request.prompt or "").encode()
    if not tokens:
        raise PlaneError(
            Code.INVALID_ARGUMENT,
            "there is nothing to go on from; give one of prompt, token_ids or conversation",
        )
    return tokens
