"""Triton's own HTTP clients, and plain HTTP, against a component."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import httpx
import ml_dtypes
import numpy as np
import pytest
import tritonclient.http as sync_client
import tritonclient.http.aio as aio_client
from hypothesis import given as hypothesis_given
from hypothesis import strategies as st
from tests.server.kserve.models import TestBackend, serving, values_of
from tritonclient.utils import InferenceServerException

from protoplane_base import PlaneError
from protoplane_server import Server
from protoplane_server.backends.interface import SequenceStep
from protoplane_server.backends.tensors import Datatype
from protoplane_server.kserve.rest_documents import InferDocument

pytestmark = pytest.mark.anyio

Served = tuple[Server, TestBackend]


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving(grpc=None) as served:
        yield served


@pytest.fixture
async def client(served: Served) -> AsyncIterator[Any]:
    make: Any = aio_client.InferenceServerClient
    async with make(address(served)) as client:
        yield client


@pytest.fixture
async def http(served: Served) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=str(served[0].http_url), timeout=30) as http:
        yield http


def address(served: Served) -> str:
    return str(served[0].http_url).removeprefix("http://")


def given(datatype: Datatype, *, binary: bool = True) -> Any:
    array = values_of(datatype)
    tensor: Any = sync_client.InferInput(datatype.value, array.shape, datatype.value)
    wanted: Any = ml_dtypes.bfloat16
    sent = array.astype(wanted) if datatype is Datatype.BF16 else array
    tensor.set_data_from_numpy(sent, binary_data=binary)
    return tensor


def wanted(datatype: Datatype, *, binary: bool) -> Any:
    output: Any = sync_client.InferRequestedOutput(f"{datatype}_BACK", binary_data=binary)
    return output


async def test_what_it_tells_of_itself(client: Any) -> None:
    assert await client.is_server_live()
    assert await client.is_server_ready()
    assert await client.is_model_ready("echo")
    assert await client.is_model_ready("echo", "3")
    assert not await client.is_model_ready("nobody")
    assert (await client.get_server_metadata())["name"] == "protoplane"
    metadata = await client.get_model_metadata("echo", "3")
    assert (metadata["versions"], metadata["platform"]) == (["3"], "test")
    assert metadata["inputs"][0] == {"name": "BOOL", "datatype": "BOOL", "shape": [-1, -1]}
    config = await client.get_model_config("echo")
    assert (config["max_batch_size"], config["input"][0]["dims"]) == (8, [-1])
    assert config["input"][0]["data_type"] == "TYPE_BOOL"
    [stats] = (await client.get_inference_statistics("echo"))["model_stats"]
    assert stats["inference_stats"]["success"]["count"] == 5
    assert len((await client.get_inference_statistics())["model_stats"]) == 2


async def test_loading_and_unloading(client: Any, served: Served) -> None:
    index = await client.get_model_repository_index()
    assert index[1] == {"name": "echo", "version": "3", "state": "READY", "reason": ""}
    await client.unload_model("echo")
    assert (await client.get_model_repository_index())[1]["state"] == "UNAVAILABLE"
    await client.load_model("echo", config='{"a": 1}')
    assert served[1].loads == [("echo", "", {"config": '{"a": 1}'})]
    with pytest.raises(InferenceServerException, match="brings a file"):
        await client.load_model("echo", config="{}", files={"file:1/model": b"x"})
    with pytest.raises(InferenceServerException) as caught:
        await client.load_model("nobody")
    assert (caught.value.status(), caught.value.message()) == (
        "404",
        "there is no model 'nobody'",
    )


async def test_every_datatype_in_binary(client: Any) -> None:
    for datatype in Datatype:
        result = await client.infer("echo", [given(datatype)], model_version="3", request_id="r7")
        back = result.as_numpy(f"{datatype}_BACK")
        assert back.tolist() == values_of(datatype).tolist()
        answer = result.get_response()
        assert (answer["id"], answer["model_version"]) == ("r7", "3")


async def test_every_datatype_in_json(client: Any) -> None:
    for datatype in Datatype:
        if datatype in (Datatype.FP16, Datatype.BF16):
            continue  # The client sends these in binary only.
        result = await client.infer(
            "echo", [given(datatype, binary=False)], outputs=[wanted(datatype, binary=False)]
        )
        expected = values_of(datatype).reshape(-1).tolist()
        if datatype is Datatype.BYTES:
            expected = [each.decode() for each in expected]
        assert result.get_output(f"{datatype}_BACK")["data"] == expected


async def test_json_and_binary_together(client: Any, served: Served) -> None:
    result = await client.infer(
        "echo",
        [given(Datatype.INT8, binary=False), given(Datatype.BYTES), given(Datatype.FP64)],
        outputs=[
            wanted(Datatype.FP64, binary=True),
            wanted(Datatype.INT8, binary=False),
            wanted(Datatype.BYTES, binary=True),
        ],
        sequence_id="s",
        sequence_start=True,
        priority=1,
        timeout=5_000_000,
        request_compression_algorithm="gzip",
    )
    for datatype in (Datatype.INT8, Datatype.BYTES, Datatype.FP64):
        assert result.as_numpy(f"{datatype}_BACK").tolist() == values_of(datatype).tolist()
    [ctx] = served[1].contexts
    assert (ctx.priority, ctx.sequence) == (0, SequenceStep("s", start=True))
    left_s = ctx.time_remaining_s()
    assert left_s is not None
    assert left_s <= 5


async def test_the_synchronous_client(served: Served) -> None:
    def use() -> None:
        make: Any = sync_client.InferenceServerClient
        with make(address(served)) as client:
            assert client.is_server_live()
            for datatype in Datatype:
                back = client.infer("echo", [given(datatype)]).as_numpy(f"{datatype}_BACK")
                assert back.tolist() == values_of(datatype).tolist()
            with pytest.raises(InferenceServerException) as caught:
                client.infer("nobody", [given(Datatype.INT8)])
            assert caught.value.status() == "404"
            with pytest.raises(InferenceServerException) as caught:
                client.get_system_shared_memory_status()
            assert caught.value.status() == "501"

    await asyncio.to_thread(use)


async def test_json_as_a_person_writes_it(http: httpx.AsyncClient) -> None:
    body = {
        "inputs": [{"name": "INT8", "datatype": "INT8", "shape": [2, 2], "data": [[1, 2], [3, 4]]}]
    }
    answer = await http.post("/v2/models/echo/infer", json=body)
    assert answer.json() == {
        "model_name": "echo",
        "outputs": [
            {"name": "INT8_BACK", "datatype": "INT8", "shape": [2, 2], "data": [1, 2, 3, 4]}
        ],
    }
    assert (await http.get("/v2/nothing")).status_code == 404
    assert (await http.get("/v2")).json()["name"] == "protoplane"
    assert (await http.get("/v2/models/ec%68o")).json()["name"] == "echo"
    for path, status, document in (
        ("health/live", 200, {"live": True}),
        ("health/ready", 200, {"ready": True}),
        ("models/echo/ready", 200, {"name": "echo", "ready": True}),
        ("models/nobody/ready", 400, {"name": "nobody", "ready": False}),
    ):
        answer = await http.get(f"/v2/{path}")
        assert (answer.status_code, answer.json()) == (status, document)
    wrong = await http.get("/v2/models/echo/infer")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    assert "takes POST" in wrong.json()["error"]
    # What the rpcs are called over HTTP by the door itself works, too.
    path = "/inference.GRPCInferenceService/ModelReady"
    assert (await http.post(path, json={"name": "echo"})).json() == {"ready": True}


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"datatype": "INT9"}, "expected one of BOOL"),
    ({"shape": [3]}, "expected 3 elements for the shape [3], got 2"),
    ({"shape": [-2]}, "shape [-2]"),
    ({"data": [1, 300]}, "cannot be INT8"),
    ({"data": [1, 1.5]}, "expected INT8, got 1.5"),
    ({"data": [1, True]}, "expected INT8, got True"),
    ({"data": [1, "x"]}, "expected INT8, got 'x'"),
    ({"data": None}, "send one of them"),
    ({"parameters": {"binary_data_size": 1}}, "no data beside them"),
    ({"shape": ["x"]}, "inputs[0].shape[0]"),
    ({"parameters": {"a": {}}}, "inputs[0].parameters"),
    ({"parameters": {"a": 2**64}}, "it takes 64 bits"),
    ({"shape": [2**70]}, "tensor 'INT8'"),
]


async def test_what_is_refused(http: httpx.AsyncClient) -> None:
    for change, told in REFUSED:
        tensor = {"name": "INT8", "datatype": "INT8", "shape": [2], "data": [1, 2], **change}
        answer = await http.post("/v2/models/echo/infer", json={"inputs": [tensor]})
        assert answer.status_code == 400, change
        assert told in answer.json()["error"]


async def test_an_output_that_is_no_text(http: httpx.AsyncClient) -> None:
    size = {"binary_data_size": 5}
    tensor = {"name": "BYTES", "datatype": "BYTES", "shape": [1, 1], "parameters": size}
    head = json.dumps({"inputs": [tensor]}).encode()
    headers = {"inference-header-content-length": str(len(head))}
    body = head + b"\1\0\0\0\xff"
    answer = await http.post("/v2/models/echo/infer", content=body, headers=headers)
    assert answer.status_code == 400
    assert "is not UTF-8" in answer.json()["error"]
    for length in ("x", "9" * 11, str(len(body) + 1), str(len(head) - 1)):
        headers = {"inference-header-content-length": length}
        answer = await http.post("/v2/models/echo/infer", content=body, headers=headers)
        assert answer.status_code == 400
        assert answer.json()["error"]


async def test_a_client_that_leaves_stops_its_model(served: Served) -> None:
    backend = served[1]
    begun, gone = asyncio.Event(), asyncio.Event()

    async def infer(*_: object, **__: object) -> Any:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            gone.set()

    backend.infer = infer  # type: ignore[method-assign]
    make: Any = aio_client.InferenceServerClient
    async with make(address(served)) as client, asyncio.timeout(30):
        task = asyncio.create_task(client.infer("echo", [given(Datatype.INT8)]))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await gone.wait()


@hypothesis_given(
    st.one_of(
        st.binary(max_size=60),
        st.dictionaries(
            st.sampled_from(["id", "inputs", "outputs", "parameters"]),
            st.recursive(
                st.none() | st.booleans() | st.integers() | st.text(max_size=5),
                lambda part: (
                    st.lists(part, max_size=3)
                    | st.dictionaries(
                        st.sampled_from(["name", "datatype", "shape", "data", "parameters"]), part
                    )
                ),
                max_leaves=12,
            ),
        ).map(lambda document: json.dumps(document).encode()),
    ),
    st.none() | st.integers(0, 80),
)
def test_any_body_is_read_or_refused(body: bytes, header_bytes: int | None) -> None:
    # What is refused is the caller's fault; nothing else comes out.
    with suppress(PlaneError):
        InferDocument(body, header_bytes).request("m", "")


@hypothesis_given(st.lists(st.lists(st.integers(-128, 127), min_size=2, max_size=2), max_size=4))
def test_nested_data_is_read_row_by_row(rows: list[list[int]]) -> None:
    tensor = {"name": "A", "datatype": "INT8", "shape": [len(rows), 2], "data": rows}
    request = InferDocument(json.dumps({"inputs": [tensor]}).encode(), None).request("m", "")
    expected = np.array(rows, np.int8).tobytes()
    assert list(request.raw_input_contents) == [expected]
