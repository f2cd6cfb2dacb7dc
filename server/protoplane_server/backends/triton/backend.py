"""The Triton backend: tensors for the models of a Triton Inference Server."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from time import monotonic
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo

from protoplane_base import Code, PlaneError
from protoplane_runtime.tracing import TRACEPARENT
from protoplane_server.backends.counting import ModelCounters
from protoplane_server.backends.interface import (
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
from protoplane_server.backends.partial import PartialBackend
from protoplane_server.backends.tensors import Tensor, match_inputs
from protoplane_server.backends.triton.catalog import Catalog
from protoplane_server.backends.triton.connection import Connection
from protoplane_server.backends.triton.cuda_memory import CudaRegion, why_no_cuda
from protoplane_server.backends.triton.errors import QUEUE_FULL, error_of_words, is_lost_region
from protoplane_server.backends.triton.messages import FINAL, InferCall, read_tensors
from protoplane_server.backends.triton.model import CAPABILITIES, TritonModel
from protoplane_server.backends.triton.region_owner import RegionOwner, is_orphan
from protoplane_server.backends.triton.relay import TritonRelay
from protoplane_server.backends.triton.repository import as_parameters, load_parameters
from protoplane_server.backends.triton.schema import messages
from protoplane_server.backends.triton.settings import TritonSettings
from protoplane_server.backends.triton.shared_memory import Region, SharedRegions
from protoplane_server.backends.triton.system_memory import SystemRegion

_log = logging.getLogger("protoplane.server")

_ASK_S = 10.0
"""Longest that a question about Triton or a model may take."""

_LOAD_S = 600.0
"""Longest that loading a model may take."""

_UNLOAD_S = 120.0
"""Longest that unloading one may take."""

_RETRY_S = 0.1
"""When to try again at a full queue, in seconds, where nothing was answered yet."""

_ANY_SIZE = 1 << 62

_CAN = BackendCapabilities(CAPABILITIES, loading=True, sources=True)

_CHANGED = frozenset({Code.NOT_FOUND, Code.INVALID_ARGUMENT, Code.UNIMPLEMENTED, Code.UNAVAILABLE})
"""What a model may answer that is not any more as it was when it was asked about itself."""


class TritonBackend(PartialBackend):
    """Passes tensors on to a Triton, and what it answers back.

    Every request has a timeout, which Triton is told of, too; cancelling one takes it back from
    Triton. When Triton goes away requests are UNAVAILABLE until it is there again.

    Args:
        settings: Where it is.
    """

    name = "triton"

    def __init__(self, settings: TritonSettings) -> None:
        self._settings = settings
        self._shared_min = settings.shared_memory_min_bytes
        self._connection: Connection | None = None
        self._catalog: Catalog | None = None
        self._system: SharedRegions | None = None
        self._cuda: SharedRegions | None = None
        self._owner: RegionOwner | None = None
        self._counters: defaultdict[str, ModelCounters] = defaultdict(ModelCounters)
        self._took_s: dict[str, float] = {}

    @property
    def capabilities(self) -> BackendCapabilities:
        """Tensors, once or in streams; Triton makes batches by itself."""
        return _CAN

    @property
    def shares_memory(self) -> bool:
        """Whether large tensors go through memory that Triton shares."""
        return self._system is not None or self._cuda is not None

    @property
    def shares_cuda(self) -> bool:
        """Whether those of models on the GPU go through its memory."""
        return self._cuda is not None

    async def start(self) -> None:
        """Connect.

        Raises:
            PlaneError: UNAVAILABLE; Triton does not answer.
        """
        if self._connection is not None:
            return
        connection = Connection(self._settings)
        try:
            await connection.ask("ServerLive", _ASK_S)
            if self._settings.shared_memory_min_bytes:
                self._system = await self._usable_system(connection)
                self._cuda = await self._usable_cuda(connection)
        except BaseException:
            self._system = self._cuda = None
            self._disown()
            await connection.close()
            raise
        self._catalog = Catalog(connection, _ASK_S)
        self._connection = connection

    async def stop(self) -> None:
        """End all requests with UNAVAILABLE, and the connection."""
        connection, self._connection = self._connection, None
        pools = [pool for pool in (self._system, self._cuda) if pool is not None]
        self._system = self._cuda = None
        if connection is not None:
            connection.end(_stopped())
            try:
                for pool in pools:
                    await pool.close()
            finally:
                self._disown()
                await connection.close()

    async def live(self) -> bool:
        """Whether Triton answers."""
        return await self._says("ServerLive", "live")

    async def ready(self, model: str, version: str = "") -> bool:
        """Whether Triton says that a model is ready.

        One that was loaded here is loaded again first where Triton has started anew.
        """
        ready = await self._says("ModelReady", "ready", name=model, version=version)
        if ready or self._connection is None or self._catalog is None:
            return ready
        try:
            restored = await self._catalog.restore(model)
        except PlaneError:
            return False
        return restored and await self._says("ModelReady", "ready", name=model, version=version)

    async def metadata(self, model: str, version: str = "") -> ModelMetadata:
        """What Triton says of a model."""
        return await self._models().metadata(model, version)

    async def list(self) -> Sequence[ModelMetadata]:
        """All models of Triton's repository, by name."""
        return await self._models().list()

    async def stats(self, model: str) -> ModelStats:
        """Requests as this backend sees them; executions and items as Triton counts them."""
        executions, items = await self._models().executions(model)
        counters = self._counters.get(model) or ModelCounters()
        counters.executions, counters.items = executions, items
        return counters.snapshot()

    async def infer(
        self,
        model: str,
        inputs: Sequence[Tensor],
        ctx: BackendContext,
        *,
        version: str = "",
        outputs: Sequence[str] = (),
    ) -> Sequence[Tensor]:
        """Run a model that answers once; a decoupled one is UNIMPLEMENTED, `stream` is for it."""
        catalog = self._models()
        found = await catalog.find(model, version)
        if found.decoupled:
            raise self._cannot("run tensors once through the decoupled model", model)
        timeout_s = self._timeout_s(ctx)
        with self._counters[model].request():
            found = await self._checked(found, version, inputs, outputs)
            call = InferCall(found, version, inputs, outputs, ctx, timeout_s)
            pool = self._pool(found)
            if pool is not None and (wanted := call.shared_bytes(self._shared_min)):
                region = await _region(pool, wanted)
                if region is not None:
                    return await self._infer_shared(call, pool, region)
            response = await self._answer(call, call.message())
            return read_tensors(response, call)

    def relay(self) -> TritonRelay:
        """What hands on requests that Triton can take as they are."""
        below_bytes = self._shared_min if self.shares_memory else _ANY_SIZE
        return TritonRelay(self._known, self._counters, self._timeout_s, self._ask, below_bytes)

    async def stream(
        self,
        model: str,
        inputs: Sequence[Tensor],
        ctx: BackendContext,
        *,
        version: str = "",
        outputs: Sequence[str] = (),
    ) -> AsyncGenerator[Sequence[Tensor], None]:
        """Run a model; what is not decoupled answers once."""
        found = await self._models().find(model, version)
        if not found.decoupled:
            yield await self.infer(model, inputs, ctx, version=version, outputs=outputs)
            return
        timeout_s = self._timeout_s(ctx)
        with self._counters[model].request():
            found = await self._checked(found, version, inputs, outputs)
            call = InferCall(found, version, inputs, outputs, ctx, timeout_s)
            async with aclosing(self._answers(call)) as answers:
                async for answer in answers:
                    yield answer

    async def generate(
        self, model: str, prompt: Prompt, sampling: Sampling, ctx: BackendContext
    ) -> AsyncGenerator[Chunk, None]:
        """Refused: a model of Triton has tensors, `stream` is for it."""
        await self._models().find(model)
        async for nothing in super().generate(model, prompt, sampling, ctx):
            yield nothing

    async def embed(self, model: str, texts: Sequence[str], ctx: BackendContext) -> Embeddings:
        """Refused: a model of Triton has tensors, `infer` is for it."""
        await self._models().find(model)
        return await super().embed(model, texts, ctx)

    async def load(self, model: str, source: ModelSource) -> ModelMetadata:
        """Load a model of Triton's repository, or one from a folder as those lie in it.

        The one parameter is ``config``, a configuration as JSON that replaces the model's own. A
        Triton that has the model, unchanged, keeps it as it is; requests to what it replaces come
        to their end.

        Raises:
            PlaneError: See `protoplane_server.backends.interface.Backend.load`.
        """
        catalog = self._models()
        parameters = as_parameters(dict(source.parameters))
        if source.path is not None:
            parameters = await asyncio.to_thread(load_parameters, source.path) | parameters
        try:
            await catalog.load(model, parameters, _LOAD_S)
        finally:
            self._took_s.pop(model, None)
        return await catalog.metadata(model, "")

    async def unload(self, model: str) -> None:
        """Unload a model, once its requests have ended with UNAVAILABLE."""
        catalog = self._models()
        connection = self._connected()
        gone = PlaneError(Code.UNAVAILABLE, f"{model} was unloaded")
        await catalog.unload(model, _UNLOAD_S, lambda: connection.end(gone, model))

    async def _infer_shared(
        self, call: InferCall, pool: SharedRegions, region: Region
    ) -> Sequence[Tensor]:
        over = False
        try:
            request = call.message(region, self._shared_min)
            response = await self._answer(call, request)
            tensors = read_tensors(response, call, request, region)
            over = True
        except PlaneError as error:
            # Triton answered, so it is done with it; one that is late or away has not.
            over = error.code not in (Code.DEADLINE_EXCEEDED, Code.UNAVAILABLE, Code.CANCELLED)
            if not is_lost_region(error):
                raise
            pool.forget()
            response = await self._answer(call, call.message())
            tensors = read_tensors(response, call)
        finally:
            if over:
                pool.give_back(region)
            else:
                pool.leave(region)
        return tensors

    async def _answer(self, call: InferCall, request: Any) -> Any:
        answer = await self._ask(call, request.SerializeToString())
        return messages.ModelInferResponse.FromString(answer)

    async def _ask(self, call: InferCall, request: bytes) -> bytes:
        model = call.model.metadata.name
        since = monotonic()
        trace = _trace(call.ctx)
        try:
            try:
                response = await self._connected().infer(model, request, call.timeout_s, trace)
            except PlaneError as error:
                if not await self._restored(model, error):
                    raise
                since = monotonic()
                response = await self._connected().infer(
                    model, request, self._timeout_s(call.ctx), trace
                )
        except PlaneError as error:
            raise await self._explained(error, call) from error
        took_s = monotonic() - since
        self._took_s[model] = 0.9 * self._took_s.get(model, took_s) + 0.1 * took_s
        return response

    async def _answers(self, call: InferCall) -> AsyncGenerator[Sequence[Tensor], None]:
        begun = False
        try:
            try:
                async with aclosing(self._attempt(call)) as answers:
                    async for answer in answers:
                        begun = True
                        yield answer
            except PlaneError as error:
                if begun or not await self._restored(call.model.metadata.name, error):
                    raise
            else:
                return
            again = replace(call, timeout_s=self._timeout_s(call.ctx))
            async with aclosing(self._attempt(again)) as answers:
                async for answer in answers:
                    yield answer
        except PlaneError as error:
            raise await self._explained(error, call) from error

    async def _attempt(self, call: InferCall) -> AsyncGenerator[Sequence[Tensor], None]:
        answers = self._connected().stream(
            call.model.metadata.name, call.message(), call.timeout_s, _trace(call.ctx)
        )
        async with aclosing(answers):
            async for answer in answers:
                if answer.error_message:
                    # There is a header by which Triton gives these a code; 2.51 crashes of it.
                    raise error_of_words(answer.error_message)
                response = answer.infer_response
                if response.outputs:
                    yield read_tensors(response, call)
                if response.parameters[FINAL].bool_param:
                    return

    async def _restored(self, model: str, error: PlaneError) -> bool:
        """Whether a model that Triton does not know is there again, so that trying anew helps."""
        if error.code is not Code.NOT_FOUND or is_lost_region(error):
            return False
        catalog = self._models()
        catalog.forget(model)
        return await catalog.restore(model)

    async def _checked(
        self, model: TritonModel, version: str, inputs: Sequence[Tensor], outputs: Sequence[str]
    ) -> TritonModel:
        """The model, once what it is asked fits it; it is asked again what it takes before not."""
        try:
            _check(model, inputs, outputs)
        except PlaneError:
            name = model.metadata.name
            catalog = self._models()
            catalog.forget(name)
            fresh = await catalog.find(name, version)
            _check(fresh, inputs, outputs)
            return fresh
        return model

    async def _explained(self, error: PlaneError, call: InferCall) -> PlaneError:
        """The error with what more is known of it here than Triton says."""
        name = call.model.metadata.name
        if error.code in _CHANGED:
            self._models().forget(name)
        if error.code is Code.NOT_FOUND:
            try:
                await self._models().find(name, call.version)
            except PlaneError as better:
                return better
        elif error.code is Code.DEADLINE_EXCEEDED and call.ctx.time_remaining_s() == 0:
            return call.ctx.too_late()
        elif error.code is Code.RESOURCE_EXHAUSTED and QUEUE_FULL in error.message:
            limit = call.model.queue_limit
            retry_s = self._took_s.get(name, _RETRY_S)
            delay = Duration()
            delay.FromMilliseconds(max(1, round(retry_s * 1000)))
            return PlaneError(
                Code.RESOURCE_EXHAUSTED,
                f"{f'{limit} requests wait' if limit else 'enough requests wait'} for {name} "
                f"already; try again in {retry_s:.3g} s, or ask another instance",
                [RetryInfo(retry_delay=delay)],
            )
        return error

    def _pool(self, model: TritonModel) -> SharedRegions | None:
        if self._cuda is not None and self._settings.cuda_device in model.gpus:
            return self._cuda
        return self._system

    async def _usable(
        self, connection: Connection, kind: str, make: Callable[[int], Region]
    ) -> SharedRegions | None:
        """Regions of a kind, where Triton takes them."""

        async def register(region: Region) -> None:
            await connection.ask(f"{kind}SharedMemoryRegister", _ASK_S, **region.registration())

        async def unregister(name: str) -> None:
            await connection.ask(f"{kind}SharedMemoryUnregister", _ASK_S, name=name)

        pool = SharedRegions(make, register, unregister, self._settings.shared_memory_max_bytes)
        return pool if await pool.usable() else None

    async def _usable_system(self, connection: Connection) -> SharedRegions | None:
        try:
            owner = self._owner = RegionOwner()
        except OSError:
            return None

        def make(size: int) -> Region:
            return SystemRegion(size, owner.next_name())

        pool = await self._usable(connection, SystemRegion.kind, make)
        if pool is None:
            self._disown()
            return None
        try:
            status = await connection.ask("SystemSharedMemoryStatus", _ASK_S)
        except PlaneError:
            return pool
        orphans = [name for name in status.regions if is_orphan(name)]
        if orphans:
            _log.info("Triton has shared memory of processes that have ended: %d", len(orphans))
            pool.adopt(orphans)
        return pool

    def _disown(self) -> None:
        owner, self._owner = self._owner, None
        if owner is not None:
            owner.close()

    async def _usable_cuda(self, connection: Connection) -> SharedRegions | None:
        device = self._settings.cuda_device
        if device is None:
            return None
        if why := await asyncio.to_thread(why_no_cuda, device):
            _log.debug("no memory of a GPU is shared with Triton: %s", why)
            return None
        pool = await self._usable(connection, CudaRegion.kind, partial(CudaRegion, device=device))
        if pool is None:
            _log.info("Triton takes no memory of GPU %d; tensors go another way", device)
        return pool

    def _timeout_s(self, ctx: BackendContext) -> float:
        left_s = ctx.time_remaining_s()
        if left_s == 0:
            raise ctx.too_late()
        timeout_s = self._settings.timeout_s
        return timeout_s if left_s is None else min(left_s, timeout_s)

    async def _says(self, method: str, field: str, **fields: Any) -> bool:
        if self._connection is None:
            return False
        try:
            return bool(getattr(await self._connection.ask(method, _ASK_S, **fields), field))
        except PlaneError:
            return False

    def _connected(self) -> Connection:
        if self._connection is None:
            raise _stopped()
        return self._connection

    def _known(self, model: str, version: str) -> TritonModel | None:
        if self._connection is None or self._catalog is None:
            return None
        return self._catalog.known(model, version)

    def _models(self) -> Catalog:
        if self._connection is None or self._catalog is None:
            raise _stopped()
        return self._catalog


async def _region(pool: SharedRegions, wanted: int) -> Region | None:
    try:
        return await pool.take(wanted)
    except (OSError, PlaneError):
        # There is the connection.
        return None


def _check(model: TritonModel, inputs: Sequence[Tensor], outputs: Sequence[str]) -> None:
    metadata = model.metadata
    match_inputs(metadata.name, metadata.inputs, inputs)
    most = metadata.max_batch_size
    if most and inputs:
        rows = inputs[0].shape[0]
        for tensor in inputs:
            got = tensor.shape[0]
            if not 0 < got <= most:
                raise PlaneError(
                    Code.INVALID_ARGUMENT,
                    f"input {tensor.name!r} of {metadata.name}: expected a batch of 1 to {most}, "
                    f"got {got}",
                )
            if got != rows:
                raise PlaneError(
                    Code.INVALID_ARGUMENT,
                    f"input {tensor.name!r} of {metadata.name}: expected a batch of {rows}, as "
                    f"{inputs[0].name!r} has, got {got}",
                )
    for name in outputs:
        if all(name != spec.name for spec in metadata.outputs):
            known = ", ".join(spec.name for spec in metadata.outputs)
            raise PlaneError(
                Code.INVALID_ARGUMENT,
                f"{metadata.name} has no output {name!r}; expected {known}",
            )


def _trace(ctx: BackendContext) -> Sequence[tuple[str, str]]:
    return ((TRACEPARENT, ctx.traceparent),) if ctx.traceparent else ()


def _stopped() -> PlaneError:
    return PlaneError(Code.UNAVAILABLE, "the backend is not running; start it first")
