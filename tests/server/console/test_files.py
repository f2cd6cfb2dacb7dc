"""What the console's paths answer, without a browser."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from tests.component_suite import component_options
from tests.parts import Parts

from protoplane_server import Server

pytestmark = pytest.mark.anyio


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    options = component_options(http=0, engine="memory:", name="forge/parts/one")
    async with (
        Server(Parts(), options) as server,
        httpx.AsyncClient(base_url=str(server.http_url)) as client,
    ):
        yield client


async def test_the_page_lets_nothing_in_from_elsewhere(http: httpx.AsyncClient) -> None:
    answer = await http.get("/console")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = answer.headers["content-security-policy"].split("; ")
    assert "default-src 'none'" in policy
    assert "script-src 'self'" in policy
    assert "connect-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "<script>" not in answer.text
    assert "style=" not in answer.text


async def test_a_file_is_sent_once(http: httpx.AsyncClient) -> None:
    first = await http.get("/console/app.js", headers={"accept-encoding": "identity"})
    assert first.headers["content-type"] == "text/javascript; charset=utf-8"
    etag = first.headers["etag"]
    for known in (etag, f'"other", {etag}', "*"):
        again = await http.get("/console/app.js", headers={"if-none-match": known})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == etag
    changed = await http.get("/console/app.js", headers={"if-none-match": 'W/"other"'})
    assert changed.content == first.content
    head = await http.head("/console/app.js", headers={"accept-encoding": "identity"})
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(first.content))


async def test_a_file_is_packed_for_who_takes_that(http: httpx.AsyncClient) -> None:
    plain = await http.get("/console/app.js", headers={"accept-encoding": "identity"})
    assert "content-encoding" not in plain.headers
    headers = {"accept-encoding": "gzip"}
    async with http.stream("GET", "/console/app.js", headers=headers) as packed:
        assert packed.headers["content-encoding"] == "gzip"
        data = b"".join([part async for part in packed.aiter_raw()])
    assert len(data) < len(plain.content) / 2
    assert gzip.decompress(data) == plain.content


@pytest.mark.parametrize("name", ["nothing.js", "../door.py", "%2e%2e/door.py", "__init__.py"])
async def test_there_is_nothing_but_its_files(name: str, http: httpx.AsyncClient) -> None:
    answer = await http.get(f"/console/{name}")
    assert answer.status_code == 404


async def test_it_is_only_read(http: httpx.AsyncClient) -> None:
    answer = await http.post("/console", content=b"x")
    assert answer.status_code == 405
    assert answer.headers["allow"] == "GET, HEAD"
    moved = await http.get("/console/")
    assert (moved.status_code, moved.headers["location"]) == (308, "../console")


async def test_it_describes_every_method(http: httpx.AsyncClient) -> None:
    document = (await http.get("/console/api.json")).json()
    assert document["instance"]["name"] == "forge/parts/one"
    assert document["instance"]["watches"] is True
    assert document["instance"]["guarded"] is False
    services = {service["name"]: service for service in document["services"]}
    captioner = services["forge.captioner.v1.CaptionerService"]
    methods = {method["name"]: method for method in captioner["methods"]}
    assert methods["Caption"]["kind"] == "server_stream"
    assert methods["Caption"]["request"] == "forge.captioner.v1.CaptionRequest"
    assert methods["ListStyles"]["routes"] == [{"verb": "GET", "path": "/v1/styles"}]
    assert captioner["events"][0]["key"] == "forge/captions/{request_id}"
    assert "protoplane.v1.Metrics" in services
    for service in services.values():
        for method in service["methods"]:
            assert method["request"] in document["schemas"]


async def test_messages_without_documents_have_schemas_too() -> None:
    from protoplane_components.inference import Inference

    options = component_options(http=0)
    async with (
        Server(Inference("embedded:"), options) as server,
        httpx.AsyncClient(base_url=str(server.http_url)) as http,
    ):
        schemas: dict[str, Any] = (await http.get("/console/api.json")).json()["schemas"]
    request = schemas["inference.ModelInferRequest"]["properties"]
    assert request["modelName"] == {"type": "string"}
    assert request["rawInputContents"]["items"]["contentEncoding"] == "base64"
    parameters = request["parameters"]["additionalProperties"]
    parameter = schemas[parameters["$ref"].rpartition("/")[2]]
    assert parameter["allOf"][0]["oneOf"][0] == {"required": ["boolParam"]}


async def test_who_is_there_is_told_as_it_changes(http: httpx.AsyncClient) -> None:
    async with asyncio.timeout(30), http.stream("GET", "/console/instances") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = answer.aiter_lines()
        first = await anext(lines)
    [change] = json.loads(first.removeprefix("data: "))["changes"]
    assert change["kind"] == "INSTANCE_CHANGE_KIND_JOINED"
    assert change["instance"]["name"] == "forge/parts/one"
    assert "console" in change["instance"]["protocols"]


async def test_without_an_engine_nobody_is_watched() -> None:
    async with (
        Server(Parts(), component_options(http=0)) as server,
        httpx.AsyncClient(base_url=str(server.http_url)) as http,
    ):
        assert (await http.get("/console/api.json")).json()["instance"]["watches"] is False
        answer = await http.get("/console/instances")
    assert answer.status_code == 400
    assert answer.json()["code"] == "failed_precondition"
    assert "has no engine" in answer.json()["message"]


async def test_who_is_there_is_told_to_who_may_call() -> None:
    options = component_options(http=0, engine="memory:", tokens={"open-sesame": "alibaba"})
    async with (
        Server(Parts(), options) as server,
        httpx.AsyncClient(base_url=str(server.http_url)) as http,
    ):
        assert (await http.get("/console")).status_code == 200
        assert (await http.get("/console/api.json")).json()["instance"]["guarded"] is True
        assert (await http.get("/console/instances")).status_code == 401
        headers = {"authorization": "Bearer open-sesame"}
        async with http.stream("GET", "/console/instances", headers=headers) as answer:
            assert answer.status_code == 200


async def test_a_server_stops_while_somebody_watches() -> None:
    server = Server(Parts(), component_options(http=0, engine="memory:"))
    await server.start()
    try:
        async with (
            asyncio.timeout(30),
            httpx.AsyncClient(base_url=str(server.http_url)) as http,
            http.stream("GET", "/console/instances") as answer,
        ):
            lines = answer.aiter_lines()
            await anext(lines)
            stopping = asyncio.create_task(server.stop())
            left = [line async for line in lines]
            await stopping
        assert any(line.startswith("retry: ") for line in left)
    finally:
        await server.stop()


async def test_it_can_be_off() -> None:
    options = component_options(http=0, engine="memory:", console=False)
    async with (
        Server(Parts(), options) as server,
        httpx.AsyncClient(base_url=str(server.http_url)) as http,
    ):
        for path in ("/console", "/console/app.js", "/console/instances"):
            assert (await http.get(path)).status_code == 404
