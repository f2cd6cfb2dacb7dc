"""A Triton behind the component `protoplane/inference`, through its gRPC door."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import numpy as np
import pytest
from google.rpc.error_details_pb2 import RetryInfo
from tests.component_suite import component_options
from tests.triton_server import TritonServer

from protoplane.inference.v1 import (
    DataType,
    InferenceClient,
    InferRequest,
    LoadModelRequest,
    ModelState,
    ModelStatusRequest,
    SequenceStep,
    Tensor,
    UnloadModelRequest,
)
from protoplane_base import Code, PlaneError
from protoplane_client import connect
from protoplane_components.inference import Inference
from protoplane_server import Server

pytestmark = pytest.mark.anyio


@pytest.fixture
async def client(triton: TritonServer) -> AsyncIterator[InferenceClient]:
    triton.load("add", "running_sum", "slow", "tokens")
    options = component_options(
        grpc="127.0.0.1:0", engine="memory:", name="protoplane/inference/triton"
    )
    async with (
        Server(Inference(triton.url), options) as server,
        connect(f"grpc://{server.grpc_address}") as plane,
    ):
        yield InferenceClient(plane)


def tensor(name: str, values: object, dtype: type[np.generic] = np.int32) -> Tensor:
    array = np.array(values, dtype)
    kind = DataType.DATA_TYPE_INT32 if dtype is np.int32 else DataType.DATA_TYPE_FP32
    return Tensor(name=name, datatype=kind, shape=list(array.shape), contents=array.tobytes())


async def test_tensors_and_streams(client: InferenceClient) -> None:
    sent = [tensor(name, [[1.5, 2]], np.float32) for name in "AB"]
    answer = await client.infer(InferRequest(model="add", inputs=sent), timeout_s=30)
    [total] = answer.outputs
    assert np.frombuffer(total.contents, np.float32).tolist() == [3, 4]
    count = InferRequest(model="tokens", inputs=[tensor("COUNT", [3])])
    tokens = [each.outputs[1].contents async for each in client.infer_stream(count, timeout_s=30)]
    assert [int.from_bytes(each, "little") for each in tokens] == [0, 1, 2]
    totals: list[int] = []
    for value in (1, 2, 3):
        step = SequenceStep(id="42", start=value == 1, end=value == 3)
        request = InferRequest(
            model="running_sum", inputs=[tensor("VALUE", [[value]])], sequence=step
        )
        [output] = (await client.infer(request, timeout_s=30)).outputs
        totals.append(int.from_bytes(output.contents, "little"))
    assert totals == [1, 3, 6]


async def test_models(client: InferenceClient) -> None:
    await client.unload_model(UnloadModelRequest(model="add"))
    status = await client.model_status(ModelStatusRequest(model="add"))
    assert status.model is not None
    assert status.model.state is ModelState.MODEL_STATE_UNLOADED
    loaded = await client.load_model(LoadModelRequest(model="add"))
    assert loaded.model is not None
    assert loaded.model.platform == "triton_python"
    with pytest.raises(PlaneError) as caught:
        await client.load_model(LoadModelRequest(model="nobody"))
    assert caught.value.code is Code.NOT_FOUND


async def test_errors(client: InferenceClient) -> None:
    wrong = [tensor("A", [[1]]), tensor("B", [[1]])]
    with pytest.raises(PlaneError, match="'A' of add: expected FP32, got INT32") as caught:
        await client.infer(InferRequest(model="add", inputs=wrong))
    assert caught.value.code is Code.INVALID_ARGUMENT
    hang = InferRequest(model="slow", inputs=[tensor("SECONDS", [[600]], np.float32)])
    with pytest.raises(PlaneError) as caught:
        await client.infer(hang, timeout_s=0.3)
    assert caught.value.code is Code.DEADLINE_EXCEEDED
    slow = InferRequest(model="slow", inputs=[tensor("SECONDS", [[0.3]], np.float32)])
    ended = await asyncio.gather(
        *(client.infer(slow, timeout_s=30) for _ in range(12)), return_exceptions=True
    )
    refused = [each for each in ended if isinstance(each, PlaneError)]
    assert 0 < len(refused) < 12
    for error in refused:
        assert error.code is Code.RESOURCE_EXHAUSTED
        assert any(type(each).__name__ == RetryInfo.__name__ for each in error.details)
