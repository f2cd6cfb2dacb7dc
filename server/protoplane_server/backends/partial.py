"""A backend that can do nothing yet: what a driver derives from, to define what it can."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

from protoplane_base import Code, PlaneError
from protoplane_server.backends.interface import (
    BackendContext,
    Chunk,
    Embeddings,
    ModelMetadata,
    ModelSource,
    ModelStats,
    Prompt,
    Sampling,
)
from protoplane_server.backends.tensors import Tensor


class PartialBackend:
    """Answers UNIMPLEMENTED to each request, and has nothing to start or to stop.

    Attributes:
        name: What kind of backend it is.
    """

    name = "partial"

    async def start(self) -> None:
        """Nothing to do."""

    async def stop(self) -> None:
        """Nothing to do."""

    async def warm_up(self) -> None:
        """Nothing to do."""

    async def live(self) -> bool:
        """It is in this process."""
        return True

    async def infer(
        self,
        model: str,
        inputs: Sequence[Tensor],
        ctx: BackendContext,
        *,
        version: str = "",
        outputs: Sequence[str] = (),
    ) -> Sequence[Tensor]:
        """Refused."""
        raise self._cannot("run tensors through", model)

    async def stream(
        self,
        model: str,
        inputs: Sequence[Tensor],
        ctx: BackendContext,
        *,
        version: str = "",
        outputs: Sequence[str] = (),
    ) -> AsyncGenerator[Sequence[Tensor], None]:
        """Refused."""
        for nothing in self._refused("stream tensors from", model):
            yield nothing

    async def generate(
        self, model: str, prompt: Prompt, sampling: Sampling, ctx: BackendContext
    ) -> AsyncGenerator[Chunk, None]:
        """Refused."""
        for _ in self._refused("generate text with", model):
            yield Chunk("")

    async def embed(self, model: str, texts: Sequence[str], ctx: BackendContext) -> Embeddings:
        """Refused."""
        raise self._cannot("embed texts with", model)

    async def load(self, model: str, source: ModelSource) -> ModelMetadata:
        """Refused."""
        raise self._cannot("load", model)

    async def unload(self, model: str) -> None:
        """Refused."""
        raise self._cannot("unload", model)

    async def stats(self, model: str) -> ModelStats:
        """Nothing is counted."""
        return ModelStats()

    def _refused(self, what: str, model: str) -> Sequence[Sequence[Tensor]]:
        raise self._cannot(what, model)

    def _cannot(self, what: str, model: str) -> PlaneError:
        """The error of a request that the backend, or its model, cannot do."""
        return PlaneError(
            Code.UNIMPLEMENTED,
            f"the backend {self.name} cannot {what} {model!r}; ListModels says what each model can",
        )
