"""A Triton behind the component `protoplane/inference`, through its gRPC door."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.rpc.error_details_pb2 import RetryInfo
from tests.component_suite import component_options
from tests.server.backends.backend_suite import eventually
from tests.triton_server import MODELS, TritonServer
from tritonclient.grpc import aio as triton_aio

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
from protoplane_runtime.engines.objects.opening import open_object_store
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
    # Triton chose it.
    assert answer.version == "1"
    count = InferRequest(model="tokens", inputs=[tensor("COUNT", [3])])
    streamed = [each async for each in client.infer_stream(count, timeout_s=30)]
    assert {each.version for each in streamed} == {"1"}
    tokens = [each.outputs[1].contents for each in streamed]
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


async def test_the_answers_of_kserve_say_which_version_ran(triton: TritonServer) -> None:
    triton.load("add", "tokens")
    make: Any = triton_aio.InferenceServerClient
    options = component_options(grpc="127.0.0.1:0")
    async with (
        Server(Inference(triton.url), options) as server,
        make(server.grpc_address) as kserve,
    ):
        sent: list[Any] = [triton_aio.InferInput(name, [1, 2], "FP32") for name in "AB"]
        for each in sent:
            each.set_data_from_numpy(np.ones((1, 2), np.float32))
        answer = await kserve.infer("add", sent)
        assert answer.get_response().model_version == "1"
        assert not (await kserve.get_model_config("add")).config.model_transaction_policy.decoupled
        config = (await kserve.get_model_config("tokens")).config
        assert config.model_transaction_policy.decoupled


async def test_what_is_not_decoupled_has_one_answer_in_a_stream(triton: TritonServer) -> None:
    triton.load("add")
    make: Any = triton_aio.InferenceServerClient
    sent: list[Any] = [triton_aio.InferInput(name, [1, 2], "FP32") for name in "AB"]
    for each in sent:
        each.set_data_from_numpy(np.ones((1, 2), np.float32))

    async def once() -> AsyncIterator[dict[str, Any]]:
        yield {"model_name": "add", "inputs": sent, "request_id": "one"}

    async with Server(Inference(triton.url), component_options(grpc="127.0.0.1:0")) as server:
        # What Triton says, its clients are to hear of us.
        for address in (triton.address, server.grpc_address):
            async with make(address) as kserve:
                [(answer, error)] = [each async for each in kserve.stream_infer(once())]
            assert error is None
            assert answer.get_response().parameters["triton_final_response"].bool_param


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


async def test_a_folder_from_objects(triton: TritonServer, tmp_path: Path) -> None:
    objects = tmp_path.as_uri()
    store = await open_object_store(objects)
    for file in (MODELS / "add").rglob("*"):
        if file.is_file() and "__pycache__" not in file.parts:
            key = f"models/addx/{file.relative_to(MODELS / 'add').as_posix()}"
            await store.put(key, file.read_bytes())
    options = component_options(inproc="folders", objects=objects)
    async with Server(Inference(triton.url), options), connect("inproc:folders") as plane:
        client = InferenceClient(plane)
        await client.load_model(LoadModelRequest(model="addx", source="object:models/addx/"))
        sent = [tensor(name, [[1.5, 2]], np.float32) for name in "AB"]
        answer = await client.infer(InferRequest(model="addx", inputs=sent), timeout_s=30)
        assert np.frombuffer(answer.outputs[0].contents, np.float32).tolist() == [3, 4]
        await client.unload_model(UnloadModelRequest(model="addx"))
        one = LoadModelRequest(model="addx", source="object:models/addx/config.pbtxt")
        with pytest.raises(PlaneError, match=r"'config\.pbtxt' holds no model .* it is a file"):
            await client.load_model(one)


async def test_what_a_request_is_reaches_the_model(
    client: InferenceClient, triton: TritonServer
) -> None:
    triton.load("request")

    async def told(priority: int = 0, *, hold: bool = False, **options: Any) -> tuple[bytes, bytes]:
        hold_on = Tensor(
            name="HOLD",
            datatype=DataType.DATA_TYPE_BOOL,
            shape=[1, 1],
            contents=bytes([hold]),
        )
        request = InferRequest(model="request", inputs=[hold_on], priority=priority)
        identity, parameters = (await client.infer(request, timeout_s=60, **options)).outputs
        return identity.contents[4:], parameters.contents[4:]

    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    identity, parameters = await told(metadata={"traceparent": trace, "x-request-id": "mine"})
    assert identity == b"mine"
    assert trace.split("-")[1].encode() in parameters
    # One is worked on, the others wait; those with a higher priority go first.
    order: list[int] = []

    async def noted(priority: int) -> None:
        await told(priority)
        order.append(priority)

    def waiting(count: int) -> Callable[[], Coroutine[Any, Any, bool]]:
        async def so_many() -> bool:
            name = "nv_inference_pending_request_count"
            return await asyncio.to_thread(triton.metric, name, "request") == count

        return so_many

    first = asyncio.create_task(told(hold=True))
    async with asyncio.TaskGroup() as tasks:
        status = ModelStatusRequest(model="request")

        async def held() -> bool:
            stats = (await client.model_status(status)).stats
            return stats is not None and stats.in_flight == 1

        await eventually(held)
        for count, priority in enumerate((-1, 0, 1), 1):
            tasks.create_task(noted(priority))
            await eventually(waiting(count))
        first.cancel()
    assert order == [1, 0, -1]


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
