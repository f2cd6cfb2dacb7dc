"""Triton's own gRPC clients against a component."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import ml_dtypes
import numpy as np
import pytest
import tritonclient.grpc as sync_client
import tritonclient.grpc.aio as aio_client
from tests.server.backends.backend_suite import eventually
from tests.server.kserve.models import TestBackend, serving, values_of
from tritonclient.grpc import service_pb2 as untyped
from tritonclient.utils import InferenceServerException

from protoplane_client import connect
from protoplane_client.reflection import Reflection
from protoplane_runtime.engines.opening import open_engine
from protoplane_server import Server
from protoplane_server.backends.interface import SequenceStep
from protoplane_server.backends.tensors import Datatype

pytestmark = pytest.mark.anyio

service_pb2: Any = untyped

Served = tuple[Server, TestBackend]


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving(http=None) as served:
        yield served


@pytest.fixture
async def client(served: Served) -> AsyncIterator[Any]:
    make: Any = aio_client.InferenceServerClient
    async with make(served[0].grpc_address) as client:
        yield client


def given(datatype: Datatype, values: Any = None) -> Any:
    array = values_of(datatype) if values is None else values
    tensor: Any = sync_client.InferInput(datatype.value, array.shape, datatype.value)
    # The client has a type of its own for these, which numpy has not.
    wanted: Any = ml_dtypes.bfloat16
    tensor.set_data_from_numpy(array.astype(wanted) if datatype is Datatype.BF16 else array)
    return tensor


def counting(to: int, **fields: Any) -> dict[str, Any]:
    tensor: Any = sync_client.InferInput("TO", [1], "INT32")
    tensor.set_data_from_numpy(np.array([to], np.int32))
    return {"model_name": "count", "inputs": [tensor], **fields}


async def stream(client: Any, *requests: dict[str, Any], **options: Any) -> list[Any]:
    async def each() -> AsyncIterator[dict[str, Any]]:
        for request in requests:
            yield request

    return [answer async for answer in client.stream_infer(each(), **options)]


async def test_what_it_tells_of_itself(client: Any) -> None:
    assert await client.is_server_live()
    assert await client.is_server_ready()
    assert await client.is_model_ready("echo")
    assert await client.is_model_ready("echo", "3")
    assert not await client.is_model_ready("echo", "4")
    assert not await client.is_model_ready("nobody")
    assert "binary_tensor_data" in (await client.get_server_metadata()).extensions
    metadata = await client.get_model_metadata("echo")
    assert (metadata.name, metadata.platform, list(metadata.versions)) == ("echo", "test", ["3"])
    assert [each.datatype for each in metadata.inputs] == [*Datatype]
    assert list(metadata.outputs[0].shape) == [-1, -1]
    config = (await client.get_model_config("echo")).config
    assert (config.max_batch_size, list(config.input[0].dims), config.backend) == (8, [-1], "test")
    assert config.input[0].optional
    assert not config.model_transaction_policy.decoupled
    assert (await client.get_model_config("count")).config.model_transaction_policy.decoupled
    # It answers once, too, as every model of Triton that is not decoupled.
    config = (await client.get_model_config("both")).config
    assert not config.model_transaction_policy.decoupled
    [stats] = (await client.get_inference_statistics("echo")).model_stats
    assert (stats.inference_count, stats.execution_count) == (9, 2)
    assert (stats.inference_stats.success.count, stats.inference_stats.fail.count) == (5, 2)
    assert len((await client.get_inference_statistics()).model_stats) == 2


async def test_loading_and_unloading(client: Any, served: Served) -> None:
    index = (await client.get_model_repository_index()).models
    assert [(each.name, each.version, each.state) for each in index] == [
        ("count", "", "READY"),
        ("echo", "3", "READY"),
    ]
    await client.unload_model("echo")
    first = (await client.get_model_repository_index()).models[0]
    assert (first.state, first.reason) == ("UNAVAILABLE", "unloaded")
    ready: Any = service_pb2.RepositoryIndexRequest(ready=True)
    assert not (await client._client_stub.RepositoryIndex(ready)).models
    await client.load_model("echo", config='{"a": 1}')
    assert served[1].loads == [("echo", "", {"config": '{"a": 1}'})]
    with pytest.raises(InferenceServerException, match="brings a file"):
        await client.load_model("echo", config="{}", files={"file:1/model": b"x"})
    with pytest.raises(InferenceServerException) as caught:
        await client.load_model("nobody")
    assert caught.value.status() == "StatusCode.NOT_FOUND"


@pytest.mark.parametrize("datatype", list(Datatype))
async def test_every_datatype_there_and_back(client: Any, datatype: Datatype) -> None:
    result = await client.infer("echo", [given(datatype)], model_version="3", request_id="r7")
    back = result.as_numpy(f"{datatype}_BACK")
    assert back.shape == (1, 3)
    assert back.tolist() == values_of(datatype).tolist()
    assert (result.get_response().id, result.get_response().model_version) == ("r7", "3")


async def test_contents_that_are_not_raw(client: Any) -> None:
    fields = {
        Datatype.BOOL: "bool_contents",
        Datatype.INT8: "int_contents",
        Datatype.INT64: "int64_contents",
        Datatype.UINT16: "uint_contents",
        Datatype.UINT64: "uint64_contents",
        Datatype.FP32: "fp32_contents",
        Datatype.FP64: "fp64_contents",
        Datatype.BYTES: "bytes_contents",
    }
    request: Any = service_pb2.ModelInferRequest(model_name="echo")
    for datatype, field in fields.items():
        tensor = request.inputs.add(name=datatype, datatype=datatype, shape=[1, 3])
        getattr(tensor.contents, field).extend(values_of(datatype).reshape(-1).tolist())
    response = await client._client_stub.ModelInfer(request)
    result: Any = sync_client.InferResult(response)
    for datatype in fields:
        assert result.as_numpy(f"{datatype}_BACK").tolist() == values_of(datatype).tolist()


async def test_outputs_settings_and_sequences(client: Any, served: Served) -> None:
    wanted: Any = sync_client.InferRequestedOutput("INT8_BACK")
    result = await client.infer(
        "echo",
        [given(Datatype.INT8), given(Datatype.BYTES)],
        outputs=[wanted],
        request_id="named",
        priority=3,
        timeout=9_000_000,
        sequence_id=7,
        sequence_end=True,
        parameters={"own": "thing"},
    )
    assert [each.name for each in result.get_response().outputs] == ["INT8_BACK"]
    [ctx] = served[1].contexts
    assert (ctx.request_id, ctx.priority) == ("named", -2)
    assert ctx.sequence == SequenceStep("7", end=True)
    left_s = ctx.time_remaining_s()
    assert left_s is not None
    assert left_s <= 9


_TYPED_AND_RAW: list[tuple[dict[str, Any], int]] = [({"contents": {}}, 0), ({}, 1)]

REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"model_name": "nobody"}, "NOT_FOUND", "'nobody'"),
    ({"model_name": ""}, "INVALID_ARGUMENT", "model_name is empty"),
    ({"model_name": "count"}, "UNIMPLEMENTED", "count"),
    ({"model_version": "9"}, "NOT_FOUND", "echo"),
    ({"outputs": [{"name": "X"}]}, "INVALID_ARGUMENT", "'X'"),
    ({"inputs": [{"name": "INT8", "datatype": "INT9"}]}, "INVALID_ARGUMENT", "INT9"),
    ({"inputs": [{"name": "NO", "datatype": "INT8"}]}, "INVALID_ARGUMENT", "'NO'"),
    (
        {"inputs": [{"name": "INT8", "datatype": "INT8", "shape": [2, 1]}]},
        "INVALID_ARGUMENT",
        "expected 2 bytes for INT8 [2, 1], got 1",
    ),
    ({"raw_input_contents": [b"", b""]}, "INVALID_ARGUMENT", "raw_input_contents"),
    (
        {
            "inputs": [
                {"name": "BF16", "datatype": "BF16", "shape": [1], "contents": {}},
            ],
            "raw_input_contents": [],
        },
        "INVALID_ARGUMENT",
        "send raw_input_contents",
    ),
    *(
        (
            {
                "inputs": [
                    {"name": datatype, "datatype": datatype, "shape": [2, 1 << 62, 0], **contents}
                ],
                "raw_input_contents": [b""] * raw,
            },
            "INVALID_ARGUMENT",
            f"tensor '{datatype}'",
        )
        for datatype in ("INT8", "BYTES")
        for contents, raw in _TYPED_AND_RAW
    ),
    ({"parameters": {"priority": {"string_param": "x"}}}, "INVALID_ARGUMENT", "'priority'"),
    (
        {
            "inputs": [
                {
                    "name": "INT8",
                    "datatype": "INT8",
                    "shape": [1, 1],
                    "parameters": {"shared_memory_region": {"string_param": "r"}},
                }
            ]
        },
        "UNIMPLEMENTED",
        "shared memory",
    ),
]


@pytest.mark.parametrize(("change", "status", "told"), REFUSED)
async def test_what_is_refused(client: Any, change: dict[str, Any], status: str, told: str) -> None:
    fields = {
        "model_name": "echo",
        "inputs": [{"name": "INT8", "datatype": "INT8", "shape": [1, 1]}],
        "raw_input_contents": [b"\1"],
        **change,
    }
    request: Any = service_pb2.ModelInferRequest(**fields)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client._client_stub.ModelInfer(request)
    assert caught.value.code().name == status
    assert told in str(caught.value.details())


async def test_a_model_that_crashes_tells_nothing_of_its_inside(client: Any) -> None:
    with pytest.raises(InferenceServerException) as caught:
        await client.infer("echo", [given(Datatype.INT64, np.zeros((0, 1), np.int64))])
    assert caught.value.status() == "StatusCode.INTERNAL"
    assert "1234" not in str(caught.value)


async def test_what_triton_has_and_this_has_not(client: Any) -> None:
    send, settings = "send tensors in the request", "settings of its process"
    calls = [
        (client.get_system_shared_memory_status(), send),
        (client.register_system_shared_memory("a", "/a", 8), send),
        (client.unregister_cuda_shared_memory(), send),
        (client.get_trace_settings(), settings),
        (client.get_log_settings(), settings),
    ]
    for call, told in calls:
        with pytest.raises(InferenceServerException, match=told) as caught:
            await call
        assert caught.value.status() == "StatusCode.UNIMPLEMENTED"


async def test_a_decoupled_stream(client: Any) -> None:
    answers = await stream(client, counting(3, request_id="a"))
    assert all(error is None for _, error in answers)
    assert [int(result.as_numpy("AT")[0]) for result, _ in answers] == [0, 1, 2]
    assert {result.get_response().id for result, _ in answers} == {"a"}
    asked = counting(1)
    asked["parameters"] = None
    request: Any = service_pb2.ModelInferRequest(model_name="count", id="b")
    request.inputs.add(name="TO", datatype="INT32", shape=[1])
    request.raw_input_contents.append(b"\2\0\0\0")
    request.parameters["triton_enable_empty_final_response"].bool_param = True

    async def one() -> AsyncIterator[Any]:
        yield request

    got = [each.infer_response async for each in client._client_stub.ModelStreamInfer(one())]
    finals = [each.parameters["triton_final_response"].bool_param for each in got]
    assert finals == [False, False, True]
    assert [len(each.outputs) for each in got] == [1, 1, 0]


async def test_what_is_not_decoupled_has_one_answer_in_a_stream(client: Any) -> None:
    for model in ("echo", "both"):
        sent: Any = aio_client.InferInput("INT8", [1, 2], "INT8")
        sent.set_data_from_numpy(np.array([[1, 2]], np.int8))
        [(answer, error)] = await stream(client, {"model_name": model, "inputs": [sent]})
        assert error is None
        assert answer.as_numpy("INT8_BACK").tolist() == [[1, 2]]
        assert answer.get_response().parameters["triton_final_response"].bool_param


async def test_a_stream_of_many_requests_at_once(client: Any, served: Served) -> None:
    backend = served[1]

    async def requests() -> AsyncIterator[dict[str, Any]]:
        # The first goes on until the others have been answered.
        yield counting(-1, request_id="held")
        for number in range(100):
            yield counting(2, request_id=str(number))

    seen: set[str] = set()
    async with asyncio.timeout(30):
        async for result, error in client.stream_infer(requests()):
            assert error is None
            seen.add(result.get_response().id)
            if len(seen) == 101:
                backend.gate.set()
    assert seen == {"held", *map(str, range(100))}
    assert backend.open == 0


async def test_requests_of_a_sequence_keep_their_order(client: Any, served: Served) -> None:
    asked = [
        {
            "model_name": "echo",
            "inputs": [given(Datatype.INT8)],
            "request_id": f"{sequence}-{step}",
            "sequence_id": sequence,
            "sequence_start": step == 0,
        }
        for step in range(4)
        for sequence in ("a", "b")
    ]
    answers = await stream(client, *asked)
    for sequence in ("a", "b"):
        ids = [result.get_response().id for result, _ in answers]
        assert [each for each in ids if each.startswith(sequence)] == [
            f"{sequence}-{step}" for step in range(4)
        ]
    assert answers[0][0].get_response().parameters["triton_final_response"].bool_param


async def test_an_error_in_a_stream_does_not_end_it(client: Any) -> None:
    wrong = counting(1)
    wrong["model_name"] = "nobody"
    answers = await stream(client, wrong, counting(1))
    errors = [error for _, error in answers if error is not None]
    assert len(answers) == 2
    assert [each.message() for each in errors] == ["there is no model 'nobody'"]
    with pytest.raises(InferenceServerException) as caught:
        await _raised(stream(client, wrong, headers={"triton_grpc_error": "true"}))
    assert caught.value.status() == "StatusCode.NOT_FOUND"


async def _raised(answers: Any) -> None:
    # The client passes on gRPC's own error from an iteration.
    try:
        await answers
    except grpc.aio.AioRpcError as error:
        raise InferenceServerException(str(error.details()), str(error.code())) from error


async def test_leaving_a_stream_stops_its_models(client: Any, served: Served) -> None:
    backend = served[1]

    async def requests() -> AsyncIterator[dict[str, Any]]:
        yield counting(-1)
        yield counting(-1)
        await asyncio.Event().wait()

    answers = client.stream_infer(requests())
    for _ in range(2):
        await anext(answers)
    assert backend.open == 2
    answers.cancel()

    async def stopped() -> bool:
        return backend.open == 0 and served[0].dispatcher.open_calls == 0

    await eventually(stopped)


async def test_a_deadline_ends_a_stream(client: Any, served: Served) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stream(client, counting(-1), stream_timeout=0.5)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED

    async def stopped() -> bool:
        return served[1].open == 0

    await eventually(stopped)


async def test_the_synchronous_client(served: Served) -> None:
    def use() -> None:
        make: Any = sync_client.InferenceServerClient
        with make(served[0].grpc_address) as client:
            assert client.is_server_live()
            for datatype in Datatype:
                back = client.infer("echo", [given(datatype)]).as_numpy(f"{datatype}_BACK")
                assert back.tolist() == values_of(datatype).tolist()
            with pytest.raises(InferenceServerException) as caught:
                client.infer("nobody", [given(Datatype.INT8)])
            assert caught.value.status() == "StatusCode.NOT_FOUND"
            answers: queue.Queue[Any] = queue.Queue()

            def put(result: object, error: object) -> None:
                answers.put((result, error))

            client.start_stream(put)
            client.async_stream_infer(**counting(3))
            got = [answers.get(timeout=30) for _ in range(3)]
            client.stop_stream()
            assert [int(result.as_numpy("AT")[0]) for result, _ in got] == [0, 1, 2]

    await asyncio.to_thread(use)


async def test_reflection_describes_it(served: Served) -> None:
    async with connect(str(served[0].grpc_address)) as plane:
        reflection = Reflection(plane, {"timeout_s": 20})
        assert "inference.GRPCInferenceService" in await reflection.services()
        method = await reflection.method("GRPCInferenceService/ModelInfer")
        assert method.path == "/inference.GRPCInferenceService/ModelInfer"
        assert (await reflection.method("InferenceService/Infer")).name == "Infer"


async def test_it_is_behind_the_same_tokens(served: Served) -> None:
    make: Any = aio_client.InferenceServerClient
    async with (
        serving(http=None, tokens={"secret": "ada"}) as (server, _),
        make(server.grpc_address) as client,
    ):
        with pytest.raises(InferenceServerException) as caught:
            await client.is_server_live()
        assert caught.value.status() == "StatusCode.UNAUTHENTICATED"
        assert await client.is_server_live(headers={"authorization": "Bearer secret"})


async def test_it_can_be_left_out() -> None:
    make: Any = aio_client.InferenceServerClient
    async with (
        serving(http=None, kserve=False) as (server, _),
        make(server.grpc_address) as client,
    ):
        with pytest.raises(InferenceServerException) as caught:
            await client.is_server_live()
        assert caught.value.status() == "StatusCode.UNIMPLEMENTED"


async def test_discovery_tells_of_it(tmp_path: Path) -> None:
    engine = await open_engine(f"local:{tmp_path}")
    try:
        async with serving(http=None, engine=f"local:{tmp_path}"):
            [found] = await engine.discovery.instances()
        assert "kserve.v2" in found.protocols
        assert found.services == ("protoplane.inference.v1.InferenceService",)
    finally:
        await engine.close()
