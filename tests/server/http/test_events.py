"""Server-sent events: an rpc's own stream, and the event plane."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from tests.server.http.board import NAME, running

from forge.captioner.v1 import CaptionFinished
from protoplane_runtime.engines.interface import Event, EventId, Gap
from protoplane_server.http.event_encoding import Encode, cloud_events, encoded, plain

pytestmark = pytest.mark.anyio
TELL = f"/{NAME}/Tell"
SSE = {"accept": "text/event-stream", "content-type": "application/json"}
TYPE = "forge.captioner.v1.CaptionFinished"


async def events(response: httpx.Response) -> AsyncIterator[dict[str, str]]:
    """Parse as the specification says."""
    fields: dict[str, str] = {}
    async for line in response.aiter_lines():
        if not line:
            if "data" in fields:
                yield fields
            fields = {key: fields[key] for key in ("id",) if key in fields}
        elif not line.startswith(":"):
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            fields[name] = (
                f"{fields[name]}\n{value}" if name == "data" and name in fields else value
            )


async def take(response: httpx.Response, count: int) -> list[dict[str, str]]:
    found: list[dict[str, str]] = []
    async with asyncio.timeout(5):
        async for event in events(response):
            found.append(event)
            if len(found) == count:
                return found
    return found


@pytest.mark.parametrize("form", ["post", "fields", "message"])
async def test_an_rpc_as_events(form: str) -> None:
    async with running() as run, httpx.AsyncClient(base_url=run.url) as http:
        if form == "post":
            answer = await http.post(TELL, json={"prompt": "a b"}, headers=SSE)
        elif form == "fields":
            answer = await http.get(TELL, params={"prompt": "a b"}, headers=SSE)
        else:
            answer = await http.get(TELL, params={"message": '{"prompt":"a b"}'}, headers=SSE)
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.text == (
            'data: {"text":"a"}\n\ndata: {"text":"b","index":1}\n\nevent: end\ndata: {}\n\n'
        )


async def test_failure_midway_is_a_typed_event() -> None:
    async with running() as run, httpx.AsyncClient(base_url=run.url) as http:
        answer = await http.post(TELL, json={"prompt": "a fail"}, headers=SSE)
        assert answer.status_code == 200
        last = answer.text.strip().split("\n\n")[-1].split("\n")
        assert last[0] == "event: error"
        error = json.loads(last[1].removeprefix("data: "))
        assert error["code"] == "failed_precondition"
        assert error["details"][0]["debug"] == {"text": "why"}


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ('{"prompt":1}', 400, "invalid_argument"),
        ("{", 400, "invalid_argument"),
        ('{"prompt":"early"}', 404, "not_found"),
        ('{"prompt":"fail"}', 400, "failed_precondition"),
    ],
)
async def test_bad_input_is_a_real_status(body: str, status: int, code: str) -> None:
    async with running() as run, httpx.AsyncClient(base_url=run.url) as http:
        answer = await http.post(TELL, content=body, headers=SSE)
        assert (answer.status_code, answer.json()["code"]) == (status, code)
        assert answer.headers["content-type"] == "application/json"


async def test_silence_is_kept_alive_by_a_lone_comment() -> None:
    async with running(keep_alive_s=0.05) as run:
        body = b'{"prompt":"a wait"}'
        reader, writer = await run.connect()
        writer.write(
            f"POST {TELL} HTTP/1.1\r\nhost: x\r\naccept: text/event-stream\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode()
            + body
        )
        async with asyncio.timeout(2):
            await reader.readuntil(b'data: {"text":"a"}\n\n\r\n')
            assert await reader.readline() == b"2\r\n"
            assert await reader.readexactly(4) == b":\n\r\n"
        writer.transport.abort()
        await asyncio.sleep(0.1)
        assert run.board.cancelled == 1


async def publish(run: Any, count: int, *, key: str = "forge/captions", start: int = 0) -> None:
    for words in range(start, start + count):
        event = CaptionFinished(request_id=f"r{words}", words=words)
        await run.log.publish(
            f"{key}/r{words}", TYPE, event.to_bytes(), event.model_dump_json(), durable=True
        )


async def test_events_are_delivered_and_resumed() -> None:
    async with running() as run, httpx.AsyncClient(base_url=run.url) as http:
        await publish(run, 2)
        async with http.stream("GET", "/events/forge/**?after=earliest") as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            first, second = await take(response, 2)
        assert first["event"] == TYPE
        assert first["key"] == "forge/captions/r0"
        assert json.loads(second["data"]) == {"requestId": "r1", "words": 1}
        await publish(run, 1, start=2)
        asked: list[tuple[dict[str, str], dict[str, str]]] = [
            ({"last-event-id": second["id"]}, {}),
            ({}, {"after": second["id"]}),
            ({"last-event-id": second["id"]}, {"after": "earliest"}),
        ]
        for headers, params in asked:
            async with http.stream(
                "GET", "/events/forge/captions/*", headers=headers, params=params
            ) as response:
                (third,) = await take(response, 1)
                assert json.loads(third["data"])["words"] == 2


async def test_a_subscriber_from_now_on_knows_where_it_is() -> None:
    async with running() as run, httpx.AsyncClient(base_url=run.url) as http:
        await publish(run, 3)
        async with http.stream("GET", "/events/forge/**") as response:
            lines = response.aiter_lines()
            assert [await anext(lines) for _ in range(3)] == [
                "retry: 1000", f"id: {run.log.last}", ""
            ]  # fmt: skip
            await publish(run, 1, key="other/captions")
            await publish(run, 1, start=9)
            assert (await anext(lines)).startswith("id: ")
            assert await anext(lines) == f"event: {TYPE}"
            assert await anext(lines) == "key: forge/captions/r9"


async def test_a_lost_place_is_a_gap() -> None:
    async with running() as run, httpx.AsyncClient(base_url=run.url) as http:
        await publish(run, 1)
        headers = {"last-event-id": "1-77"}
        async with http.stream("GET", "/events/**", headers=headers) as response:
            gap, event = await take(response, 2)
        assert gap["event"] == "gap"
        document = json.loads(gap["data"])
        assert document["asked"] == "1-77"
        assert document["next"] == event["id"]
        async with http.stream("GET", "/events/**", headers={"last-event-id": gap["id"]}) as again:
            (event,) = await take(again, 1)
            assert event["event"] == TYPE


async def test_publishing() -> None:
    async with (
        running() as run,
        httpx.AsyncClient(base_url=run.url) as http,
        http.stream("GET", "/events/**") as response,
    ):
        url = "/events/forge/captions/x"
        answer = await http.post(url, json={"requestId": "x"})  # Its key says its type.
        assert answer.json() == {"id": str(run.log.last)}
        await http.post("/events/any/key", params={"type": TYPE}, json={"words": 2})
        headers = {"protoplane-type": TYPE, "content-type": "application/proto"}
        data = CaptionFinished(words=3).to_bytes()
        await http.post("/events/any/key", content=data, headers=headers)
        one, two, three = await take(response, 3)
        assert [json.loads(event["data"]) for event in (one, two, three)] == [
            {"requestId": "x"}, {"words": 2}, {"words": 3}
        ]  # fmt: skip
        assert three["key"] == "any/key"


@pytest.mark.parametrize(
    ("verb", "url", "body", "says"),
    [
        ("POST", "/events/any/key", "{}", "?type="),
        ("POST", "/events/any/key?type=no.Such", "{}", "no.Such"),
        ("POST", f"/events/any/key?type={TYPE}", '{"words":"x"}', "words"),
        ("POST", f"/events/any/*?type={TYPE}", "{}", "key"),
        ("GET", "/events/a//b", "", "key"),
        ("GET", "/events/", "", "empty"),
        ("GET", "/events/a?after=yesterday", "", "earliest"),
    ],
)
async def test_bad_events_are_refused(verb: str, url: str, body: str, says: str) -> None:
    async with running() as run, httpx.AsyncClient(base_url=run.url) as http:
        answer = await http.request(verb, url, content=body)
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_argument")
        assert says in answer.json()["message"]
        assert (await http.delete(url)).status_code in (400, 405)


async def test_what_is_ready_leaves_in_one_send_and_is_encoded_once() -> None:
    async with running() as run:
        sent: list[list[bytes]] = [[], []]

        async def subscribe(into: list[bytes]) -> None:
            async def receive() -> Any:
                await asyncio.sleep(60)

            async def send(message: Any) -> None:
                if message.get("body"):
                    into.append(message["body"])

            path = "/events/**"
            await run.door.app(
                {
                    "type": "http", "method": "GET", "path": path, "raw_path": path.encode(),
                    "query_string": b"", "headers": [], "client": None,
                },
                receive,
                send,
            )  # fmt: skip

        tasks = [asyncio.create_task(subscribe(into)) for into in sent]
        await asyncio.sleep(0.01)
        await publish(run, 100)
        await asyncio.sleep(0.01)
        for into in sent:
            assert len(into) == 2  # The greeting, then all hundred events.
            assert into[1].count(b"\ndata: ") == 100
        assert sent[0][1] is sent[1][1]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_slow_subscriber_slows_nobody() -> None:
    async with running() as run, httpx.AsyncClient(base_url=run.url) as http:
        _, slow = await run.connect(window_bytes=4096)
        slow.write(b"GET /events/** HTTP/1.1\r\nhost: x\r\n\r\n")
        async with http.stream("GET", "/events/**") as response:
            await publish(run, 50_000)
            assert len(await take(response, 50_000)) == 50_000
        slow.transport.abort()


def test_encoding() -> None:
    event = Event(EventId(1, 2), "a/b", "x.Y", b"", '{"k":"v\\n"}', 0)
    assert (
        b"".join(encoded([event], plain))
        == b'id: 1-2\nevent: x.Y\nkey: a/b\ndata: {"k":"v\\n"}\n\n'
    )
    gap = Gap(EventId(1, 2), None, EventId(2, 1))
    assert b"".join(encoded([gap], plain)).startswith(b"id: 2-0\nevent: gap\ndata: ")
    assert b"ephemeral" not in b"".join(encoded([gap], plain))
    ephemeral = Gap(EventId(1, 2), None, EventId(2, 1), ephemeral=True)
    assert b'"ephemeral": true' in b"".join(encoded([ephemeral], plain))


@pytest.mark.parametrize("encode", [plain, cloud_events])
def test_a_batch_is_its_events_one_by_one(encode: Encode) -> None:
    ids = (EventId(1, 1), EventId(1, 7), EventId(2, 1), EventId(2, 2), EventId(2, 3))
    names = (("a", "T"), ("b", "T"), ("a", "U"), ("a", "T"), ("c", "V"))
    events = [
        Event(id_, key, type_, b"", f"{number}", number)
        for number, (id_, (key, type_)) in enumerate(zip(ids, names, strict=True))
    ]
    gap = Gap(EventId(1, 0), None, EventId(1, 1))
    batches: tuple[list[Event | Gap], ...] = (
        [*events], [*events[:2]], [*events[2:]], [gap, *events], [events[0], gap],
    )  # fmt: skip
    for batch in batches:
        assert encode(batch) == [text for item in batch for text in encode([item])]
