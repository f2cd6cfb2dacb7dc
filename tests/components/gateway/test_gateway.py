"""The gateway's own API over its doors, and who may do what."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from httpx_sse import aconnect_sse
from tests.component_suite import component_options
from tests.components.gateway.running import ALICE, BOB, Running, gateway, until
from tests.components.gateway.talker import MODELS, Talker

from protoplane.gateway.v1 import (
    EmbedRequest,
    GatewayClient,
    InferRequest,
    ListModelsRequest,
    TensorInputs,
    WhoAmIRequest,
)
from protoplane.inference.v1 import DataType, FinishReason, SamplingParameters, Tensor
from protoplane_base import Code, PlaneError
from protoplane_client import connect
from protoplane_components.gateway import Gateway, GatewaySettings
from protoplane_components.inference import Inference
from protoplane_components.orchestrator import orchestrator
from protoplane_server import Server

pytestmark = pytest.mark.anyio

DOORS = ["grpc", "http", "link"]
OPEN_DOORS = {"grpc": "127.0.0.1:0", "link": ("link+tcp://127.0.0.1:0",), "inproc": "gateway"}


def target(running: Running, door: str) -> str:
    return {
        "grpc": f"grpc://{running.server.grpc_address}",
        "http": running.url,
        "link": running.server.link_addresses[0] if running.server.link_addresses else "",
        "inproc": "inproc:gateway",
    }[door]


def keys(tmp_path: Path, **fields: object) -> Path:
    """A file with Alice's key, and Bob's with these fields."""
    lines = [f"{name} = {json.dumps(value)}" for name, value in fields.items()]
    for name, key, more in (("alice", ALICE, []), ("bob", BOB, lines)):
        lines = [*more, f'name = "{name}"', f'sha256 = "{sha256(key.encode()).hexdigest()}"']
        with (tmp_path / "keys.toml").open("a") as file:
            file.write("\n".join(["[[keys]]", *lines, ""]))
    return tmp_path / "keys.toml"


@pytest.fixture
async def everywhere(talker: Talker) -> AsyncIterator[Running]:
    """A gateway with every door."""
    async with gateway(talker, options=OPEN_DOORS) as running:
        yield running


@pytest.mark.parametrize("door", [*DOORS, "inproc"])
async def test_every_door(everywhere: Running, talker: Talker, door: str) -> None:
    async with connect(target(everywhere, door)) as plane:
        client = GatewayClient(plane)
        sampling = SamplingParameters(max_tokens=2, seed=9)
        request = InferRequest(model="parrot", text="a b c", sampling=sampling)
        answer = await client.infer(request, timeout_s=30, metadata={"x-request-id": "mine"})
        assert (answer.text, answer.model, answer.request_id) == ("a b", "parrot", "mine")
        assert answer.finish_reason == FinishReason.FINISH_REASON_LENGTH
        assert answer.usage is not None
        assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 2)
        [asked] = talker.asked
        assert (asked.prompt, asked.sampling) == ("a b c", sampling)
        assert talker.contexts[0].request_id == "mine"
        pieces = [piece async for piece in client.infer_stream(request, timeout_s=30)]
        assert [piece.text for piece in pieces] == ["a", " b", ""]
        assert [piece.model for piece in pieces] == ["parrot", "", ""]
        assert pieces[0].request_id
        vectors = await client.embed(EmbedRequest(model="vectors", texts=["a"]), timeout_s=30)
        assert vectors.embeddings[0].values == [1.0, 0.5, -0.25, 1.0]
        models = await client.list_models(ListModelsRequest(), timeout_s=30)
        assert tuple(model.name for model in models.models) == MODELS
        tensors = [
            Tensor(name=name, datatype=DataType.DATA_TYPE_INT8, shape=[1], contents=b"\x01")
            for name in ("X", "Y")
        ]
        request = InferRequest(model="parrot", tensors=TensorInputs(inputs=tensors))
        assert (await client.infer(request, timeout_s=30)).outputs == tensors
        results = [piece.outputs async for piece in client.infer_stream(request, timeout_s=30)]
        assert results == [[tensor] for tensor in tensors]


async def test_over_http_accept_chooses(opened: Running) -> None:
    async with opened.http() as http:
        body = {"model": "parrot", "text": "a b"}
        whole = await http.post("/infer", json=body, headers={"x-request-id": "mine"})
        assert whole.json()["text"] == "a b"
        assert whole.headers["x-request-id"] == "mine"
        headers = {"x-request-id": "mine-2"}
        async with aconnect_sse(http, "POST", "/infer", json=body, headers=headers) as events:
            assert events.response.headers["x-request-id"] == "mine-2"
            found = [(event.event, event.json()) async for event in events.aiter_sse()]
        assert [data.get("text") for kind, data in found if kind == "message"] == ["a", " b", None]
        assert found[-1][0] == "end"
        tensor = {
            "name": "X",
            "datatype": "DATA_TYPE_INT8",
            "shape": ["1"],
            "contents": base64.b64encode(b"\x07").decode(),
        }
        body = {"model": "parrot", "tensors": {"inputs": [tensor]}}  # type: ignore[dict-item]
        assert (await http.post("/infer", json=body)).json()["outputs"] == [tensor]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"model": "parrot"}, "no input"),
        ({"model": "parrot", "tensors": {}, "sampling": {"topK": 1}}, "sampling"),
        ({"model": "parrot", "text": "a", "tokenIds": {"ids": [1]}}, "oneof"),
    ],
)
async def test_what_is_no_request(opened: Running, body: dict[str, Any], says: str) -> None:
    async with opened.http() as http:
        answer = await http.post("/infer", json=body)
    assert answer.status_code == 400
    assert answer.json()["code"] == "invalid_argument"
    assert says in answer.json()["message"]


async def test_errors_of_the_worker_come_through(opened: Running) -> None:
    async with opened.http() as http:
        for accept in ("application/json", "text/event-stream"):
            headers = {"accept": accept, "x-request-id": "mine"}
            body = {"model": "parrot", "text": "!busy"}
            answer = await http.post("/infer", json=body, headers=headers)
            assert answer.status_code == 429
            assert answer.headers["retry-after"] == "2"
            assert answer.headers["x-request-id"] == "mine"
            body["text"] = "!fail"
            answer = await http.post("/infer", json=body, headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
        body["text"] = "a !fail"
        async with aconnect_sse(http, "POST", "/infer", json=body) as events:
            *_, last = [event async for event in events.aiter_sse()]
        assert (last.event, last.json()["code"]) == ("error", "unavailable")


async def test_failures_of_one_caller_shut_nobody_out(opened: Running) -> None:
    async with opened.http() as http:
        for text, status in (("!fail", 503), ("!crash", 500)):
            for _ in range(30):
                answer = await http.post("/infer", json={"model": "parrot", "text": text})
                assert answer.status_code == status
        answer = await http.post("/infer", json={"model": "parrot", "text": "a"})
        assert answer.status_code == 200


async def test_ids_that_headers_cannot_carry_are_made_anew(opened: Running) -> None:
    async with opened.http() as http:
        for bad in (b"a\xe4b", b"a b", b"x" * 201):
            answer = await http.post(
                "/infer", json={"model": "parrot", "text": "a"}, headers={b"x-request-id": bad}
            )
            assert len(answer.headers["x-request-id"]) == 32


@pytest.mark.parametrize("door", DOORS)
async def test_a_key_is_needed_at_every_door(talker: Talker, door: str) -> None:
    async with gateway(talker, api_keys={"alice": ALICE}, options=OPEN_DOORS) as running:
        place = target(running, door)
        request = InferRequest(model="parrot", text="a")
        for token in (None, "sk-wrong-0123456789"):
            async with connect(place, token=token) as plane:
                with pytest.raises(PlaneError) as caught:
                    await GatewayClient(plane).infer(request, timeout_s=30)
                assert caught.value.code is Code.UNAUTHENTICATED
        assert talker.asked == []
        async with connect(place, token=ALICE) as plane:
            client = GatewayClient(plane)
            assert (await client.infer(request, timeout_s=30)).text == "a"
            assert (await client.who_am_i(WhoAmIRequest(), timeout_s=30)).name == "alice"
        async with connect("inproc:gateway") as plane:
            who = await GatewayClient(plane).who_am_i(WhoAmIRequest(), timeout_s=30)
            assert who.name == "inproc"


async def test_health_and_other_services_of_the_server(talker: Talker) -> None:
    async with gateway(talker, api_keys={"alice": ALICE}) as running, running.http() as http:
        assert (await http.get("/healthz")).status_code == 200
        assert (await http.get("/readyz")).status_code == 200
        assert (await http.get("/models")).status_code == 401
        assert (await http.get("/events/**")).status_code == 401
        document = (await http.get("/openapi.json")).json()
        content = document["paths"]["/infer"]["post"]["responses"]["200"]["content"]
        assert content.keys() == {"application/json", "text/event-stream"}


async def test_models_of_a_key(talker: Talker, tmp_path: Path) -> None:
    file = keys(tmp_path, models=["parrot/*", "vectors"])
    async with gateway(talker, key_file=file) as running, running.http(BOB) as http:
        assert [each["id"] for each in (await http.get("/v1/models")).json()["data"]] == [
            "parrot/large",
            "vectors",
        ]
        assert (await http.get("/v1/models/parrot")).status_code == 404
        answer = await http.post("/infer", json={"model": "parrot/large", "text": "a"})
        assert answer.status_code == 200
        answer = await http.post("/infer", json={"model": "parrot", "text": "a"})
        assert answer.status_code == 404
        assert "do not have access" in answer.json()["message"]
        answer = await http.post("/infer", json={"text": "a"})
        assert answer.status_code == 400
        assert "name one" in answer.json()["message"]
        assert len(talker.asked) == 1
        assert (await http.get("/whoami")).json()["models"] == ["parrot/*", "vectors"]


async def test_a_key_that_has_expired(talker: Talker, tmp_path: Path) -> None:
    file = keys(tmp_path, expires="2020-01-01T00:00:00Z")
    async with gateway(talker, key_file=file) as running, running.http(BOB) as http:
        answer = await http.get("/models")
        assert answer.status_code == 401
        assert "expired" in answer.json()["message"]


async def test_keys_that_come_and_go(talker: Talker, tmp_path: Path) -> None:
    file = keys(tmp_path)
    async with (
        gateway(talker, key_file=file, options=OPEN_DOORS) as running,
        connect(target(running, "link"), token=BOB) as plane,
        running.http(ALICE) as alice,
        running.http(BOB) as bob,
    ):
        client = GatewayClient(plane)
        await client.who_am_i(WhoAmIRequest(), timeout_s=30)
        whole = file.read_text()
        file.write_text("this is no TOML")
        assert (await alice.get("/models")).status_code == 200
        file.write_text(whole.replace('"bob"', '"carol"'))

        async def renamed() -> bool:
            assert (await alice.get("/models")).status_code == 200
            return bool((await bob.get("/whoami")).json()["name"] == "carol")

        await until(renamed)
        # The link was opened with Bob's key, and is open still.
        with pytest.raises(PlaneError, match="taken back") as caught:
            await client.who_am_i(WhoAmIRequest(), timeout_s=30)
        assert caught.value.code is Code.UNAUTHENTICATED


async def test_requests_of_a_key_are_limited(talker: Talker, tmp_path: Path) -> None:
    file = keys(tmp_path, requests="2/hour")
    async with gateway(talker, key_file=file) as running:
        async with running.http(BOB) as http:
            body = {"model": "parrot", "text": "a"}
            left: list[str] = []
            for _ in range(2):
                answer = await http.post("/infer", json=body)
                assert answer.status_code == 200
                left.append(answer.headers["x-ratelimit-remaining-requests"])
            assert left == ["1", "0"]
            answer = await http.post("/infer", json=body)
            assert answer.status_code == 429
            assert 3590 <= int(answer.headers["retry-after"]) <= 3600
            assert answer.headers["x-ratelimit-reset-requests"].startswith(("59m", "1h"))
            allowance = (await http.get("/whoami")).json()["requests"]
            assert allowance["limit"] == "2 per 1 hour"
            assert "remaining" not in allowance
            # Looking is free.
            assert (await http.get("/models")).status_code == 200
        async with running.http(ALICE) as http:
            answer = await http.post("/infer", json=body)
            assert answer.status_code == 200
            assert "x-ratelimit-limit-requests" not in answer.headers


@pytest.mark.parametrize("door", DOORS)
async def test_a_limit_holds_over_all_doors(talker: Talker, tmp_path: Path, door: str) -> None:
    file = keys(tmp_path, requests="1/hour")
    async with gateway(talker, key_file=file, options=OPEN_DOORS) as running:
        async with running.http(BOB) as http:
            assert (await http.post("/embed", json={"model": "vectors"})).status_code == 200
        async with connect(target(running, door), token=BOB) as plane:
            with pytest.raises(PlaneError) as caught:
                await GatewayClient(plane).infer(InferRequest(model="parrot", text="a"))
        assert caught.value.code is Code.RESOURCE_EXHAUSTED
        assert "1/hour" in caught.value.message
        retry, info = caught.value.details
        assert isinstance(retry, RetryInfo)
        assert retry.retry_delay.seconds > 3500
        assert isinstance(info, ErrorInfo)
        assert (info.reason, info.metadata["limit"]) == ("RATE_LIMIT_EXCEEDED", "requests")


async def test_tokens_of_a_key_are_limited(talker: Talker, tmp_path: Path) -> None:
    file = keys(tmp_path, tokens="10/hour")
    async with gateway(talker, key_file=file) as running, running.http(BOB) as http:
        body = {"model": "parrot", "text": "a b c d"}
        answer = await http.post("/infer", json=body)
        assert answer.headers["x-ratelimit-remaining-tokens"] == "10"
        body["text"] = "a b"
        assert (await http.post("/infer", json=body)).headers["x-ratelimit-remaining-tokens"] == "2"
        answer = await http.post(
            "/v1/completions", json={"model": "parrot", "prompt": "a", "max_tokens": 1}
        )
        assert answer.status_code == 429
        error = answer.json()["error"]
        assert (error["type"], error["code"]) == ("tokens", "rate_limit_exceeded")
        assert len(talker.asked) == 2


async def test_a_request_that_is_given_up_costs_what_was_written(
    talker: Talker, tmp_path: Path
) -> None:
    file = keys(tmp_path, tokens="100/hour")
    async with gateway(talker, key_file=file) as running, running.http(BOB) as http:
        body = {"model": "parrot", "text": "aa bb !hang cc dd"}
        async with aconnect_sse(http, "POST", "/infer", json=body) as events:
            texts = events.aiter_sse()
            assert [(await anext(texts)).json()["text"] for _ in range(2)] == ["aa", " bb"]
        await talker.until(hanging=0, cancelled=1)

        async def left() -> str:
            return str((await http.get("/whoami")).json()["tokens"]["remaining"])

        async def counted() -> bool:
            return await left() != "100"

        await until(counted)
        # Two were written, and a prompt of 17 characters was read.
        assert await left() == "93"


async def test_requests_at_a_time(talker: Talker, tmp_path: Path) -> None:
    file = keys(tmp_path, concurrent=1)
    async with (
        gateway(talker, key_file=file, max_concurrent=2) as running,
        running.http(BOB) as bob,
        running.http(ALICE) as alice,
    ):
        hang = {"model": "parrot", "text": "!hang"}
        quick = {"model": "parrot", "text": "a"}
        waiting = [asyncio.create_task(bob.post("/infer", json=hang))]
        await talker.until(hanging=1, cancelled=0)
        refused = await bob.post("/infer", json=quick)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert "1 requests of yours" in refused.json()["message"]
        assert (await alice.post("/infer", json=quick)).status_code == 200
        waiting.append(asyncio.create_task(alice.post("/infer", json=hang)))
        await talker.until(hanging=2, cancelled=0)
        refused = await alice.post("/infer", json=quick)
        assert refused.status_code == 429
        assert "the gateway has 2" in refused.json()["message"]
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)
        await talker.until(hanging=0, cancelled=2)

        async def again() -> bool:
            return (await bob.post("/infer", json=quick)).status_code == 200

        await until(again)


async def test_priorities_are_bounded_by_the_key(talker: Talker, tmp_path: Path) -> None:
    file = keys(tmp_path, max_priority=3)
    async with gateway(talker, key_file=file) as running:
        for key, asked, given in ((ALICE, 5, 0), (ALICE, -5, -5), (BOB, 2, 2), (BOB, 5, 3)):
            async with running.http(key) as http:
                body = {"model": "parrot", "text": "a", "priority": asked}
                assert (await http.post("/infer", json=body)).status_code == 200
            assert talker.asked[-1].priority == given


async def test_anybody_is_limited_by_where_they_call_from(talker: Talker) -> None:
    async with gateway(talker, requests="1/hour", options=OPEN_DOORS) as running:
        for status in (200, 429):
            # Each from a port of its own.
            async with running.http() as http:
                answer = await http.post("/infer", json={"model": "parrot", "text": "a"})
                assert answer.status_code == status
        for door in ("grpc", "link"):
            async with connect(target(running, door)) as plane:
                with pytest.raises(PlaneError) as caught:
                    await GatewayClient(plane).infer(InferRequest(model="parrot", text="a"))
                assert caught.value.code is Code.RESOURCE_EXHAUSTED


async def test_metrics(talker: Talker) -> None:
    async with (
        gateway(talker, api_keys={"alice": ALICE}) as running,
        running.http(ALICE) as http,
    ):
        await http.post("/infer", json={"model": "parrot", "text": "a b"})
        await http.post("/infer", json={"model": "cat", "text": "a b"})
        await http.get("/models", headers={"authorization": "Bearer no"})
        text = (await http.get("/metrics")).text
    requests = 'protoplane_gateway_requests_total{code="%s",key="%s",method="%s",model="%s"} 1.0'
    assert requests % ("OK", "alice", "Infer", "parrot") in text
    assert requests % ("NOT_FOUND", "alice", "Infer", "other") in text
    assert requests % ("UNAUTHENTICATED", "", "", "") in text
    tokens = 'protoplane_gateway_tokens_total{key="alice",kind="%s",model="parrot"} 2.0'
    assert tokens % "prompt" in text
    assert tokens % "completion" in text
    assert 'protoplane_gateway_first_token_seconds_count{model="parrot"} 1.0' in text


async def test_an_upstream_that_is_not_there(caplog: pytest.LogCaptureFixture) -> None:
    async with gateway("link+tcp://127.0.0.1:1") as running, running.http() as http:
        answer = await http.get("/v1/models", timeout=60)
        assert answer.status_code == 503
        error = answer.json()["error"]
        assert error["code"] == "unavailable"
        # Where that would be is nobody's business.
        assert error["message"] == "what answers behind this gateway is away; ask again"
    assert "127.0.0.1:1" in caplog.text


@pytest.mark.parametrize("upstream", ["protoplane/inference", "protoplane/orchestrator"])
async def test_by_name_before_a_worker_or_the_orchestrator(upstream: str, tmp_path: Path) -> None:
    options = component_options(
        http="127.0.0.1:0",
        link=("link+tcp://127.0.0.1:0",),
        engine=f"local:{tmp_path}",
    )
    made = Gateway(GatewaySettings(upstream=upstream))
    async with (
        Server(Inference("embedded:"), options),
        Server(orchestrator, options),
        Server(made, options) as server,
        httpx.AsyncClient(base_url=str(server.http_url), timeout=60) as http,
    ):
        body = {
            "model": "char-gru",
            "messages": [{"role": "user", "content": "The "}],
            "max_tokens": 3,
            "seed": 1,
        }
        answer = (await http.post("/v1/chat/completions", json=body)).json()
        assert len(answer["choices"][0]["message"]["content"]) == 3
        texts = {"model": "lexical", "input": "a plane"}
        vectors = (await http.post("/v1/embeddings", json=texts)).json()
        assert len(vectors["data"][0]["embedding"]) == 256


async def test_it_needs_a_server() -> None:
    with pytest.raises(PlaneError, match="give it to one"):
        async with Gateway(GatewaySettings()):
            pass
