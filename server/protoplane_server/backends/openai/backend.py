"""The OpenAI-compatible backend: text and vectors from a server that speaks the API."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
from openai import AsyncOpenAI

from protoplane_base import Code, PlaneError
from protoplane_server.backends.counting import ModelCounters
from protoplane_server.backends.interface import (
    BackendCapabilities,
    BackendContext,
    Capability,
    Chunk,
    Embeddings,
    FinishReason,
    ModelMetadata,
    ModelSource,
    ModelStats,
    Prompt,
    Sampling,
    Usage,
)
from protoplane_server.backends.openai.parameters import (
    finish_of,
    headers_of,
    prompt_of,
    sampling_of,
)
from protoplane_server.backends.openai.request import Request
from protoplane_server.backends.openai.settings import OpenaiSettings
from protoplane_server.backends.partial import PartialBackend
from protoplane_server.backends.tensors import Array, Tensor

PLATFORM = "openai"

_ASK_S = 10.0
"""Longest that a question about the server or its models may take."""


class OpenaiBackend(PartialBackend):
    """Passes prompts on to a server, and what it writes back.

    Cancelling a request, or leaving its stream, closes its connection, by which the server knows
    to stop. Nothing is tried twice here: who calls knows how long it wants to try.

    Args:
        settings: Where the server is.
    """

    name = "openai"
    capabilities = BackendCapabilities(frozenset({Capability.GENERATE, Capability.EMBED}))

    def __init__(self, settings: OpenaiSettings) -> None:
        self._settings = settings
        self._client: Any = None
        self._known: dict[str, ModelMetadata] = {}
        self._dimensions: dict[str, int] = {}
        self._counters: defaultdict[str, ModelCounters] = defaultdict(ModelCounters)
        self._open: set[Request] = set()

    async def start(self) -> None:
        """Make sure that the server answers.

        Raises:
            PlaneError: UNAVAILABLE; it does not.
        """
        if self._client is None:
            self._client = AsyncOpenAI(
                base_url=self._settings.base_url,
                # The client wants one, and servers without keys pass over it.
                api_key=self._settings.key or "none",
                max_retries=0,
                timeout=self._settings.timeout_s,
            )
            try:
                await self._refresh()
            except BaseException:
                await self.stop()
                raise

    async def stop(self) -> None:
        """End all requests with UNAVAILABLE, and the connections."""
        client, self._client = self._client, None
        if client is not None:
            for request in self._open:
                request.end(_stopped())
            await client.close()

    async def live(self) -> bool:
        """Whether the server answers."""
        if self._client is None:
            return False
        try:
            await self._refresh()
        except PlaneError:
            return False
        return True

    async def ready(self, model: str, version: str = "") -> bool:
        """Whether the server has a model now; they have no versions."""
        return await self.live() and model in self._known and not version

    async def metadata(self, model: str, version: str = "") -> ModelMetadata:
        """What there is to know of a model; its tensors are none."""
        if model not in self._known:
            await self._refresh()
        found = self._known.get(model)
        if found is None or version:
            there = ", ".join(sorted(self._known)) or "none"
            named = f"{model!r}, version {version!r}" if version else repr(model)
            raise PlaneError(Code.NOT_FOUND, f"there is no model {named}; there are {there}")
        return self._measured(found)

    async def list(self) -> Sequence[ModelMetadata]:
        """The models of the server, by name."""
        await self._refresh()
        return [self._measured(self._known[name]) for name in sorted(self._known)]

    async def stats(self, model: str) -> ModelStats:
        """Requests as this backend sees them; the server does not tell of others."""
        await self.metadata(model)
        return self._counters[model].snapshot()

    async def generate(
        self, model: str, prompt: Prompt, sampling: Sampling, ctx: BackendContext
    ) -> AsyncGenerator[Chunk, None]:
        """Text for a prompt; a conversation goes to chat completions."""
        await self._able(model, Capability.GENERATE, "generate text with")
        fields = prompt_of(prompt, chat=self._settings.chat)
        counters = self._counters[model]
        with counters.request(), self._request(ctx) as request:
            of = self._connected()
            of = of.chat.completions if "messages" in fields else of.completions
            stream: Any = await request.step(
                of.create(
                    model=model,
                    stream=True,
                    stream_options={"include_usage": True},
                    extra_headers=headers_of(ctx),
                    **fields,
                    **sampling_of(sampling),
                )
            )
            try:
                text = _Text()
                while (answer := await request.step(anext(stream, None))) is not None:
                    counters.executions += 1
                    if piece := text.add(answer):
                        yield Chunk(piece)
                last = text.end(self._settings.base_url)
                if last.usage is not None:
                    counters.tokens += last.usage.completion_tokens
            finally:
                await stream.close()
        yield last

    async def embed(self, model: str, texts: Sequence[str], ctx: BackendContext) -> Embeddings:
        """Vectors of texts, in one request."""
        await self._able(model, Capability.EMBED, "embed texts with")
        if not texts:
            dimensions = self._dimensions.get(model, 0)
            return Embeddings(np.zeros((0, dimensions), np.float32), Usage(0))
        with self._counters[model].request(), self._request(ctx) as request:
            made: Any = await request.step(
                self._connected().embeddings.create(
                    model=model,
                    input=list(texts),
                    encoding_format="float",
                    extra_headers=headers_of(ctx),
                )
            )
            vectors = _vectors(made, len(texts), self._settings.base_url)
            self._dimensions[model] = vectors.shape[1]
            counters = self._counters[model]
            counters.executions += 1
            counters.items += len(texts)
            return Embeddings(vectors, Usage(made.usage.prompt_tokens if made.usage else 0))

    async def infer(
        self,
        model: str,
        inputs: Sequence[Tensor],
        ctx: BackendContext,
        *,
        version: str = "",
        outputs: Sequence[str] = (),
    ) -> Sequence[Tensor]:
        """Refused: the API has no tensors."""
        await self.metadata(model, version)
        return await super().infer(model, inputs, ctx, version=version, outputs=outputs)

    async def stream(
        self,
        model: str,
        inputs: Sequence[Tensor],
        ctx: BackendContext,
        *,
        version: str = "",
        outputs: Sequence[str] = (),
    ) -> AsyncGenerator[Sequence[Tensor], None]:
        """Refused: the API has no tensors."""
        await self.metadata(model, version)
        async for nothing in super().stream(model, inputs, ctx):
            yield nothing

    async def load(self, model: str, source: ModelSource) -> ModelMetadata:
        """Refused: the server chooses its models."""
        await self.metadata(model)
        return await super().load(model, source)

    async def unload(self, model: str) -> None:
        """Refused: the server chooses its models."""
        await self.metadata(model)
        await super().unload(model)

    async def _able(self, model: str, capability: Capability, what: str) -> None:
        if capability not in (await self.metadata(model)).capabilities:
            raise self._cannot(what, model)

    async def _refresh(self) -> None:
        """Ask for the models anew; with models of the settings, only whether the server answers."""
        settings = self._settings
        client = self._connected()
        ctx = BackendContext(request_id="models")
        request = Request(ctx, settings.base_url, _ASK_S)
        try:
            page: Any = await request.step(client.models.list())
        except PlaneError as error:
            # Some servers do not list; then the settings must.
            unlisted = error.code in (Code.NOT_FOUND, Code.UNIMPLEMENTED)
            if not (settings.models and unlisted):
                raise
            listed: dict[str, Any] = {}
        else:
            listed = {each.id: each for each in page.data}
        names = settings.models or tuple(listed)
        self._known = {name: self._described(name, listed.get(name)) for name in names}

    def _described(self, name: str, listed: Any) -> ModelMetadata:
        embedders = self._settings.embedders
        embeds = name in embedders if embedders else "embed" in name.lower()
        # vLLM and SGLang tell it; it is no field of the API's own.
        context = getattr(listed, "max_model_len", None)
        return ModelMetadata(
            name,
            PLATFORM,
            frozenset({Capability.EMBED if embeds else Capability.GENERATE}),
            context_tokens=context if isinstance(context, int) else 0,
        )

    def _measured(self, model: ModelMetadata) -> ModelMetadata:
        return replace(model, dimensions=self._dimensions.get(model.name, 0))

    def _connected(self) -> Any:
        if self._client is None:
            raise PlaneError(Code.UNAVAILABLE, "the backend is not running; start it first")
        return self._client

    @contextmanager
    def _request(self, ctx: BackendContext) -> Generator[Request, None, None]:
        request = Request(ctx, self._settings.base_url, self._settings.timeout_s)
        self._open.add(request)
        try:
            yield request
        finally:
            self._open.discard(request)


class _Text:
    """What a server has written of one text."""

    def __init__(self) -> None:
        self._pieces = 0
        self._finish: FinishReason | None = None
        self._usage: Usage | None = None

    def add(self, answer: Any) -> str:
        """The text of a message of the stream; may be empty."""
        if answer.usage is not None:
            self._usage = Usage(answer.usage.prompt_tokens, answer.usage.completion_tokens)
        if not answer.choices:
            return ""
        choice = answer.choices[0]
        if choice.finish_reason:
            self._finish = finish_of(choice.finish_reason)
        piece: str = (choice.delta.content if hasattr(choice, "delta") else choice.text) or ""
        self._pieces += bool(piece)
        return piece

    def end(self, server: str) -> Chunk:
        """The last chunk.

        Raises:
            PlaneError: UNAVAILABLE; the stream is over, and the text is not.
        """
        if self._finish is None:
            raise PlaneError(Code.UNAVAILABLE, f"{server} broke off within a text")
        # A server that does not count sends a token a piece, mostly.
        return Chunk("", finish=self._finish, usage=self._usage or Usage(0, self._pieces))


def _vectors(made: Any, count: int, server: str) -> Array:
    rows = [each.embedding for each in sorted(made.data, key=lambda each: each.index)]
    if len(rows) != count:
        raise PlaneError(Code.INTERNAL, f"{server} gave {len(rows)} vectors for {count} texts")
    if len({len(row) for row in rows}) != 1 or any(isinstance(row[0], list) for row in rows):
        raise PlaneError(
            Code.INTERNAL,
            f"{server} gave no vector for each text, but perhaps one for each token; "
            "start it with a pooling of the model's vectors",
        )
    vectors = np.array(rows, np.float32)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled: Array = vectors / np.where(norms == 0, 1, norms)
    return scaled


def _stopped() -> PlaneError:
    return PlaneError(Code.UNAVAILABLE, "the backend was stopped; ask another instance")
