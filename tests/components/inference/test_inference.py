"""The inference component over its doors, with the models that ship with Protoplane."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import httpx
import numpy as np
import pytest
from tests.component_suite import component_options

from protoplane.inference.v1 import (
    Capability,
    DataType,
    EmbedRequest,
    FinishReason,
    GenerateRequest,
    GenerateResponse,
    InferenceClient,
    InferRequest,
    ListModelsRequest,
    ModelState,
    ModelStatusRequest,
    RequestPhase,
    RequestProgress,
    SamplingParameters,
    Tensor,
)
from protoplane_base import Code, PlaneError
from protoplane_client import connect
from protoplane_components.inference import Inference
from protoplane_server import Server
from protoplane_server.backends.tensors import Datatype
from protoplane_server.backends.tensors import Tensor as Values

pytestmark = pytest.mark.anyio
DOORS = ["grpc", "http", "link", "inproc"]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    options = component_options(
        grpc="127.0.0.1:0",
        http="127.0.0.1:0",
        link=("link+tcp://127.0.0.1:0",),
        inproc="inference",
        engine="memory:",
        name="protoplane/inference/one",
    )
    async with Server(Inference("embedded:"), options) as server:
        yield server


def target(server: Server, door: str) -> str:
    return {
        "grpc": f"grpc://{server.grpc_address}",
        "http": str(server.http_url),
        "link": server.link_addresses[0],
        "inproc": "inproc:inference",
    }[door]


@pytest.fixture(params=DOORS)
async def client(server: Server, request: pytest.FixtureRequest) -> AsyncIterator[InferenceClient]:
    async with connect(target(server, request.param)) as plane:
        yield InferenceClient(plane)


def asked(**sampling: Any) -> GenerateRequest:
    return GenerateRequest(prompt="The ", sampling=SamplingParameters(**sampling))


async def test_generate(client: InferenceClient) -> None:
    request = asked(seed=4, max_tokens=20, temperature=0.8)
    answers = [answer async for answer in client.generate(request, timeout_s=30)]
    assert [answer.index for answer in answers] == list(range(len(answers)))
    assert answers[0].model == "char-gru"
    *begun, last = answers
    assert all(answer.finish_reason == FinishReason.FINISH_REASON_UNSPECIFIED for answer in begun)
    assert last.finish_reason in (
        FinishReason.FINISH_REASON_LENGTH,
        FinishReason.FINISH_REASON_STOP,
    )
    assert last.usage is not None
    assert last.usage.prompt_tokens == 4
    again = [answer async for answer in client.generate(request, timeout_s=30)]
    assert again == answers


async def test_embed(client: InferenceClient) -> None:
    answer = await client.embed(EmbedRequest(texts=["a plane", "a plane"]), timeout_s=30)
    assert answer.model == "lexical"
    first, second = (np.array(each.values) for each in answer.embeddings)
    assert first @ second == pytest.approx(1)


async def test_infer(client: InferenceClient) -> None:
    contents = Values.of("TEXT", ["a plane", "another"]).pack()
    tensor = Tensor(name="TEXT", datatype=DataType.DATA_TYPE_BYTES, shape=[2], contents=contents)
    answer = await client.infer(InferRequest(model="lexical", inputs=[tensor]), timeout_s=30)
    [output] = answer.outputs
    assert (output.name, output.shape) == ("EMBEDDING", [2, 256])
    vectors = Values.unpack("", Datatype.FP32, output.shape, output.contents)
    np.testing.assert_allclose(np.linalg.norm(vectors.data, axis=1), 1, rtol=1e-5)


async def test_infer_stream(client: InferenceClient) -> None:
    inputs = [
        Tensor(
            name="PROMPT",
            datatype=DataType.DATA_TYPE_BYTES,
            shape=[1],
            contents=Values.of("", ["The "]).pack(),
        ),
        Tensor(
            name="MAX_TOKENS",
            datatype=DataType.DATA_TYPE_INT32,
            shape=[1],
            contents=b"\x06\0\0\0",
        ),
    ]
    request = InferRequest(model="char-gru", inputs=inputs)
    answers = [answer async for answer in client.infer_stream(request, timeout_s=30)]
    assert 0 < len(answers) <= 6
    assert {answer.outputs[0].name for answer in answers} == {"TEXT"}


async def test_models(client: InferenceClient) -> None:
    models = (await client.list_models(ListModelsRequest(ready=True), timeout_s=30)).models
    assert [model.name for model in models] == ["char-gru", "lexical"]
    status = await client.model_status(ModelStatusRequest(model="lexical"), timeout_s=30)
    assert status.model is not None
    assert status.model.state == ModelState.MODEL_STATE_LOADED
    assert status.model.capabilities == [
        Capability.CAPABILITY_EMBED,
        Capability.CAPABILITY_INFER,
    ]
    assert [spec.name for spec in status.model.inputs] == ["TEXT"]
    assert status.stats is not None
    with pytest.raises(PlaneError) as caught:
        await client.model_status(ModelStatusRequest(model="nobody"), timeout_s=30)
    assert caught.value.code is Code.NOT_FOUND


@pytest.mark.parametrize(
    ("tensor", "told"),
    [
        (Tensor(name="TEXT", shape=[1]), ["TEXT", "DATA_TYPE_UNSPECIFIED", "expected"]),
        (
            Tensor(name="WORDS", datatype=DataType.DATA_TYPE_BYTES, shape=[0]),
            ["WORDS", "expected TEXT"],
        ),
        (
            Tensor(name="TEXT", datatype=DataType.DATA_TYPE_INT8, shape=[1], contents=b"a"),
            ["TEXT", "expected BYTES", "got INT8"],
        ),
        (
            Tensor(name="TEXT", datatype=DataType.DATA_TYPE_BYTES, shape=[0, 0]),
            ["TEXT", "expected the shape [-1]", "got [0, 0]"],
        ),
        (
            Tensor(name="TEXT", datatype=DataType.DATA_TYPE_BYTES, shape=[7], contents=b"a"),
            ["TEXT", "expected 7 byte strings"],
        ),
    ],
)
async def test_tensors_that_the_model_does_not_take(
    server: Server, tensor: Tensor, told: list[str]
) -> None:
    async with connect(target(server, "inproc")) as plane:
        request = InferRequest(model="lexical", inputs=[tensor])
        with pytest.raises(PlaneError) as caught:
            await InferenceClient(plane).infer(request, timeout_s=30)
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert [word for word in told if word not in caught.value.message] == []


async def test_a_request_without_a_prompt_or_a_model(server: Server) -> None:
    async with connect(target(server, "inproc")) as plane:
        client = InferenceClient(plane)
        with pytest.raises(PlaneError, match="give one of prompt") as caught:
            _ = [answer async for answer in client.generate(GenerateRequest())]
        assert caught.value.code is Code.INVALID_ARGUMENT
        with pytest.raises(PlaneError, match="model is empty"):
            await client.infer(InferRequest())


async def test_by_curl(server: Server) -> None:
    async with httpx.AsyncClient(base_url=str(server.http_url), timeout=30) as http:
        answer = await http.get("/inference/v1/models")
        assert [model["name"] for model in answer.json()["models"]] == ["char-gru", "lexical"]
        body = {"prompt": "The ", "sampling": {"maxTokens": 3, "seed": "1"}}
        answer = await http.post("/inference/v1/models/char-gru:generate", json=body)
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = [line for line in answer.text.splitlines() if line.startswith("data: ")]
        first: dict[str, Any] = json.loads(events[0].removeprefix("data: "))
        assert first["model"] == "char-gru"
        answer = await http.post("/inference/v1/models/nobody:generate", json=body)
        assert answer.status_code == 404
        answer = await http.post("/inference/v1/models/lexical:embed", json={"texts": ["a"]})
        assert len(answer.json()["embeddings"][0]["values"]) == 256
        metrics = (await http.get("/metrics")).text
        assert "# TYPE protoplane_batch_items histogram" in metrics


async def test_progress_is_published_for_those_who_ask(server: Server) -> None:
    async with connect(target(server, "inproc")) as plane:
        client = InferenceClient(plane)
        events = server.events.read(["protoplane/inference/requests/*"])
        for progress in (False, True):
            request = asked(max_tokens=3, seed=1)
            request.progress = progress
            metadata = {"x-request-id": f"call-{progress}"}
            _ = [answer async for answer in client.generate(request, metadata=metadata)]
        phases: list[tuple[str, RequestPhase]] = []
        async with asyncio.timeout(20):
            while not phases or phases[-1][1] != RequestPhase.REQUEST_PHASE_FINISHED:
                for event in await anext(events):
                    told = RequestProgress.from_bytes(getattr(event, "data", b""))
                    phases.append((told.request_id, RequestPhase(told.phase)))
    assert phases == [
        ("call-True", RequestPhase.REQUEST_PHASE_STARTED),
        ("call-True", RequestPhase.REQUEST_PHASE_GENERATING),
        ("call-True", RequestPhase.REQUEST_PHASE_FINISHED),
    ]


async def test_progress_of_a_stream_that_its_caller_left(server: Server) -> None:
    async with connect(target(server, "inproc")) as plane:
        events = server.events.read(["protoplane/inference/requests/*"])
        request = asked(max_tokens=4000, temperature=3.0)
        request.progress = True
        answers: Any = InferenceClient(plane).generate(request)
        async with aclosing(answers):
            await anext(answers)
        phase = RequestPhase.REQUEST_PHASE_UNSPECIFIED
        async with asyncio.timeout(20):
            while phase != RequestPhase.REQUEST_PHASE_CANCELLED:
                for event in await anext(events):
                    told = RequestProgress.from_bytes(getattr(event, "data", b""))
                    phase = RequestPhase(told.phase)


@pytest.mark.parametrize("door", ["grpc", "link"])
async def test_a_thousand_streams_that_their_callers_left(server: Server, door: str) -> None:
    async with connect(target(server, door)) as plane:
        client = InferenceClient(plane)

        async def leave() -> None:
            answers: Any = client.generate(asked(max_tokens=4000, temperature=0.0))
            await anext(answers)
            await answers.aclose()

        for _ in range(10):
            async with asyncio.timeout(60):
                await asyncio.gather(*(leave() for _ in range(100)))
        async with asyncio.timeout(30):
            while server.dispatcher.open_calls:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            while True:
                status = await client.model_status(ModelStatusRequest(model="char-gru"))
                assert status.stats is not None
                if status.stats.in_flight == 0:
                    break
                await asyncio.sleep(0.01)
        assert status.stats.cancelled == 1000


def test_answers_have_the_form_that_the_docs_show() -> None:
    answer = GenerateResponse(text="a", index=0, model="char-gru", token_ids=[67])
    assert json.loads(answer.model_dump_json()) == {
        "text": "a",
        "tokenIds": [67],
        "model": "char-gru",
    }
