"""The PyTorch backend: Llamas in this process, on a GPU or on the processor."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

from protoplane.router.v1 import KvStateResponse
from protoplane_base import Code, PlaneError
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
    Tokens,
)
from protoplane_server.backends.partial import PartialBackend
from protoplane_server.backends.tensors import Tensor
from protoplane_server.backends.torch.kv_events import KvEvents
from protoplane_server.backends.torch.settings import TorchSettings
from protoplane_server.backends.torch.text_model import PLATFORM, TextModel, load_llama
from protoplane_server.hosting import Host

SMALL_NAME = "llama-random"
"""The model that is there where no folder is named: small, with random weights."""


class TorchBackend(PartialBackend):
    """Runs Llamas, from folders as Hugging Face has them.

    Where it is in a server, each model tells what its KV cache holds by events: the first model
    under the id of the server's instance, another under ``<id>.<model>``.

    Args:
        settings: The first model, and what all of them may use.
    """

    name = "torch"

    def __init__(self, settings: TorchSettings | None = None) -> None:
        self._settings = settings or TorchSettings()
        path = self._settings.path
        self.first = SMALL_NAME if path is None else path.resolve().name
        self._models: dict[str, TextModel] = {}
        self._sources: dict[str, Path | None] = {self.first: path}
        self._absent: dict[str, ModelMetadata] = {}
        self._worker: ThreadPoolExecutor | None = None
        self._loading = asyncio.Lock()
        self._host: Host | None = None

    @property
    def capabilities(self) -> BackendCapabilities:
        """Text; each step is batched by itself."""
        return BackendCapabilities(frozenset({Capability.GENERATE}), loading=True, sources=True)

    def hosted(self, host: Host) -> None:
        """Remember the server, to publish events of the KV cache."""
        self._host = host

    async def start(self) -> None:
        """Load the first model."""
        if self._worker is None:
            self._worker = ThreadPoolExecutor(1, "protoplane-torch")
            try:
                await self.load(self.first, ModelSource())
            except BaseException:
                await self.stop()
                raise

    async def stop(self) -> None:
        """End all texts and the worker, and give back the memory of the models."""
        models, self._models = self._models, {}
        for model in models.values():
            await model.close(tell=False)
        worker, self._worker = self._worker, None
        if worker is not None:
            await asyncio.to_thread(worker.shutdown)

    async def warm_up(self) -> None:
        """Make two steps of each model: one of a prompt, one that writes."""
        ctx = BackendContext(request_id="warm-up")
        sampling = Sampling(max_tokens=2, temperature=1.0)
        for model in list(self._models.values()):
            async with aclosing(model.generate(Tokens((0, 0)), sampling, ctx)) as chunks:
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
        """All that were ever loaded."""
        return [self._metadata(model) for model in sorted(self._sources)]

    async def stats(self, model: str) -> ModelStats:
        """What a model has done since it was loaded."""
        self._known(model)
        loaded = self._models.get(model)
        return ModelStats() if loaded is None else loaded.counters.snapshot()

    async def load(self, model: str, source: ModelSource) -> ModelMetadata:
        """Load a model from a folder with ``config.json`` and safetensors.

        Where there is one of its name, that goes only once the new one is there, so both must fit
        into memory.

        Raises:
            PlaneError: See `protoplane_server.backends.interface.Backend.load`.
        """
        if source.parameters:
            raise PlaneError(
                Code.INVALID_ARGUMENT,
                f"parameter {min(source.parameters)!r} is unknown; models of PyTorch have none",
            )
        if source.path is None:
            self._known(model)
        path = source.path or self._sources[model]
        async with self._loading:
            self._started()
            settings = replace(self._settings, path=path)
            loaded = await asyncio.to_thread(load_llama, settings)
            # It may have been stopped meanwhile.
            worker = self._started()
            events = KvEvents(self._host, self._worker_id(model))
            before = self._models.get(model)
            made = TextModel(model, loaded, worker, settings, events)
            self._models[model] = made
            self._sources[model] = path
            self._absent.pop(model, None)
            if before is not None:
                await before.close(tell=False)
        return made.metadata

    async def unload(self, model: str) -> None:
        """Unload a model; it stays known, with where it came from."""
        self._known(model)
        async with self._loading:
            loaded = self._models.pop(model, None)
            if loaded is not None:
                self._absent[model] = replace(loaded.metadata, state=ModelState.UNLOADED)
                await loaded.close(tell=True)

    async def infer(
        self,
        model: str,
        inputs: Sequence[Tensor],
        ctx: BackendContext,
        *,
        version: str = "",
        outputs: Sequence[str] = (),
    ) -> Sequence[Tensor]:
        """Refused: a Llama writes text, `generate` is for it."""
        self._known(model, version)
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
        """Refused: a Llama writes text, `generate` is for it."""
        self._known(model, version)
        async for nothing in super().stream(model, inputs, ctx, version=version, outputs=outputs):
            yield nothing

    async def embed(self, model: str, texts: Sequence[str], ctx: BackendContext) -> Embeddings:
        """Refused: a Llama writes text, `generate` is for it."""
        self._known(model)
        return await super().embed(model, texts, ctx)

    def generate(
        self, model: str, prompt: Prompt, sampling: Sampling, ctx: BackendContext
    ) -> AsyncGenerator[Chunk, None]:
        """Text for a prompt, a token at a time.

        Raises:
            PlaneError: At once where the model is not there; else when the stream is read.
        """
        return self._loaded(model).generate(prompt, sampling, ctx)

    def kv_state(self, model: str) -> Sequence[KvStateResponse]:
        """All blocks that the cache of a model has, as of its last event, in pieces.

        Raises:
            PlaneError: NOT_FOUND, FAILED_PRECONDITION.
        """
        found = self._loaded(model)
        return found.events.state(list(found.pool))

    def held_blocks(self, model: str) -> int:
        """How many blocks of a model's cache are in use by texts.

        Raises:
            PlaneError: NOT_FOUND, FAILED_PRECONDITION.
        """
        return self._loaded(model).pool.held

    def _started(self) -> ThreadPoolExecutor:
        if self._worker is None:
            raise PlaneError(Code.UNAVAILABLE, "the backend is not running; start it first")
        return self._worker

    def _worker_id(self, model: str) -> str:
        instance = "" if self._host is None else self._host.name.rpartition("/")[2]
        return instance if model == self.first else f"{instance}.{model}"

    def _known(self, model: str, version: str = "") -> None:
        if model not in self._sources:
            raise _unknown(model, self._sources)
        if version:
            raise PlaneError(
                Code.NOT_FOUND, f"there is no version {version!r} of {model}; it has none"
            )

    def _loaded(self, model: str) -> TextModel:
        self._known(model)
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
        return self._absent.get(model) or ModelMetadata(
            model, PLATFORM, frozenset({Capability.GENERATE}), ModelState.UNLOADED
        )


def _unknown(model: str, known: Iterable[str]) -> PlaneError:
    return PlaneError(
        Code.NOT_FOUND, f"there is no model {model!r}; there are {', '.join(sorted(known))}"
    )
