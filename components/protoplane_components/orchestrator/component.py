"""The component, as a user would write it: inference by many workers, and what is known of them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from typing import Self

from protoplane.inference.v1 import (
    Capability,
    EmbedRequest,
    EmbedResponse,
    GenerateRequest,
    GenerateResponse,
    InferenceClient,
    InferenceService,
    InferRequest,
    InferResponse,
    ListModelsRequest,
    ListModelsResponse,
    LoadModelRequest,
    LoadModelResponse,
    Model,
    ModelStatusRequest,
    ModelStatusResponse,
    UnloadModelRequest,
    UnloadModelResponse,
)
from protoplane_base import CallOptions, Code, PlaneError, Service
from protoplane_components.orchestrator.counts import Counts
from protoplane_components.orchestrator.dispatching import Dispatching
from protoplane_components.orchestrator.everywhere import Everywhere
from protoplane_components.orchestrator.kv_policy import KvPolicy, Tokenizer
from protoplane_components.orchestrator.needs import Need
from protoplane_components.orchestrator.overseer import Overseer
from protoplane_components.orchestrator.policies import Policy, picking
from protoplane_components.orchestrator.pool import Pool
from protoplane_components.orchestrator.roster import Roster
from protoplane_components.orchestrator.settings import OrchestratorSettings
from protoplane_runtime.engines.discovery import Discovery
from protoplane_server import Context, Host


class Orchestrator(InferenceService):
    """Answers as a worker does, by the workers that discovery finds.

    What it tells of them is `overseer`, which is served beside it: see `orchestrator`.

    Args:
        settings: How it behaves; by default what the environment says, see
            `OrchestratorSettings.of`.
        tokenizer: Makes tokens of texts for the policy ``kv``, as the workers do; without it the
            KV router is given the text, and needs a tokenizer itself.
    """

    def __init__(
        self,
        settings: OrchestratorSettings | None = None,
        *,
        tokenizer: Tokenizer | None = None,
    ) -> None:
        self.settings = settings or OrchestratorSettings.of(os.environ)
        self.counts = Counts()
        self.pool = Pool(self.settings, self.counts)
        self._tokenizer = tokenizer
        self._dispatching = Dispatching(self.pool, self.settings, self.counts)
        self._everywhere = Everywhere(self.pool, self.settings)
        self.overseer = Overseer(self.pool, self._everywhere, self.settings, self.counts)
        self._host: Host | None = None
        self._stack = AsyncExitStack()

    @property
    def queued(self) -> int:
        """Requests that wait for a worker, for the metrics plane."""
        return self.pool.queued

    def hosted(self, host: Host) -> None:
        """Remember the server, for its discovery and its metrics."""
        from protoplane_components.orchestrator.metrics import OrchestratorMetrics

        self._host = host
        host.metrics.register(OrchestratorMetrics(self.pool, self.counts))

    async def __aenter__(self) -> Self:
        host = self._host
        if host is None or host.discovery is None:
            raise PlaneError(
                Code.FAILED_PRECONDITION,
                "an orchestrator finds its workers by discovery; serve it on an engine, with "
                "--engine local: for example",
            )
        if host.name.rpartition("/")[0] == self.settings.workers:
            raise PlaneError(
                Code.INVALID_ARGUMENT,
                f"this orchestrator is {host.name}, and would take itself for one of its workers; "
                "serve protoplane_components.orchestrator:orchestrator, or give it another name",
            )
        roster = Roster(host.discovery, host.namespace, self.settings, self.pool.changed)
        self.pool.roster = roster
        try:
            # The other way round: requests end, then the policy, then the ways to the workers.
            self._stack.push_async_callback(roster.close)
            self.pool.policy = await self._stack.enter_async_context(
                self._policy(host.discovery, host.namespace)
            )
            following = asyncio.create_task(roster.run(), name="the workers")
            self._stack.push_async_callback(_end, following)
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def generate(self, request: GenerateRequest, ctx: Context) -> AsyncIterator[GenerateResponse]:
        """Stream what a model writes, at one worker or, where that is lost, at several."""
        need = Need(request.model, Capability.CAPABILITY_GENERATE, request.priority, text=request)
        return self._dispatching.generate(need, request, ctx)

    async def embed(self, request: EmbedRequest, ctx: Context) -> EmbedResponse:
        """Give a vector for each text."""
        need = Need(request.model, Capability.CAPABILITY_EMBED, request.priority)

        async def ask(client: InferenceClient, options: CallOptions) -> EmbedResponse:
            asked = request
            if not asked.model:
                asked = request.model_copy(update={"model": need.model})
            return await client.embed(asked, **options)

        return await self._dispatching.unary(need, ctx, ask)

    async def infer(self, request: InferRequest, ctx: Context) -> InferResponse:
        """Run a model once."""

        async def ask(client: InferenceClient, options: CallOptions) -> InferResponse:
            return await client.infer(request, **options)

        need = _tensors(request, Capability.CAPABILITY_INFER)
        return await self._dispatching.unary(need, ctx, ask)

    def infer_stream(self, request: InferRequest, ctx: Context) -> AsyncIterator[InferResponse]:
        """Run a model that gives any number of results."""
        need = _tensors(request, Capability.CAPABILITY_INFER_STREAM)
        return self._dispatching.infer_stream(need, request, ctx)

    async def list_models(self, request: ListModelsRequest, ctx: Context) -> ListModelsResponse:
        """Tell which models the workers have."""
        return ListModelsResponse(models=[*await self._everywhere.models(ready=request.ready)])

    async def model_status(self, request: ModelStatusRequest, ctx: Context) -> ModelStatusResponse:
        """Tell all about one model, at all workers together."""
        return await self._everywhere.status(request.model)

    async def load_model(self, request: LoadModelRequest, ctx: Context) -> LoadModelResponse:
        """Load a model at all workers, or at those that the metadata names."""

        async def ask(client: InferenceClient) -> Model | None:
            return (await client.load_model(request)).model

        model = await self._everywhere.change("load", request.model, ctx, ask)
        return LoadModelResponse(model=model)

    async def unload_model(self, request: UnloadModelRequest, ctx: Context) -> UnloadModelResponse:
        """Unload a model at all workers, or at those that the metadata names."""

        async def ask(client: InferenceClient) -> Model | None:
            return (await client.unload_model(request)).model

        model = await self._everywhere.change("unload", request.model, ctx, ask)
        return UnloadModelResponse(model=model)

    def _policy(self, discovery: Discovery, namespace: str) -> Policy:
        if self.settings.policy == KvPolicy.name:
            return KvPolicy(discovery, namespace, self.settings, self.counts, self._tokenizer)
        return picking(self.settings.policy)


def orchestrator() -> Sequence[Service]:
    """An orchestrator and what tells of its workers, to be served together."""
    made = Orchestrator()
    # The component has the name of the first.
    return made.overseer, made


def _tensors(request: InferRequest, capability: Capability) -> Need:
    if not request.model:
        raise PlaneError(Code.INVALID_ARGUMENT, "model is empty; ListModels says which there are")
    return Need(request.model, capability, request.priority, sequence=request.sequence)


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])
