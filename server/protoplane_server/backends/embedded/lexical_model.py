"""The lexical embedder as a backend has it: vectors of texts, as such or as tensors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Executor

import numpy as np

from protoplane_base import Code, PlaneError
from protoplane_server.backends.counting import ModelCounters
from protoplane_server.backends.embedded.gru import Floats
from protoplane_server.backends.embedded.lexical import DIMENSIONS, embed, words
from protoplane_server.backends.interface import (
    BackendContext,
    Capability,
    Embeddings,
    ModelMetadata,
    Usage,
)
from protoplane_server.backends.tensors import (
    Datatype,
    Tensor,
    TensorSpec,
    check_inputs,
    chosen_outputs,
)

MAX_TEXTS = 1024
MAX_TEXT_CHARS = 100_000

PLATFORM = "protoplane_lexical"

_AT_ONCE_CHARS = 10_000
_INPUTS = (TensorSpec("TEXT", Datatype.BYTES, (-1,)),)
_OUTPUTS = (TensorSpec("EMBEDDING", Datatype.FP32, (-1, DIMENSIONS)),)


class LexicalModel:
    """The embedder; it holds nothing.

    Args:
        name: Its name.
        worker: Where it runs.
    """

    def __init__(self, name: str, worker: Executor) -> None:
        self.counters = ModelCounters()
        self.metadata = ModelMetadata(
            name,
            PLATFORM,
            frozenset({Capability.EMBED, Capability.INFER}),
            inputs=_INPUTS,
            outputs=_OUTPUTS,
            max_batch_size=MAX_TEXTS,
            dimensions=DIMENSIONS,
        )
        self._worker = worker

    async def close(self) -> None:
        """Nothing to do."""

    async def embed(self, texts: Sequence[str], ctx: BackendContext) -> Embeddings:
        """See `protoplane_server.backends.interface.Backend.embed`."""
        with self.counters.request():
            if len(texts) > MAX_TEXTS:
                raise PlaneError(
                    Code.INVALID_ARGUMENT,
                    f"there are {len(texts)} texts, {MAX_TEXTS} are the most; send several calls",
                )
            longest = max(map(len, texts), default=0)
            if longest > MAX_TEXT_CHARS:
                raise PlaneError(
                    Code.INVALID_ARGUMENT,
                    f"a text has {longest} characters, {MAX_TEXT_CHARS} are the most; split it",
                )
            parts = [part async for part in self._parts(texts, ctx)]
            vectors = np.concatenate([np.zeros((0, DIMENSIONS), np.float32), *parts])
            return Embeddings(vectors, Usage(sum(len(words(text)) for text in texts)))

    async def infer(
        self, inputs: Sequence[Tensor], ctx: BackendContext, outputs: Sequence[str]
    ) -> Sequence[Tensor]:
        """See `protoplane_server.backends.interface.Backend.infer`."""
        texts = check_inputs(self.metadata.name, _INPUTS, inputs)["TEXT"]
        try:
            decoded = [text.decode() for text in texts]
        except UnicodeDecodeError as error:
            raise PlaneError(
                Code.INVALID_ARGUMENT, f"input 'TEXT': expected UTF-8, got {error.reason}"
            ) from error
        made = await self.embed(decoded, ctx)
        vectors = Tensor("EMBEDDING", Datatype.FP32, made.vectors)
        return chosen_outputs(self.metadata.name, [vectors], outputs)

    async def _parts(self, texts: Sequence[str], ctx: BackendContext) -> AsyncIterator[Floats]:
        """Vectors of some texts at a time, so that a long call can end between two of them."""
        loop = asyncio.get_running_loop()
        part: list[str] = []
        for number, text in enumerate(texts, start=1):
            part.append(text)
            if number == len(texts) or sum(map(len, part)) >= _AT_ONCE_CHARS:
                if ctx.time_remaining_s() == 0:
                    raise ctx.too_late()
                yield await loop.run_in_executor(self._worker, embed, part)
                self.counters.executions += 1
                self.counters.items += len(part)
                part = []
