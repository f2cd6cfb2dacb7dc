"""The component, as a user would write it."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self
from weakref import WeakValueDictionary

from protoplane.inference.v1 import (
    Embedding,
    EmbedRequest,
    EmbedResponse,
    GenerateRequest,
    GenerateResponse,
    InferenceService,
    InferRequest,
    InferResponse,
    ListModelsRequest,
    ListModelsResponse,
    LoadModelRequest,
    LoadModelResponse,
    ModelStatusRequest,
    ModelStatusResponse,
    UnloadModelRequest,
    UnloadModelResponse,
)
from protoplane_base import Code, PlaneError
from protoplane_components.inference.announcing import announce, capacity_of, loaded
from protoplane_components.inference.conversion import (
    model_of,
    prompt_of,
    response_of,
    sampling_of,
    sequence_of,
    stats_of,
    tensors_in,
    tensors_out,
    usage_of,
)
from protoplane_components.inference.progress import Progress
from protoplane_components.inference.relaying import UNREAD_SPEC, InferWording
from protoplane_components.inference.sources import ModelFiles
from protoplane_components.inference.status import ModelStatusBoard
from protoplane_runtime.engines.objects.opening import open_object_store
from protoplane_server import Context, Host, Hosted
from protoplane_server.backends.batch_metrics import BatchMetrics
from protoplane_server.backends.batched import BatchedBackend
from protoplane_server.backends.batcher import BatcherOptions
from protoplane_server.backends.interface import (
    Backend,
    BackendContext,
    Capability,
    ModelMetadata,
    ModelSource,
    ModelState,
    version_of,
)
from protoplane_server.backends.opening import open_backend
from protoplane_server.backends.relay import RelaysRequests, relay_of
from protoplane_server.kserve.relaying import Relaying
from protoplane_server.kserve.unread import UnreadCodec

_log = logging.getLogger("protoplane.inference")
_UNREAD = UnreadCodec(InferRequest)

MODELS = "PROTOPLANE_MODELS"
"""The environment variable that names the folder of model files."""


class Inference(InferenceService):
    """Answers with the models of a backend.

    Args:
        backend: What runs them, or its URL; by default that of ``$PROTOPLANE_BACKEND``, else
            ``embedded:``. The component starts and stops it.
        models: Folder with model files; by default ``$PROTOPLANE_MODELS``.
        batching: How `Infer` gathers requests, for backends that gain from it; ``None`` for not
            at all.
        capacity: Most requests that an orchestrator is to give it at a time; by default
            ``$PROTOPLANE_INFERENCE_CAPACITY``, else 64. Who calls it directly may ask for more.
    """

    def __init__(
        self,
        backend: Backend | str | None = None,
        *,
        models: Path | None = None,
        batching: BatcherOptions | None = BatcherOptions(),  # noqa: B008  # frozen
        capacity: int | None = None,
    ) -> None:
        opened = open_backend(backend) if backend is None or isinstance(backend, str) else backend
        self._opened: Backend = opened
        self._batched = BatchedBackend(opened, batching) if batching is not None else None
        self._backend: Backend = self._batched or opened
        named = os.environ.get(MODELS)
        self._folder = models or (Path(named) if named else None)
        self._capacity = capacity_of(os.environ) if capacity is None else capacity
        self._host: Host | None = None
        self._board: ModelStatusBoard | None = None
        self._files: ModelFiles | None = None
        self._changing: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._announcing = asyncio.Lock()
        self._failed: dict[str, str] = {}
        self._relaying: Relaying | None = None
        self._stack = AsyncExitStack()
        if isinstance(opened, RelaysRequests) and type(self).infer is Inference.infer:
            # Of this instance alone: where nothing is relayed, callers in this process hand over
            # their models, which saves them the encoding.
            vars(self)["spec"] = UNREAD_SPEC

    @property
    def backend(self) -> Backend:
        """What runs the models, with the batchers before it."""
        return self._backend

    def hosted(self, host: Host) -> None:
        """Remember the server, for the status of models, their files and metrics."""
        self._host = host
        self._board = ModelStatusBoard(host)
        if self._batched is not None:
            host.metrics.register(BatchMetrics(self._batched.batch_stats))
        if isinstance(self._opened, Hosted):
            self._opened.hosted(host)

    async def __aenter__(self) -> Self:
        kept = Path(self._stack.enter_context(TemporaryDirectory(prefix="protoplane-models-")))
        opens = open_object_store if self._host is None else self._host.open_objects
        self._files = ModelFiles(self._folder, opens, kept)
        if self._board is not None:
            self._stack.push_async_callback(self._board.close)
        try:
            self._stack.push_async_callback(self._backend.stop)
            await self._backend.start()
            await self._backend.warm_up()
            relay = relay_of(self._backend)
            self._relaying = None if relay is None else Relaying(relay, InferWording())
            for model in await self._backend.list():
                if model.state is ModelState.LOADED:
                    await self._tell(model.name, ModelState.LOADED, version=model.version)
            await self._announce()
            if self._host is not None:
                announcing = asyncio.create_task(self._keep_announcing())
                self._stack.push_async_callback(_end, announcing)
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            if self._board is not None:
                for name, (_state, version) in [*self._board.told.items()]:
                    if name not in self._failed:
                        await self._board.keep(name, ModelState.UNLOADED, version)
        finally:
            await self._stack.aclose()

    async def generate(
        self, request: GenerateRequest, ctx: Context
    ) -> AsyncIterator[GenerateResponse]:
        """Stream what a model writes."""
        prompt, sampling = prompt_of(request), sampling_of(request.sampling)
        model = request.model or await self._first(Capability.GENERATE)
        chunks = self._backend.generate(
            model, prompt, sampling, BackendContext.of(ctx, priority=request.priority)
        )
        progress = Progress(ctx, model, wanted=request.progress)
        async with progress, aclosing(chunks):
            index = 0
            async for chunk in chunks:
                yield response_of(chunk, index, model)
                index += 1
                await progress.written(len(chunk.tokens))

    async def embed(self, request: EmbedRequest, ctx: Context) -> EmbedResponse:
        """Give a vector for each text."""
        model = request.model or await self._first(Capability.EMBED)
        made = await self._backend.embed(
            model, request.texts, BackendContext.of(ctx, priority=request.priority)
        )
        return EmbedResponse(
            embeddings=[Embedding(values=vector) for vector in made.vectors.tolist()],
            usage=usage_of(made.usage),
            model=model,
        )

    async def infer_unread(
        self, request: InferRequest | bytes, ctx: Context
    ) -> InferResponse | bytes:
        """Run a model once, for a request that may not have been decoded; see `UNREAD_SPEC`."""
        if isinstance(request, bytes) and self._relaying is not None:
            answer = self._relaying.take(request, ctx)
            if answer is not None:
                return await answer
        return await self.infer(_UNREAD.read(request), ctx)

    async def infer(self, request: InferRequest, ctx: Context) -> InferResponse:
        """Run a model once, together with other requests where it takes batches."""
        outputs = await self._backend.infer(
            _named(request.model),
            tensors_in(request.inputs),
            BackendContext.of(
                ctx, priority=request.priority, sequence=sequence_of(request.sequence)
            ),
            version=request.version,
            outputs=request.outputs,
        )
        return InferResponse(
            model=request.model,
            version=version_of(outputs, request.version),
            outputs=tensors_out(outputs),
        )

    async def infer_stream(
        self, request: InferRequest, ctx: Context
    ) -> AsyncIterator[InferResponse]:
        """Run a model that gives any number of results."""
        results = self._backend.stream(
            _named(request.model),
            tensors_in(request.inputs),
            BackendContext.of(
                ctx, priority=request.priority, sequence=sequence_of(request.sequence)
            ),
            version=request.version,
            outputs=request.outputs,
        )
        async with aclosing(results):
            async for outputs in results:
                yield InferResponse(
                    model=request.model,
                    version=version_of(outputs, request.version),
                    outputs=tensors_out(outputs),
                )

    async def list_models(self, request: ListModelsRequest, ctx: Context) -> ListModelsResponse:
        """Tell which models there are."""
        found = [self._with_failure(model) for model in await self._backend.list()]
        found += [
            _unknown_failure(model, reason)
            for model, reason in self._failed.items()
            if all(model != each.name for each in found)
        ]
        if request.ready:
            found = [model for model in found if model.state is ModelState.LOADED]
        return ListModelsResponse(
            models=[model_of(model) for model in sorted(found, key=lambda model: model.name)]
        )

    async def model_status(self, request: ModelStatusRequest, ctx: Context) -> ModelStatusResponse:
        """Tell all about one model."""
        name = _named(request.model)
        try:
            metadata = await self._backend.metadata(name)
        except PlaneError as error:
            if error.code is not Code.NOT_FOUND or name not in self._failed:
                raise
            return ModelStatusResponse(model=model_of(_unknown_failure(name, self._failed[name])))
        stats = await self._backend.stats(name)
        return ModelStatusResponse(
            model=model_of(self._with_failure(metadata)), stats=stats_of(stats)
        )

    async def load_model(self, request: LoadModelRequest, ctx: Context) -> LoadModelResponse:
        """Load a model, and tell the planes how it goes."""
        metadata = await self.load(
            request.model, source=request.source, parameters=request.parameters
        )
        return LoadModelResponse(model=model_of(metadata))

    async def unload_model(self, request: UnloadModelRequest, ctx: Context) -> UnloadModelResponse:
        """Unload a model, and tell the planes."""
        await self.unload(request.model)
        metadata = await self._backend.metadata(request.model)
        return UnloadModelResponse(model=model_of(metadata))

    async def load(
        self, model: str, *, source: str = "", parameters: Mapping[str, str] | None = None
    ) -> ModelMetadata:
        """Load a model, and tell the planes how it goes; others may change meanwhile.

        Args:
            model: Its name.
            source: Where its files are, see ``LoadModelRequest``; by its name where empty.
            parameters: Settings of the backend.

        Raises:
            PlaneError: See `protoplane_server.backends.interface.Backend.load`.
        """
        name = _named(model)
        async with self._lock(name):
            await self._tell(name, ModelState.LOADING)
            try:
                assert self._files is not None
                async with self._files.found(name, source) as path:
                    metadata = await self._backend.load(
                        name, ModelSource(path, dict(parameters or {}))
                    )
            except BaseException as error:
                await self._load_failed(name, error)
                raise
            self._failed.pop(name, None)
            await self._tell(name, ModelState.LOADED, version=metadata.version)
            await self._announce()
        return metadata

    async def unload(self, model: str) -> None:
        """Unload a model, and tell the planes.

        Raises:
            PlaneError: See `protoplane_server.backends.interface.Backend.unload`.
        """
        name = _named(model)
        async with self._lock(name):
            before = await self._backend.metadata(name)
            await self._tell(name, ModelState.UNLOADING, version=before.version)
            try:
                await self._backend.unload(name)
            except PlaneError:
                await self._tell(name, before.state, version=before.version)
                raise
            self._failed.pop(name, None)
            await self._tell(name, ModelState.UNLOADED, version=before.version)
            await self._announce()

    async def _announce(self) -> None:
        """Tell discovery which models are loaded now; an engine that is away changes nothing."""
        if self._host is None:
            return
        # One after the other, or what was looked up first may be told last.
        async with self._announcing:
            try:
                models = loaded(model_of(model) for model in await self._backend.list())
                self._host.metadata.update(announce(models, self._capacity))
                await self._host.reannounce()
            except PlaneError as error:
                _log.warning("nobody is told which models are loaded: %s", error.message)

    async def _keep_announcing(self) -> None:
        # The models of a server behind a backend come and go without us.
        while True:
            await asyncio.sleep(_ANNOUNCE_S)
            await self._look()
            await self._announce()

    async def _look(self) -> None:
        """Tell the planes of models that came, went or broke without us."""
        assert self._board is not None
        told = self._board.told
        try:
            listed = {model.name: model.state for model in await self._backend.list()}
        except PlaneError:
            # It is away, and so are its models.
            listed = dict.fromkeys(told, ModelState.FAILED)
        for name in {*told, *listed}:
            state = listed.get(name, ModelState.UNLOADED)
            known = state is self._told(name) or (
                # That somebody could not load it says more than that it is not there.
                name in self._failed and state is not ModelState.LOADED
            )
            if not known and not self._lock(name).locked():
                async with self._lock(name):
                    await self._tell_found(name)

    async def _tell_found(self, name: str) -> None:
        reason, version = "", ""
        try:
            found = await self._backend.metadata(name)
            state, reason, version = found.state, found.reason, found.version
        except PlaneError as error:
            state = ModelState.UNLOADED
            if error.code is not Code.NOT_FOUND:
                state, reason = ModelState.FAILED, error.message
        if state is ModelState.LOADED:
            self._failed.pop(name, None)
        if state is not self._told(name):
            await self._tell(name, state, version=version, reason=reason)

    def _told(self, model: str) -> ModelState:
        told = {} if self._board is None else self._board.told
        return told[model][0] if model in told else ModelState.UNLOADED

    def _lock(self, model: str) -> asyncio.Lock:
        """Lets loads and unloads of one model happen one after the other."""
        return self._changing.setdefault(model, asyncio.Lock())

    async def _first(self, capability: Capability) -> str:
        for model in await self._backend.list():
            if capability in model.capabilities and model.state is ModelState.LOADED:
                return model.name
        raise PlaneError(
            Code.FAILED_PRECONDITION, f"no model that can {capability} is loaded; load one"
        )

    async def _load_failed(self, name: str, error: BaseException) -> None:
        reason = error.message if isinstance(error, PlaneError) else type(error).__name__
        await self._tell(name, ModelState.FAILED, reason=reason)
        if await self._backend.ready(name):
            # It stays as it was before.
            await self._tell_found(name)
        elif name in self._failed or len(self._failed) < _MAX_FAILED:
            self._failed[name] = reason
        await self._announce()

    def _with_failure(self, model: ModelMetadata) -> ModelMetadata:
        reason = self._failed.get(model.name)
        if reason is None or model.state is ModelState.LOADED:
            return model
        return replace(model, state=ModelState.FAILED, reason=reason)

    async def _tell(
        self, model: str, state: ModelState, *, version: str = "", reason: str = ""
    ) -> None:
        if self._board is not None:
            await self._board.tell(model, state, version=version, reason=reason)


_MAX_FAILED = 1000
"""Most models that could not be loaded and are remembered."""

_ANNOUNCE_S = 10.0
"""Seconds between two looks at which models are loaded."""


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])


def _named(model: str) -> str:
    if not model:
        raise PlaneError(Code.INVALID_ARGUMENT, "model is empty; ListModels says which there are")
    return model


def _unknown_failure(model: str, reason: str) -> ModelMetadata:
    return ModelMetadata(model, "", frozenset(), ModelState.FAILED, reason)
