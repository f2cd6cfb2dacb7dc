"""Batches tensors: requests whose tensors differ in their first axis only run as one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import numpy as np

from protoplane_base import Code, PlaneError
from protoplane_server.backends.batch_metrics import BatchStats
from protoplane_server.backends.batcher import Batcher, BatcherOptions
from protoplane_server.backends.interface import BackendContext
from protoplane_server.backends.tensors import Tensor

Tensors = Sequence[Tensor]


class TensorBatcher:
    """Joins requests along the first axis of their tensors, and parts the outputs again.

    Args:
        run: Runs the model on joined inputs; every output has as many rows as the inputs.
        options: How requests are batched.
        stats: Where to count.
    """

    def __init__(
        self,
        run: Callable[[Tensors], Awaitable[Tensors]],
        options: BatcherOptions = BatcherOptions(),  # noqa: B008  # frozen
        stats: BatchStats | None = None,
    ) -> None:
        self._run = run
        self._batcher = Batcher[Tensors, Tensors](self._run_joined, options, stats)

    @property
    def stats(self) -> BatchStats:
        """What it counts."""
        return self._batcher.stats

    async def infer(self, inputs: Tensors, ctx: BackendContext) -> Tensors:
        """Run inputs that have been checked, together with those of others.

        Raises:
            PlaneError: INVALID_ARGUMENT where the first axis differs from tensor to tensor; as
                `Batcher.submit`.
        """
        if not inputs or any(not tensor.shape for tensor in inputs):
            raise PlaneError(Code.INVALID_ARGUMENT, "a batch needs inputs that have a first axis")
        rows = inputs[0].shape[0]
        for tensor in inputs:
            if tensor.shape[0] != rows:
                raise PlaneError(
                    Code.INVALID_ARGUMENT,
                    f"input {tensor.name!r}: expected {rows} rows, as {inputs[0].name!r} has, "
                    f"got {tensor.shape[0]}",
                )
        ordered = sorted(inputs, key=lambda tensor: tensor.name)
        key = tuple((tensor.name, tensor.datatype, tensor.shape[1:]) for tensor in ordered)
        return await self._batcher.submit(ordered, ctx, size=rows, key=key)

    async def close(self) -> None:
        """See `Batcher.close`."""
        await self._batcher.close()

    async def _run_joined(self, requests: Sequence[Tensors]) -> Sequence[Tensors]:
        if len(requests) == 1:
            return [await self._run(requests[0])]
        joined = [
            Tensor(same[0].name, same[0].datatype, np.concatenate([each.data for each in same]))
            for same in zip(*requests, strict=True)
        ]
        rows = [tensors[0].shape[0] for tensors in requests]
        outputs = await self._run(joined)
        for output in outputs:
            if not output.shape or output.shape[0] != sum(rows):
                raise PlaneError(
                    Code.INTERNAL,
                    f"output {output.name!r} has the shape {list(output.shape)}; a model that "
                    f"takes batches gives {sum(rows)} rows for {sum(rows)}",
                )
        ends = np.cumsum(rows)[:-1]
        parts = [np.split(output.data, ends) for output in outputs]
        return [
            [
                Tensor(output.name, output.datatype, part[number])
                for output, part in zip(outputs, parts, strict=True)
            ]
            for number in range(len(requests))
        ]
