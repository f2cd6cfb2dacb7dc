"""Requests that run as one because their tensors fit together."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest

from protoplane_base import Code, PlaneError
from protoplane_server.backends.interface import BackendContext
from protoplane_server.backends.tensor_batcher import TensorBatcher
from protoplane_server.backends.tensors import Datatype, Tensor

pytestmark = pytest.mark.anyio
CTX = BackendContext()


class Doubling:
    """Doubles X and tells the length of each of T, and notes how many rows it had."""

    def __init__(self) -> None:
        self.rows: list[int] = []

    async def __call__(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        by_name = {tensor.name: tensor.data for tensor in inputs}
        self.rows.append(len(by_name["X"]))
        await asyncio.sleep(0)
        lengths = np.array([len(text) for text in by_name["T"]], np.int32)
        return [Tensor.of("Y", by_name["X"] * 2), Tensor("N", Datatype.INT32, lengths)]


def request(first: float, rows: int, width: int = 2) -> list[Tensor]:
    x = np.full((rows, width), first, np.float32)
    return [Tensor.of("X", x), Tensor.of("T", ["t" * int(first)] * rows)]


async def test_each_gets_its_own_rows() -> None:
    model = Doubling()
    batcher = TensorBatcher(model)
    requests = [request(n, rows) for n, rows in ((1, 2), (2, 1), (3, 3))]
    # The order of a request's inputs does not matter.
    requests[1].reverse()
    answers = await asyncio.gather(*(batcher.infer(each, CTX) for each in requests))
    assert model.rows == [6]
    for (y, n), first, rows in zip(answers, (1, 2, 3), (2, 1, 3), strict=True):
        assert y.data.tolist() == [[2 * first] * 2] * rows
        assert n.data.tolist() == [first] * rows
    await batcher.close()


async def test_other_shapes_run_apart() -> None:
    model = Doubling()
    batcher = TensorBatcher(model)
    narrow, wide = await asyncio.gather(
        batcher.infer(request(1, 1), CTX), batcher.infer(request(1, 1, width=3), CTX)
    )
    assert (narrow[0].shape, wide[0].shape) == ((1, 2), (1, 3))
    assert model.rows == [1, 1]
    await batcher.close()


async def test_inputs_that_are_no_batch() -> None:
    batcher = TensorBatcher(Doubling())
    uneven = [*request(1, 2)[:1], *request(1, 3)[1:]]
    for inputs, told in ((uneven, "expected 2 rows"), ([], "first axis")):
        with pytest.raises(PlaneError, match=told) as caught:
            await batcher.infer(inputs, CTX)
        assert caught.value.code is Code.INVALID_ARGUMENT
    await batcher.close()


async def test_a_model_that_gives_other_rows() -> None:
    async def run(inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        return [Tensor.of("Y", np.zeros((1, 2), np.float32))]

    batcher = TensorBatcher(run)
    outcomes = await asyncio.gather(
        *(batcher.infer(request(1, 1), CTX) for _ in range(2)), return_exceptions=True
    )
    assert all(isinstance(each, PlaneError) and each.code is Code.INTERNAL for each in outcomes)
    await batcher.close()
