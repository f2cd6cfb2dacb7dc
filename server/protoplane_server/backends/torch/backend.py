"""The PyTorch backend: Llamas in this process, on a GPU or on the processor."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace

from protoplane.router.v1 import KvStateResponse
from protoplane_base import Code, PlaneError
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
    Tokens,
)
from protoplane_server.backends.tensors import Tensor
from protoplane_server.backends.torch.kv_events import KvEvents
from protoplane_server.backends.torch.settings import TorchSettings
from protoplane_server.backends.torch.text_model import PLATFORM, TextModel, load_llama
from protoplane_server.hosting import Host

SMALL_NAME = "llama-random"
"""The model that is there where no folder is named: small, with random weights."""


class TorchBackend(InProcessBackend[TextModel]):
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
        super().__init__({self.first: path}, [self.first])
        self._host: Host | None = None

    @property
    def capabilities(self) -> BackendCapabilities:
        """Text; each step is batched by itself."""
        return BackendCapabilities(frozenset({Capability.GENERATE}), loading=True, sources=True)

    def hosted(self, host: Host) -> None:
        """Remember the server, to publish events of the KV cache."""
        self._host = host

    async def warm_up(self) -> None:
        """Make two steps of each model: one of a prompt, one that writes."""
        ctx = BackendContext(request_id="warm-up")
        sampling = Sampling(max_tokens=2, temperature=1.0)
        for model in list(self._models.values()):
            async with aclosing(model.generate(Tokens((0, 0)), sampling, ctx)) as chunks:
                async for _ in chunks:
                    pass

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
            self._running()
            settings = replace(self._settings, path=path)
            loaded = await asyncio.to_thread(load_llama, settings)
            # It may have been stopped meanwhile.
            worker = self._running()
            events = KvEvents(self._host, self._worker_id(model))
            made = TextModel(model, loaded, worker, settings, events)
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

    async def _replaced(self, model: TextModel) -> None:
        # Who reads its events hears that the server is gone, or what the next one of its name has.
        await model.close(tell=False)

    def _worker_id(self, model: str) -> str:
        instance = "" if self._host is None else self._host.name.rpartition("/")[2]
        return instance if model == self.first else f"{instance}.{model}"

    def _unloaded(self, model: str) -> ModelMetadata:
        kinds = frozenset({Capability.GENERATE})
        return ModelMetadata(model, PLATFORM, kinds, ModelState.UNLOADED)
