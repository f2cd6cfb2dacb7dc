"""The service: the models of components, as the protocol shows them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import cached_property
from importlib import metadata
from typing import TYPE_CHECKING, Any, ClassVar

from google.protobuf.descriptor_pool import DescriptorPool

from protoplane_base import Code, Context, PlaneError, Service
from protoplane_base.services import ServiceSpec
from protoplane_server.backends.interface import (
    Backend,
    ModelMetadata,
    ModelState,
    ModelStats,
)
from protoplane_server.backends.relay import relay_of
from protoplane_server.kserve.models import ServesModels
from protoplane_server.kserve.relaying import KserveWording, Relaying
from protoplane_server.kserve.requests import InferCall, sequence_of
from protoplane_server.kserve.schema import POOL, PROTOCOL, SPEC, messages
from protoplane_server.kserve.streaming import SharedStream
from protoplane_server.kserve.tensors import config_of, metadata_of
from protoplane_server.kserve.unread import UnreadCodec, unread

if TYPE_CHECKING:
    from protoplane_server.http.beside import Beside
    from protoplane_server.http.state import DoorState

EXTENSIONS = (
    "sequence",
    "schedule_policy",
    "model_repository",
    "model_configuration",
    "binary_tensor_data",
    "parameters",
    "statistics",
)
"""The extensions of the protocol that are spoken."""

_STATES = {
    ModelState.LOADED: "READY",
    ModelState.LOADING: "LOADING",
    ModelState.UNLOADING: "UNLOADING",
}
_FAILS_WITH_STATUS = "triton_grpc_error"
"""Metadata by which a caller of the stream asks for its first error as the status of the rpc."""

_SOURCE = "source"
"""Parameter of a load that says where the model's files are."""

_INFER = SPEC.methods["ModelInfer"]
_UNREAD = UnreadCodec(_INFER.request)

_FILE = "file:"
"""How the names of parameters begin that bring files; over HTTP these are texts in base64."""


class KserveService(Service):
    """Answers ``inference.GRPCInferenceService`` for a component.

    Args:
        component: Whose models they are.

    Attributes:
        protocol: What discovery calls it.
        descriptor_pool: Where the service is declared; for reflection.
    """

    spec: ClassVar[ServiceSpec] = replace(
        SPEC, methods={**SPEC.methods, _INFER.name: unread(_INFER, _INFER.python_name)}
    )
    protocol = PROTOCOL
    descriptor_pool: DescriptorPool = POOL

    def __init__(self, component: ServesModels) -> None:
        self._component = component

    def http_routes(self, state: DoorState) -> Beside:
        """The protocol's REST paths."""
        from protoplane_server.kserve.rest import KserveRoutes

        return KserveRoutes(state, self.spec)

    async def server_live(self, request: Any, ctx: Context) -> Any:
        """Whether this server answers, which it just did."""
        return messages.ServerLiveResponse(live=True)

    async def server_ready(self, request: Any, ctx: Context) -> Any:
        """Whether the backend answers."""
        return messages.ServerReadyResponse(ready=await self._backend.live())

    async def model_ready(self, request: Any, ctx: Context) -> Any:
        """Whether a model can be used; there may be no such model."""
        ready = await self._backend.ready(request.name, request.version)
        return messages.ModelReadyResponse(ready=ready)

    async def server_metadata(self, request: Any, ctx: Context) -> Any:
        """Who this server is."""
        return messages.ServerMetadataResponse(
            name="protoplane", version=metadata.version("protoplane"), extensions=EXTENSIONS
        )

    async def model_metadata(self, request: Any, ctx: Context) -> Any:
        """Which tensors a model has."""
        return metadata_of(await self._backend.metadata(request.name, request.version))

    async def model_config(self, request: Any, ctx: Context) -> Any:
        """How a model is configured."""
        model = await self._backend.metadata(request.name, request.version)
        return messages.ModelConfigResponse(config=config_of(model, self._backend.name))

    async def model_statistics(self, request: Any, ctx: Context) -> Any:
        """What one model has done, or all that can be used; times are not counted."""
        response = messages.ModelStatisticsResponse()
        for model in await self._models(request.name, request.version):
            stats = await self._backend.stats(model.name)
            response.model_stats.append(_statistics(model, stats))
        return response

    async def repository_index(self, request: Any, ctx: Context) -> Any:
        """Which models there are."""
        response = messages.RepositoryIndexResponse()
        for model in await self._backend.list():
            if model.state is ModelState.LOADED or not request.ready:
                response.models.add(
                    name=model.name,
                    version=model.version,
                    state=_STATES.get(model.state, "UNAVAILABLE"),
                    reason=model.reason or ("unloaded" if _is_absent(model) else ""),
                )
        return response

    async def repository_model_load(self, request: Any, ctx: Context) -> Any:
        """Load a model, by its name or from the parameter ``source``."""
        parameters: dict[str, str] = {}
        for name, parameter in request.parameters.items():
            chosen = parameter.WhichOneof("parameter_choice")
            if chosen == "bytes_param" or name.startswith(_FILE):
                raise PlaneError(
                    Code.INVALID_ARGUMENT,
                    f"parameter {name!r} brings a file; files come from where the parameter "
                    f"{_SOURCE!r} says, the object plane for example",
                )
            parameters[name] = _plain(getattr(parameter, chosen)) if chosen else ""
        source = parameters.pop(_SOURCE, "")
        await self._component.load(request.model_name, source=source, parameters=parameters)
        return messages.RepositoryModelLoadResponse()

    async def repository_model_unload(self, request: Any, ctx: Context) -> Any:
        """Unload a model."""
        await self._component.unload(request.model_name)
        return messages.RepositoryModelUnloadResponse()

    async def model_infer(self, request: Any, ctx: Context) -> Any:
        """Run a model once."""
        if isinstance(request, bytes) and self._relaying is not None:
            answer = self._relaying.take(request, ctx)
            if answer is not None:
                return await answer
        return await InferCall(_UNREAD.read(request), ctx).infer(self._backend)

    async def model_stream_infer(
        self, requests: AsyncIterator[Any], ctx: Context
    ) -> AsyncGenerator[Any, None]:
        """Run models, each request with its answers; one that fails does not end the others."""
        fails = str(ctx.metadata.get(_FAILS_WITH_STATUS, "")).lower() == "true"

        async def answer(request: Any) -> AsyncGenerator[Any, None]:
            try:
                async with aclosing(InferCall(request, ctx).stream(self._backend)) as responses:
                    async for response in responses:
                        yield messages.ModelStreamInferResponse(infer_response=response)
            except PlaneError as error:
                if fails:
                    raise
                yield messages.ModelStreamInferResponse(
                    error_message=error.message, infer_response={"id": request.id}
                )

        async with aclosing(SharedStream(requests, answer, sequence_of).run()) as answers:
            async for each in answers:
                yield each

    async def unanswered(self, request: Any, ctx: Context) -> Any:
        """Refused: shared memory, and the settings of Triton's own traces and logs."""
        name = ctx.method.name
        if "SharedMemory" in name:
            why = "shared memory, which there is none of here; send tensors in the request"
        else:
            why = "traces and logs; those of this server are settings of its process"
        raise PlaneError(Code.UNIMPLEMENTED, f"{name} is for Triton's own {why}")

    @cached_property
    def _relaying(self) -> Relaying | None:
        # Asked for with the first request, when the backend has started.
        relay = relay_of(self._backend)
        return None if relay is None else Relaying(relay, KserveWording())

    @property
    def _backend(self) -> Backend:
        return self._component.backend

    async def _models(self, name: str, version: str) -> Sequence[ModelMetadata]:
        if name:
            return [await self._backend.metadata(name, version)]
        return [each for each in await self._backend.list() if each.state is ModelState.LOADED]


def _statistics(model: ModelMetadata, stats: ModelStats) -> Any:
    return messages.ModelStatistics(
        name=model.name,
        version=model.version,
        inference_count=max(stats.items, stats.succeeded),
        execution_count=stats.executions,
        inference_stats={
            "success": {"count": stats.succeeded},
            "fail": {"count": stats.failed + stats.cancelled},
        },
    )


def _is_absent(model: ModelMetadata) -> bool:
    return model.state is ModelState.UNLOADED


def _plain(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
