"""A backend whose model does what it is told: answers, raises, or hangs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

import numpy as np

from protoplane_base import Code, PlaneError
from protoplane_server.backends.interface import (
    BackendCapabilities,
    BackendContext,
    Capability,
    Chunk,
    FinishReason,
    ModelMetadata,
    ModelSource,
    ModelState,
    Prompt,
    Sampling,
    Usage,
)
from protoplane_server.backends.partial import PartialBackend
from protoplane_server.backends.tensors import Datatype, Tensor, TensorSpec

ALL = frozenset({Capability.GENERATE, Capability.INFER, Capability.INFER_STREAM})


class Scripted(PartialBackend):
    """One model, ``m``: it doubles X, unless a value of it says otherwise.

    X is ``[rows, 1]``; a value of -1 raises, -2 hangs, -3 is UNAVAILABLE.

    Attributes:
        rows: Rows of each call of `infer`.
        hanging: Calls that hang now.
        contexts: What the calls were given.
    """

    name = "scripted"

    def __init__(self, *, batches: bool = True) -> None:
        self.rows: list[int] = []
        self.hanging = 0
        self.contexts: list[BackendContext] = []
        self.loaded = True
        self.source = ModelSource()
        self._batches = batches

    @property
    def capabilities(self) -> BackendCapabilities:
        return BackendCapabilities(ALL, loading=True, sources=True, batches=self._batches)

    async def ready(self, model: str, version: str = "") -> bool:
        return self.loaded and model == "m"

    async def metadata(self, model: str, version: str = "") -> ModelMetadata:
        if model != "m":
            raise PlaneError(Code.NOT_FOUND, f"there is no model {model!r}")
        return ModelMetadata(
            "m",
            "test",
            ALL,
            ModelState.LOADED if self.loaded else ModelState.UNLOADED,
            version="3",
            inputs=(TensorSpec("X", Datatype.FP32, (-1, 1)),),
            outputs=(TensorSpec("Y", Datatype.FP32, (-1, 1)),),
            max_batch_size=8,
        )

    async def list(self) -> Sequence[ModelMetadata]:
        return [await self.metadata("m")]

    async def load(self, model: str, source: ModelSource) -> ModelMetadata:
        self.source = source
        if source.parameters.get("fail"):
            raise PlaneError(Code.INVALID_ARGUMENT, "these weights are no good")
        self.loaded = True
        return await self.metadata(model)

    async def unload(self, model: str) -> None:
        await self.metadata(model)
        self.loaded = False

    async def infer(
        self,
        model: str,
        inputs: Sequence[Tensor],
        ctx: BackendContext,
        *,
        version: str = "",
        outputs: Sequence[str] = (),
    ) -> Sequence[Tensor]:
        self.contexts.append(ctx)
        [x] = inputs
        self.rows.append(len(x.data))
        await self._obey(x.data.reshape(-1).tolist())
        return [Tensor.of("Y", x.data * np.float32(2))]

    async def stream(
        self,
        model: str,
        inputs: Sequence[Tensor],
        ctx: BackendContext,
        *,
        version: str = "",
        outputs: Sequence[str] = (),
    ) -> AsyncGenerator[Sequence[Tensor], None]:
        for value in inputs[0].data.reshape(-1).tolist():
            await self._obey([value])
            yield [Tensor.of("Y", [value], Datatype.FP32)]

    async def generate(
        self, model: str, prompt: Prompt, sampling: Sampling, ctx: BackendContext
    ) -> AsyncGenerator[Chunk, None]:
        self.contexts.append(ctx)
        assert isinstance(prompt, str)
        for word in prompt.split():
            await self._obey([float(word)] if word.startswith("-") else [])
            yield Chunk(word, (1,))
        yield Chunk("", (), FinishReason.STOP, Usage(len(prompt), len(prompt.split())))

    async def _obey(self, values: Sequence[float]) -> None:
        if -1 in values:
            raise ZeroDivisionError("secret 1234")
        if -3 in values:
            raise PlaneError(Code.UNAVAILABLE, "the device is away")
        if -2 in values:
            self.hanging += 1
            try:
                await asyncio.Event().wait()
            finally:
                self.hanging -= 1
