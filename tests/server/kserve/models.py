"""A component with models for tests of the protocol."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from protoplane.inference.v1 import InferenceService
from protoplane_base import Code, PlaneError
from protoplane_server import Options, Server
from protoplane_server.backends.interface import (
    BackendCapabilities,
    BackendContext,
    Capability,
    ModelMetadata,
    ModelState,
    ModelStats,
)
from protoplane_server.backends.partial import PartialBackend
from protoplane_server.backends.tensors import (
    Datatype,
    Tensor,
    TensorSpec,
    check_inputs,
    chosen_outputs,
)

ECHO = ModelMetadata(
    "echo",
    "test",
    frozenset({Capability.INFER}),
    version="3",
    inputs=tuple(TensorSpec(each, each, (-1, -1), optional=True) for each in Datatype),
    outputs=tuple(TensorSpec(f"{each}_BACK", each, (-1, -1)) for each in Datatype),
    max_batch_size=8,
)
COUNT = ModelMetadata(
    "count",
    "test",
    frozenset({Capability.INFER_STREAM}),
    inputs=(TensorSpec("TO", Datatype.INT32, (1,)),),
    outputs=(TensorSpec("AT", Datatype.INT32, (1,)),),
)
BOTH = replace(ECHO, name="both", capabilities=ECHO.capabilities | COUNT.capabilities)

VALUES: dict[Datatype, Any] = {
    Datatype.BOOL: np.array([[True, False, True]]),
    Datatype.FP16: np.array([[0.5, -2, 4]], np.float16),
    Datatype.FP32: np.array([[0.25, -2, 1e30]], np.float32),
    Datatype.FP64: np.array([[0.1, -2, 1e300]]),
    Datatype.BYTES: np.array([[b"", b"ab", "ü".encode()]], np.object_),
    Datatype.BF16: np.array([[1.0, -2.5, 3.0]], np.float32),
}


def values_of(datatype: Datatype) -> Any:
    """Values of a datatype, its limits among them."""
    found = VALUES.get(datatype)
    if found is not None:
        return found
    limits = np.iinfo(datatype.dtype)
    return np.array([[limits.min, limits.max, 1]], datatype.dtype)


class TestBackend(PartialBackend):
    """Gives tensors back, and counts."""

    __test__ = False
    name = "test"
    capabilities = BackendCapabilities(frozenset({Capability.INFER, Capability.INFER_STREAM}))

    def __init__(self) -> None:
        self.contexts: list[BackendContext] = []
        self.open = 0
        self.gate = asyncio.Event()
        self.state = ModelState.LOADED
        self.loads: list[tuple[str, str, dict[str, str]]] = []

    async def ready(self, model: str, version: str = "") -> bool:
        return model in ("echo", "count") and version in ("", "3")

    async def metadata(self, model: str, version: str = "") -> ModelMetadata:
        for each in (COUNT, ECHO, BOTH):
            if each.name == model and version in ("", each.version):
                return replace(each, state=self.state)
        raise PlaneError(Code.NOT_FOUND, f"there is no model {model!r}")

    async def list(self) -> Sequence[ModelMetadata]:
        return [replace(each, state=self.state) for each in (COUNT, ECHO)]

    async def stats(self, model: str) -> ModelStats:
        return ModelStats(succeeded=5, failed=1, cancelled=1, executions=2, items=9)

    async def infer(
        self,
        model: str,
        inputs: Sequence[Tensor],
        ctx: BackendContext,
        *,
        version: str = "",
        outputs: Sequence[str] = (),
    ) -> Sequence[Tensor]:
        metadata = await self.metadata(model, version)
        if metadata.name == "count":
            raise self._cannot("run tensors through", model)
        self.contexts.append(ctx)
        if any(each.name == "INT64" and each.data.size == 0 for each in inputs):
            raise RuntimeError("the secret of 1234")
        if ctx.sequence is not None and ctx.sequence.start:
            # The next of the sequence must not overtake it.
            await asyncio.sleep(0.05)
        check_inputs(model, ECHO.inputs, inputs)
        back = [Tensor(f"{each.name}_BACK", each.datatype, each.data) for each in inputs]
        return chosen_outputs(model, back, outputs)

    async def stream(
        self,
        model: str,
        inputs: Sequence[Tensor],
        ctx: BackendContext,
        *,
        version: str = "",
        outputs: Sequence[str] = (),
    ) -> AsyncGenerator[Sequence[Tensor], None]:
        self.contexts.append(ctx)
        count = int(check_inputs(model, COUNT.inputs, inputs)["TO"][0])
        self.open += 1
        try:
            for number in range(abs(count)):
                yield [Tensor.of("AT", np.array([number], np.int32))]
            if count < 0:
                await self.gate.wait()
        finally:
            self.open -= 1


class Models(InferenceService):
    """Serves the backend, and remembers what is loaded."""

    def __init__(self) -> None:
        self._backend = TestBackend()

    @property
    def backend(self) -> TestBackend:
        return self._backend

    async def load(
        self, model: str, *, source: str = "", parameters: Mapping[str, str] | None = None
    ) -> ModelMetadata:
        metadata = await self._backend.metadata(model)
        self._backend.loads.append((model, source, dict(parameters or {})))
        self._backend.state = ModelState.LOADED
        return metadata

    async def unload(self, model: str) -> None:
        await self._backend.metadata(model)
        self._backend.state = ModelState.UNLOADED


@asynccontextmanager
async def serving(**options: Any) -> AsyncGenerator[tuple[Server, TestBackend]]:
    """A server of the component, and its backend."""
    component = Models()
    settings: dict[str, Any] = {"grpc": "127.0.0.1:0", "http": "127.0.0.1:0", "grace_s": 5.0}
    chosen = Options(**{**settings, **options})
    async with Server(component, chosen) as server:
        yield server, component.backend
