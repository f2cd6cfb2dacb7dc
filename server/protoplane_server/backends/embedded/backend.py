"""The embedded backend: toy models in this process, on the processor, by numpy alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from importlib.resources import files
from pathlib import Path

from protoplane_base import Code, PlaneError
from protoplane_server.backends.embedded.character_model import PLATFORM, CharacterModel
from protoplane_server.backends.embedded.gru import CharGru
from protoplane_server.backends.embedded.lexical_model import LexicalModel
from protoplane_server.backends.in_process import InProcessBackend
from protoplane_server.backends.interface import (
    BackendCapabilities,
    BackendContext,
    Capability,
    Chunk,
    Embeddings,
    ModelMetadata,
    ModelSource,
    ModelState,
    Prompt,
    Sampling,
)
from protoplane_server.backends.tensors import Tensor

WRITER = "char-gru"
"""The character model that ships with Protoplane."""

EMBEDDER = "lexical"
"""The embedder."""

WEIGHTS = files("protoplane_server.backends.embedded").joinpath("char_gru.npz")
"""The weights of `WRITER`."""

_Model = CharacterModel | LexicalModel


class EmbeddedBackend(InProcessBackend[_Model]):
    """Runs a character model and a lexical embedder, and other character models from npz files.

    Args:
        models: Which of `WRITER` and `EMBEDDER` to load at the start.
    """

    name = "embedded"

    def __init__(self, models: Sequence[str] = (WRITER, EMBEDDER)) -> None:
        super().__init__({WRITER: None, EMBEDDER: None}, models)

    @property
    def capabilities(self) -> BackendCapabilities:
        """All but batching from outside: the writer batches each step by itself."""
        return BackendCapabilities(frozenset(Capability), loading=True, sources=True, batches=True)

    async def warm_up(self) -> None:
        """Make one step of each model."""
        ctx = BackendContext(request_id="warm-up")
        for model in list(self._models.values()):
            if isinstance(model, LexicalModel):
                await model.embed(["warm"], ctx)
            else:
                async with aclosing(model.generate("", Sampling(max_tokens=1), ctx)) as chunks:
                    async for _ in chunks:
                        pass

    async def load(self, model: str, source: ModelSource) -> ModelMetadata:
        """Load a model that ships with Protoplane, or a character model from an npz file.

        Raises:
            PlaneError: See `protoplane_server.backends.interface.Backend.load`.
        """
        if source.parameters:
            raise PlaneError(
                Code.INVALID_ARGUMENT,
                f"parameter {min(source.parameters)!r} is unknown; embedded models have none",
            )
        if source.path is not None and model in (WRITER, EMBEDDER):
            raise PlaneError(
                Code.INVALID_ARGUMENT,
                f"{model} ships with Protoplane and takes no file; give the model another name",
            )
        path = source.path or self._sources.get(model)
        if path is None:
            self._known(model)
        async with self._loading:
            worker = self._running()
            if model == EMBEDDER:
                made: _Model = LexicalModel(model, worker)
            else:
                loop = asyncio.get_running_loop()
                network = await loop.run_in_executor(worker, _read, path)
                made = CharacterModel(model, network, worker)
            await self._put(model, made, path)
        return made.metadata

    async def infer(
        self,
        model: str,
        inputs: Sequence[Tensor],
        ctx: BackendContext,
        *,
        version: str = "",
        outputs: Sequence[str] = (),
    ) -> Sequence[Tensor]:
        """Vectors for texts, as tensors."""
        found = self._loaded(model, version)
        if not isinstance(found, LexicalModel):
            raise self._cannot("run tensors through", model)
        return await found.infer(inputs, ctx, outputs)

    async def stream(
        self,
        model: str,
        inputs: Sequence[Tensor],
        ctx: BackendContext,
        *,
        version: str = "",
        outputs: Sequence[str] = (),
    ) -> AsyncGenerator[Sequence[Tensor], None]:
        """Text for a prompt, as tensors."""
        found = self._loaded(model, version)
        if not isinstance(found, CharacterModel):
            raise self._cannot("stream tensors from", model)
        async with aclosing(found.stream(inputs, ctx, outputs)) as results:
            async for result in results:
                yield result

    def generate(
        self, model: str, prompt: Prompt, sampling: Sampling, ctx: BackendContext
    ) -> AsyncGenerator[Chunk, None]:
        """Text for a prompt, a character at a time.

        Raises:
            PlaneError: At once where the model is not there; else when the stream is read.
        """
        found = self._loaded(model)
        if not isinstance(found, CharacterModel):
            raise self._cannot("generate text with", model)
        return found.generate(prompt, sampling, ctx)

    async def embed(self, model: str, texts: Sequence[str], ctx: BackendContext) -> Embeddings:
        """Vectors of texts."""
        found = self._loaded(model)
        if not isinstance(found, LexicalModel):
            raise self._cannot("embed texts with", model)
        return await found.embed(texts, ctx)

    def _unloaded(self, model: str) -> ModelMetadata:
        kind = Capability.EMBED if model == EMBEDDER else Capability.GENERATE
        return ModelMetadata(model, PLATFORM, frozenset({kind}), ModelState.UNLOADED)


def _read(path: Path | None) -> CharGru:
    if path is not None:
        return CharGru.load(path)
    with WEIGHTS.open("rb") as file:
        return CharGru.load(file)
