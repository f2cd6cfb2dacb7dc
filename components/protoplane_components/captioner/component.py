"""The component, as a user would write it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from itertools import islice

from forge.captioner.v1 import (
    CaptionChunk,
    CaptionerService,
    CaptionFinished,
    CaptionRequest,
    CollectRequest,
    CollectResponse,
    ConverseRequest,
    ConverseResponse,
    ListStylesRequest,
    ListStylesResponse,
    Style,
)
from protoplane_base import Code, PlaneError, Timestamp
from protoplane_components.captioner.ngrams import NgramModel, default_model
from protoplane_server import Context

_DEFAULT_WORDS = 40
_MOST_WORDS = 1000
_STYLES = [Style.STYLE_PLAIN, Style.STYLE_VIVID]


class Captioner(CaptionerService):
    """Tells stories from an n-gram model.

    Args:
        model: What to tell them from; by default the page in this package.
        pause_s: Seconds between words. The model needs microseconds for one; the pause makes it
            as slow as a language model, so that one can watch.
    """

    def __init__(self, model: NgramModel | None = None, *, pause_s: float = 0.04) -> None:
        self._model = model or default_model()
        self._pause_s = pause_s

    async def caption(self, request: CaptionRequest, ctx: Context) -> AsyncIterator[CaptionChunk]:
        """Stream a story, and publish that it is finished."""
        count = _DEFAULT_WORDS if request.max_words is None else request.max_words
        if not request.prompt.strip():
            raise PlaneError(Code.INVALID_ARGUMENT, "prompt is empty; give a few words")
        if not 0 < count <= _MOST_WORDS:
            raise PlaneError(
                Code.INVALID_ARGUMENT, f"max_words is {count}; it must be 1 to {_MOST_WORDS}"
            )
        vivid = request.style == Style.STYLE_VIVID
        words = self._tell(request.prompt, request.seed, vivid=vivid)
        for index, word in enumerate(islice(words, count)):
            yield CaptionChunk(text=word if word in ".," else f" {word}", index=index)
            await asyncio.sleep(self._pause_s)
        await ctx.publish(
            CaptionFinished(request_id=ctx.request_id, words=count, finished_at=Timestamp.now())
        )

    async def list_styles(self, request: ListStylesRequest, ctx: Context) -> ListStylesResponse:
        """Tell which styles there are."""
        return ListStylesResponse(styles=_STYLES)

    async def collect(
        self, requests: AsyncIterator[CollectRequest], ctx: Context
    ) -> CollectResponse:
        """Join texts."""
        texts = [request.text async for request in requests]
        return CollectResponse(text="".join(texts), chunks=len(texts))

    async def converse(
        self, requests: AsyncIterator[ConverseRequest], ctx: Context
    ) -> AsyncIterator[ConverseResponse]:
        """Answer each line with a sentence."""
        async for request in requests:
            yield ConverseResponse(line=self._sentence(request.line))

    def _tell(self, prompt: str, seed: int, *, vivid: bool = False) -> Iterator[str]:
        choices = random.Random(seed or None)  # noqa: S311 - a story, not a secret
        return self._model.continue_(prompt, vivid=vivid, choices=choices)

    def _sentence(self, line: str) -> str:
        words: list[str] = []
        for word in islice(self._tell(line, 0), 30):
            if word == ".":
                break
            words.append(word)
        return " ".join(words).replace(" ,", ",").capitalize() + "."
