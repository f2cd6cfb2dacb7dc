"""The embedded backend: toy models in this process, on the processor, by numpy alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

from protoplane_base import Code, PlaneError
from protoplane_server.backends.embedded.character_model import PLATFORM, CharacterModel
from protoplane_server.backends.embedded.gru import CharGru
from protoplane_server.backends.embedded.lexical_model import LexicalModel
from protoplane_server.backends.interface import (
    BackendCapabilities,
    BackendContext,
    Capability,
    Chunk,
    Embeddings,
    ModelMetadata,
    ModelSource,
    ModelState,
    ModelStats,
    Prompt,
    Sampling,
)
from protoplane_server.backends.partial import PartialBackend
from protoplane_server.backends.tensors import Tensor

WRITER = "char-gru"
"""The character model that ships with Protoplane."""

EMBEDDER = "lexical"
"""The embedder."""

WEIGHTS = files("protoplane_server.backends.embedded").joinpath("char_gru.npz")
"""The weights of `WRITER`."""

_Model = CharacterModel | LexicalModel


class EmbeddedBackend(PartialBackend):
    """Runs a character model and a lexical embedder, and other character models from npz files.

    Args:
        models: Which of `WRITER` and `EMBEDDER` to load at the start.
    """

    name = "embedded"

    def __init__(self, models: Sequence[str] = (WRITER, EMBEDDER)) -> None:
        self._first = tuple(models)
        self._models: dict[str, _Model] = {}
        # What is known beside those: by name, and where it comes from.
        self._sources: dict[str, Path | None] = {WRITER: None, EMBEDDER: None}
        self._absent: dict[str, ModelMetadata] = {}
        self._worker: ThreadPoolExecutor | None = None
        self._loading = asyncio.Lock()

    @property
    def capabilities(self) -> BackendCapabilities:
        """All but batching from outside: the writer batches each step by itself."""
        return BackendCapabilities(frozenset(Capability), loading=True, sources=True, batches=True)

    async def start(self) -> None:
        """Load the first models."""
        if self._worker is None:
            self._worker = ThreadPoolExecutor(1, "protoplane-embedded")
            try:
                for model in self._first:
                    await self.load(model, ModelSource())
            except BaseException:
                await self.stop()
                raise

    async def stop(self) -> None:
        """End all texts and the worker."""
        models, self._models = self._models, {}
        for model in models.values():
            await model.close()
        worker, self._worker = self._worker, None
        if worker is not None:
            # What it may still be at are milliseconds; it waits where that blocks nobody.
            await asyncio.to_thread(worker.shutdown)

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

    async def live(self) -> bool:
        """Whether it has been started."""
        return self._worker is not None

    async def ready(self, model: str, version: str = "") -> bool:
        """Whether a model is loaded."""
        return model in self._models and not version

    async def metadata(self, model: str, version: str = "") -> ModelMetadata:
        """What a model is."""
        self._known(model, version)
        return self._metadata(model)

    async def list(self) -> Sequence[ModelMetadata]:
        """All that were ever loaded, and those that ship with Protoplane."""
        return [self._metadata(model) for model in sorted(self._sources)]

    async def stats(self, model: str) -> ModelStats:
        """What a model has done since it was loaded."""
        self._known(model)
        loaded = self._models.get(model)
        return ModelStats() if loaded is None else loaded.counters.snapshot()

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
        if path is None and model not in (WRITER, EMBEDDER):
            raise _unknown(model, self._sources)
        async with self._loading:
            worker = self._worker
            if worker is None:
                raise PlaneError(Code.UNAVAILABLE, "the backend is not running; start it first")
            if model == EMBEDDER:
                made: _Model = LexicalModel(model, worker)
            else:
                loop = asyncio.get_running_loop()
                network = await loop.run_in_executor(worker, _read, path)
                made = CharacterModel(model, network, worker)
            # Nothing waits from here to the end but for the last step of what it replaces.
            before = self._models.get(model)
            self._models[model] = made
            self._sources[model] = path
            self._absent.pop(model, None)
            if before is not None:
                await before.close()
        return made.metadata

    async def unload(self, model: str) -> None:
        """Unload a model; it stays known, with where it came from."""
        self._known(model)
        async with self._loading:
            loaded = self._models.pop(model, None)
            if loaded is not None:
                self._absent[model] = replace(loaded.metadata, state=ModelState.UNLOADED)
                await loaded.close()

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

    def _known(self, model: str, version: str = "") -> None:
        if model not in self._sources:
            raise _unknown(model, self._sources)
        if version:
            raise PlaneError(
                Code.NOT_FOUND, f"there is no version {version!r} of {model}; it has none"
            )

    def _loaded(self, model: str, version: str = "") -> _Model:
        self._known(model, version)
        found = self._models.get(model)
        if found is None:
            raise PlaneError(
                Code.FAILED_PRECONDITION, f"{model} is not loaded; load it first (LoadModel)"
            )
        return found

    def _metadata(self, model: str) -> ModelMetadata:
        found = self._models.get(model)
        if found is not None:
            return found.metadata
        kind = Capability.EMBED if model == EMBEDDER else Capability.GENERATE
        return self._absent.get(model) or ModelMetadata(
            model, PLATFORM, frozenset({kind}), ModelState.UNLOADED
        )


def _read(path: Path | None) -> CharGru:
    if path is not None:
        return CharGru.load(path)
    with WEIGHTS.open("rb") as file:
        return CharGru.load(file)


def _unknown(model: str, known: Iterable[str]) -> PlaneError:
    return PlaneError(
        Code.NOT_FOUND, f"there is no model {model!r}; there are {', '.join(sorted(known))}"
    )
