"""Unary calls of the Connect protocol, as any HTTP client makes them."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import shutil
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from google.rpc import error_details_pb2
from tests.server.http.board import NAME, running

from forge.captioner.v1 import CaptionChunk, CaptionRequest, CollectResponse

pytestmark = pytest.mark.anyio
SAY = f"/{NAME}/Say"
JSON = {"content-type": "application/json"}


async def test_json_and_protobuf_give_the_same_answer() -> None:
    async with running() as run, httpx.AsyncClient(base_url=run.url) as http:
        answer = await http.post(SAY, json={"prompt": "hi", "maxWords": 3})
        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
        assert answer.json() == {"text": "hi", "chunks": 3}
        answer = await http.post(
            SAY,
            content=CaptionRequest(prompt="hi", max_words=3).to_bytes(),
            headers={"content-type": "application/proto", "connect-protocol-version": "1"},
        )
        assert answer.headers["content-type"] == "application/proto"
        assert CollectResponse.from_bytes(answer.content) == CollectResponse(text="hi", chunks=3)


async def test_content_type_may_have_parameters_and_any_case() -> None:
    async with running() as run, httpx.AsyncClient(base_url=run.url) as http:
        headers = {"content-type": "Application/JSON; charset=utf-8"}
        assert (await http.post(SAY, content="{}", headers=headers)).status_code == 200


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl on this machine")
async def test_plain_curl_works() -> None:
    async with running() as run:
        curl = await asyncio.create_subprocess_exec(
            "curl", "-s", "-d", '{"prompt":"a cat"}', "-H", "content-type: application/json",
            run.url + SAY, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, _ = await curl.communicate()
        assert json.loads(out) == {"text": "a cat"}


@pytest.mark.parametrize("form", ["json", "proto", "base64", "gzip"])
async def test_get_without_side_effects(form: str) -> None:
    request = CaptionRequest(prompt="hi & bye", max_words=2)
    text = request.model_dump_json().encode()
    query = {
        "json": f"encoding=json&message={quote(text)}",
        "proto": "encoding=proto&base64=1&connect=v1&message="
        + base64.urlsafe_b64encode(request.to_bytes()).decode().rstrip("="),
        "base64": f"encoding=json&base64=1&message={base64.urlsafe_b64encode(text).decode()}",
        "gzip": "encoding=json&base64=1&compression=gzip&message="
        + base64.urlsafe_b64encode(gzip.compress(text)).decode(),
    }[form]
    async with running() as run, httpx.AsyncClient(base_url=run.url) as http:
        answer = await http.get(f"{SAY}?{query}")
        assert answer.status_code == 200, answer.text
        if form == "proto":
            assert CollectResponse.from_bytes(answer.content).chunks == 2
        else:
            assert answer.json() == {"text": "hi & bye", "chunks": 2}
        refused = await http.get(f"/{NAME}/Write?{query}")
        assert (refused.status_code, refused.headers["allow"]) == (405, "POST")
        assert (await http.get(SAY)).json()["code"] == "invalid_argument"
        assert (await http.get(f"{SAY}?message=%25&base64=1")).status_code == 400


async def test_gzip_both_ways() -> None:
    async with running() as run, httpx.AsyncClient(base_url=run.url) as http:
        body = gzip.compress(b'{"prompt":"big","maxWords":5000}')
        answer = await http.post(SAY, content=body, headers=JSON | {"content-encoding": "gzip"})
        assert answer.headers["content-encoding"] == "gzip"
        assert answer.json()["text"] == "x" * 5000
        assert int(answer.headers["content-length"]) < 500
        answer = await http.post(SAY, content="{}", headers=JSON | {"content-encoding": "br"})
        assert answer.json()["code"] == "unimplemented"
        answer = await http.post(SAY, content="{}", headers=JSON | {"content-encoding": "gzip"})
        assert answer.json()["code"] == "invalid_argument"
        bomb = gzip.compress(b" " * 5_000_000 + b"{}")
        answer = await http.post(SAY, content=bomb, headers=JSON | {"content-encoding": "gzip"})
        assert answer.json()["code"] == "resource_exhausted"


async def test_errors_carry_code_message_and_details() -> None:
    async with running() as run, httpx.AsyncClient(base_url=run.url) as http:
        answer = await http.post(SAY, json={"prompt": "fail"})
        assert answer.status_code == 400
        assert answer.headers["content-type"] == "application/json"
        error = answer.json()
        assert error["code"] == "failed_precondition"
        assert error["message"] == "told to fail: ünlucky"
        (detail,) = error["details"]
        assert detail["type"] == "forge.captioner.v1.CaptionChunk"
        packed = base64.b64decode(detail["value"] + "==")
        assert CaptionChunk.from_bytes(packed) == CaptionChunk(text="why")
        assert detail["debug"] == {"text": "why"}
        crash = await http.post(SAY, json={"prompt": "crash"})
        assert (crash.status_code, crash.json()["code"]) == (500, "internal")
        assert "told to crash" not in crash.text


async def test_wrong_type_names_the_field() -> None:
    async with running() as run, httpx.AsyncClient(base_url=run.url) as http:
        answer = await http.post(SAY, json={"prompt": 7, "maxWords": "many"})
        assert answer.status_code == 400
        (detail,) = answer.json()["details"]
        assert detail["type"] == "google.rpc.BadRequest"
        bad = error_details_pb2.BadRequest.FromString(base64.b64decode(detail["value"] + "=="))
        assert {fault.field for fault in bad.field_violations} == {"prompt", "maxWords"}
        for body in (b"{", b"", b"[]", b"\xff", b'{"nothing":1}'):
            answer = await http.post(SAY, content=body, headers=JSON)
            assert (answer.status_code, answer.json()["code"]) == (400, "invalid_argument"), body
        proto = {"content-type": "application/proto"}
        answer = await http.post(SAY, content=b"\xff\xff", headers=proto)
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_argument")


@pytest.mark.parametrize(
    ("verb", "path", "headers", "status", "says"),
    [
        ("POST", f"/{NAME}/Nothing", JSON, 404, "has no method"),
        ("POST", "/no.such.Service/Nothing", JSON, 404, "nothing is served"),
        ("POST", SAY, {"content-type": "application/x-www-form-urlencoded"}, 415, "json"),
        ("POST", SAY, {"content-type": "application/connect+json"}, 415, "application/json"),
        ("POST", f"/{NAME}/Tell", JSON, 415, "text/event-stream"),
        ("DELETE", SAY, {}, 405, "POST"),
        ("POST", SAY, JSON | {"connect-protocol-version": "2"}, 400, "only 1"),
        ("POST", SAY, JSON | {"connect-timeout-ms": "soon"}, 400, "whole number"),
    ],
)
async def test_what_is_not_served_is_said(
    verb: str, path: str, headers: dict[str, str], status: int, says: str
) -> None:
    async with running() as run, httpx.AsyncClient(base_url=run.url) as http:
        answer = await http.request(verb, path, content="{}", headers=headers)
        assert answer.status_code == status, answer.text
        assert says in answer.json()["message"]


async def test_metadata_and_trailers() -> None:
    async with running() as run, httpx.AsyncClient(base_url=run.url) as http:
        answer = await http.post(
            SAY,
            json={"prompt": "trailer"},
            headers=[("x-a", "1"), ("x-a", "2"), ("raw-bin", "AP8"), ("x-request-id", "r1")],
        )
        assert run.board.metadata["x-a"] == "1, 2"
        assert run.board.metadata["raw-bin"] == b"\x00\xff"
        assert not {"host", "content-type", "content-length"} & set(run.board.metadata)
        assert answer.headers["trailer-mood"] == "fine"
        assert answer.headers["trailer-raw-bin"] == "AP8"


async def test_deadline() -> None:
    async with running() as run, httpx.AsyncClient(base_url=run.url) as http:
        answer = await http.post(SAY, json={"prompt": "wait"}, headers={"connect-timeout-ms": "50"})
        assert (answer.status_code, answer.json()["code"]) == (504, "deadline_exceeded")
        assert run.board.cancelled == 1


async def test_one_hundred_clients_that_leave_cancel_one_hundred_handlers() -> None:
    async with running() as run:
        body = b'{"prompt":"wait"}'
        request = (
            f"POST {SAY} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\n\r\n"
        ).encode() + body
        writers: list[Any] = []
        for _ in range(100):
            _, writer = await run.connect()
            writer.write(request)
            writers.append(writer)
        await run.until_open(100)
        for writer in writers:
            writer.transport.abort()
        await asyncio.sleep(0.1)
        assert run.board.cancelled == 100
        assert run.dispatcher.open_calls == 0
