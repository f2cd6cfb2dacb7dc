"""A backend with a batcher in front of each of its models that gains from one."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from protoplane_server.backends.batch_metrics import BatchStats
from protoplane_server.backends.batcher import BatcherOptions
from protoplane_server.backends.interface import (
    Backend,
    BackendCapabilities,
    BackendContext,
    Chunk,
    Embeddings,
    ModelMetadata,
    ModelSource,
    ModelStats,
    Prompt,
    Sampling,
)
from protoplane_server.backends.relay import Relay, relay_of
from protoplane_server.backends.tensor_batcher import TensorBatcher
from protoplane_server.backends.tensors import Tensor, check_inputs, chosen_outputs

_FOR_ALL = BackendContext(request_id="batch")


@dataclass(frozen=True, slots=True)
class _Batched:
    metadata: ModelMetadata
    batcher: TensorBatcher
    max_items: int


class BatchedBackend:
    """Runs tensors through the models of a backend, several requests at once; all else it hands on.

    A backend that says that it gains nothing (`BackendCapabilities.batches`) is left as it is.

    Args:
        backend: What runs the models; it is started and stopped with this.
        options: How requests are batched.

    Attributes:
        batch_stats: The numbers of each batcher, by model; they outlive its being loaded anew.
    """

    def __init__(
        self,
        backend: Backend,
        options: BatcherOptions = BatcherOptions(),  # noqa: B008  # frozen
    ) -> None:
        self.batch_stats: dict[str, BatchStats] = {}
        self._backend = backend
        self._options = options
        self._batched: dict[str, _Batched | None] = {}

    @property
    def name(self) -> str:
        """What kind the backend is."""
        return self._backend.name

    @property
    def capabilities(self) -> BackendCapabilities:
        """What the backend can do; another batcher before this one would gain nothing."""
        return replace(self._backend.capabilities, batches=False)

    async def start(self) -> None:
        """Start the backend."""
        await self._backend.start()

    async def stop(self) -> None:
        """Stop the backend; what waits for a batch ends with UNAVAILABLE."""
        for model in list(self._batched):
            await self._forget(model)
        await self._backend.stop()

    async def warm_up(self) -> None:
        """Warm the backend up."""
        await self._backend.warm_up()

    async def live(self) -> bool:
        """Whether the backend is live."""
        return await self._backend.live()

    async def ready(self, model: str, version: str = "") -> bool:
        """Whether a model is ready."""
        return await self._backend.ready(model, version)

    async def metadata(self, model: str, version: str = "") -> ModelMetadata:
        """What a model is."""
        return await self._backend.metadata(model, version)

    async def infer(
        self,
        model: str,
        inputs: Sequence[Tensor],
        ctx: BackendContext,
        *,
        version: str = "",
        outputs: Sequence[str] = (),
    ) -> Sequence[Tensor]:
        """Run a model once, together with other requests where it takes batches."""
        if not self._backend.capabilities.batches:
            return await self._backend.infer(model, inputs, ctx, version=version, outputs=outputs)
        if model not in self._batched:
            self._batched[model] = await self._find(model)
        # The requests of a sequence go to a state of their own.
        alone = bool(version) or ctx.sequence is not None
        batched = None if alone else self._batched.get(model)
        rows = inputs[0].shape[0] if inputs and inputs[0].shape else 0
        # What fills a batch by itself, and more, gains nothing; what has no rows is for the model.
        if batched is None or not 0 < rows <= batched.max_items:
            return await self._backend.infer(model, inputs, ctx, version=version, outputs=outputs)
        # Before they meet others: a request that is wrong must not fail those.
        check_inputs(model, batched.metadata.inputs, inputs)
        return chosen_outputs(model, await batched.batcher.infer(inputs, ctx), outputs)

    def relay(self) -> Relay | None:
        """That of the backend, where requests are not batched before it."""
        return None if self._backend.capabilities.batches else relay_of(self._backend)

    def stream(
        self,
        model: str,
        inputs: Sequence[Tensor],
        ctx: BackendContext,
        *,
        version: str = "",
        outputs: Sequence[str] = (),
    ) -> AsyncGenerator[Sequence[Tensor], None]:
        """Run a model that gives any number of results."""
        return self._backend.stream(model, inputs, ctx, version=version, outputs=outputs)

    def generate(
        self, model: str, prompt: Prompt, sampling: Sampling, ctx: BackendContext
    ) -> AsyncGenerator[Chunk, None]:
        """Stream what a model writes; its steps are batched by the backend, or not at all."""
        return self._backend.generate(model, prompt, sampling, ctx)

    async def embed(self, model: str, texts: Sequence[str], ctx: BackendContext) -> Embeddings:
        """Vectors of texts."""
        return await self._backend.embed(model, texts, ctx)

    async def load(self, model: str, source: ModelSource) -> ModelMetadata:
        """Load a model; what waits for a batch of the one before ends with UNAVAILABLE."""
        metadata = await self._backend.load(model, source)
        await self._forget(model)
        return metadata

    async def unload(self, model: str) -> None:
        """Unload a model; what waits for a batch of it ends with UNAVAILABLE."""
        await self._forget(model)
        await self._backend.unload(model)

    async def list(self) -> Sequence[ModelMetadata]:
        """All models of the backend."""
        return await self._backend.list()

    async def stats(self, model: str) -> ModelStats:
        """What a model has done."""
        return await self._backend.stats(model)

    async def _forget(self, model: str) -> None:
        batched = self._batched.pop(model, None)
        if batched is not None:
            await batched.batcher.close()

    async def _find(self, model: str) -> _Batched | None:
        metadata = await self._backend.metadata(model)
        if not metadata.inputs or metadata.max_batch_size < 2:
            return None
        if model in self._batched:
            # Another request was faster.
            return self._batched[model]
        options = replace(
            self._options, max_items=min(self._options.max_items, metadata.max_batch_size)
        )
        run = partial(self._backend.infer, model, ctx=_FOR_ALL)
        stats = self.batch_stats.setdefault(model, BatchStats())
        return _Batched(metadata, TensorBatcher(run, options, stats), options.max_items)
