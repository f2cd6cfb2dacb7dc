"""The Mercure facade, against the protocol's own rules (https://mercure.rocks/spec)."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Self

import httpx
import pytest
from httpx_sse import ServerSentEvent, aconnect_sse
from tests.server.http.board import Running, running

from forge.captioner.v1 import CaptionFinished
from protoplane.v1 import MercureUpdate
from protoplane_runtime.engines.memory import MemoryLog

pytestmark = pytest.mark.anyio
HUB = "/.well-known/mercure"
BOOK = "https://example.com/books/1"


async def publish(run: Running, **fields: Any) -> str:
    async with httpx.AsyncClient(base_url=run.url) as http:
        answer = await http.post(HUB, data=fields)
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"].startswith("text/plain")
        return answer.text


class Subscriber:
    """Reads a stream of updates."""

    def __init__(self, run: Running, params: Any, headers: Any = None) -> None:
        self._run, self._params, self._headers = run, params, headers
        self.answer = httpx.Response(0)

    async def __aenter__(self) -> Self:
        self._http = httpx.AsyncClient(base_url=self._run.url, timeout=20)
        self._source = aconnect_sse(
            self._http, "GET", HUB, params=self._params, headers=dict(self._headers or {})
        )
        source = await self._source.__aenter__()
        self.answer = source.response
        self._events = source.aiter_sse()
        if self.answer.status_code == 200:
            # The opening block has no data; httpx-sse takes it for an event all the same.
            [self.opening] = await self.take(1)
            assert self.opening.data == ""
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._source.__aexit__(None, None, None)
        await self._http.aclose()

    async def take(self, count: int) -> list[ServerSentEvent]:
        async with asyncio.timeout(20):
            return [await anext(self._events) for _ in range(count)]


async def test_publish_and_subscribe() -> None:
    async with running() as run, Subscriber(run, {"topic": BOOK}) as subscriber:
        assert subscriber.answer.headers["content-type"].startswith("text/event-stream")
        assert "last-event-id" not in subscriber.answer.headers
        await publish(run, topic="https://example.com/books/2", data="another")
        first = await publish(run, topic=BOOK, data="one\ntwo\r\n\nthree")
        second = await publish(run, topic=BOOK, data="{}", type="changed", retry="2500", id="urn:1")
        one, two = await subscriber.take(2)
        assert (one.event, one.data, one.id) == ("message", "one\ntwo\n\nthree", first)
        assert (two.event, two.data, two.id, two.retry) == ("changed", "{}", second, 2500)
        third = await publish(run, topic=BOOK)
        [empty] = await subscriber.take(1)
        assert (empty.data, empty.id) == ("", third)
        assert first.startswith("#")


async def test_selectors() -> None:
    params = [("topic", "https://example.com/{+path}"), ("topic", "plain"), ("match", "https://b/")]
    async with (
        running() as run,
        Subscriber(run, params) as some,
        Subscriber(run, {"topic": "*"}) as everything,
    ):
        topics = [BOOK, "plain", "https://b/", "plain/er", "https://example.org/1"]
        for topic in topics:
            await publish(run, topic=topic, data=topic)
        assert [event.data for event in await some.take(3)] == topics[:3]
        assert [event.data for event in await everything.take(5)] == topics


async def test_an_update_of_several_topics_comes_once() -> None:
    async with (
        running() as run,
        Subscriber(run, {"topic": ["a/1", "b/2"]}) as both,
        Subscriber(run, {"topic": "b/{id}"}) as other,
    ):
        first = await publish(run, topic=["a/1", "b/2"], data="twice")
        await publish(run, topic="b/2", data="then")
        one, then = await both.take(2)
        assert (one.id, one.data, then.data) == (first, "twice", "then")
        assert [event.data for event in await other.take(2)] == ["twice", "then"]


@pytest.mark.parametrize("way", ["header", "lastEventID", "lastEventId", "Last-Event-ID", "both"])
async def test_resuming(way: str) -> None:
    async with running() as run:
        ids = [await publish(run, topic=BOOK, data=str(number)) for number in range(3)]
        headers = {"last-event-id": ids[1]} if way in ("header", "both") else {}
        params: dict[str, str] = {"topic": BOOK}
        if way == "both":
            params["lastEventID"] = ids[0]  # The header knows better.
        elif way != "header":
            params[way] = ids[1]
        async with Subscriber(run, params, headers) as subscriber:
            assert subscriber.answer.headers["last-event-id"] == ids[1]
            [event] = await subscriber.take(1)
            assert (event.data, event.id) == ("2", ids[2])


async def test_from_the_earliest_on_and_after_what_is_lost() -> None:
    async with running(log=MemoryLog(max_events=2)) as run:
        ids = [await publish(run, topic=BOOK, data=str(number)) for number in range(4)]
        async with Subscriber(run, {"topic": BOOK, "lastEventID": "earliest"}) as subscriber:
            assert subscriber.answer.headers["last-event-id"] == "earliest"
            assert [event.data for event in await subscriber.take(2)] == ["2", "3"]
        async with Subscriber(run, {"topic": BOOK, "lastEventID": ids[0]}) as subscriber:
            assert subscriber.answer.headers["last-event-id"] == "earliest"
            gap, event = await subscriber.take(2)
            assert (gap.event, event.data) == ("gap", "2")
            assert json.loads(gap.data)["asked"] == ids[0][1:]
        # Never an id of this hub: from now on, and the head says that something may be missing.
        async with Subscriber(run, {"topic": BOOK}, {"last-event-id": "urn:x"}) as subscriber:
            assert subscriber.answer.headers["last-event-id"] == "earliest"
            await publish(run, topic=BOOK, data="new")
            assert [event.data for event in await subscriber.take(1)] == ["new"]


async def test_one_log_with_the_events_of_the_component() -> None:
    async with (
        running() as run,
        httpx.AsyncClient(base_url=run.url, timeout=20) as http,
        Subscriber(run, {"topic": "forge/captions/{id}"}) as subscriber,
        aconnect_sse(http, "GET", "/events/**", params={"after": "earliest"}) as plain,
    ):
        finished = CaptionFinished(request_id="7", words=3)
        name = CaptionFinished.__pb__.DESCRIPTOR.full_name
        await http.post("/events/forge/captions/7", json={"requestId": "7", "words": 3})
        [event] = await subscriber.take(1)
        assert (event.event, event.json()) == (name, json.loads(finished.model_dump_json()))
        await publish(run, topic=BOOK, data="x")
        events = plain.aiter_sse()
        async with asyncio.timeout(20):
            assert (await anext(events)).id == "earliest"
            assert (await anext(events)).event == name
            update = await anext(events)
        assert update.event == "protoplane.v1.MercureUpdate"
        assert MercureUpdate.model_validate_json(update.data).topics == [BOOK]


REFUSED: list[tuple[Any, int, str]] = [
    ({"data": "x"}, 400, "topic"),
    ({"topic": ""}, 400, "topic"),
    ({"topic": "a\nb"}, 400, "control"),
    ({"topic": "a", "id": "#1"}, 400, "id"),
    ({"topic": "a", "id": "1\n2"}, 400, "id"),
    ({"topic": "a", "type": "x\ny"}, 400, "type"),
    ({"topic": "a", "retry": "-1"}, 400, "retry"),
    ({"topic": "a", "retry": ""}, 400, "retry"),
    ({"topic": "a", "private": "on"}, 400, "private"),
    ({"topic": "/.well-known/mercure/subscriptions/x"}, 403, "own"),
    ({"topic": "https://x.org/.well-known/mercure/y"}, 403, "own"),
    ({"topic": ["a"] * 1 + [f"b{n}" for n in range(70)]}, 400, "64"),
]


async def test_updates_that_are_refused() -> None:
    async with running() as run, httpx.AsyncClient(base_url=run.url) as http:
        for fields, status, says in REFUSED:
            answer = await http.post(HUB, data=fields)
            assert (answer.status_code, says in answer.json()["message"]) == (status, True), (
                fields,
                answer.text,
            )
        assert run.log.last.sequence == 0


async def test_requests_that_are_refused() -> None:
    async with running() as run, httpx.AsyncClient(base_url=run.url) as http:
        assert (await http.post(HUB, json={"topic": "a"})).status_code == 415
        assert (await http.put(HUB)).status_code == 405
        assert (await http.get(HUB)).status_code == 400
        answer = await http.get(HUB, params={"matchURLPattern": "https://b/:id"})
        assert (answer.status_code, "URI template" in answer.text) == (400, True)
        form = {"content-type": "application/x-www-form-urlencoded"}
        assert (await http.post(HUB, content=b"topic=%ff", headers=form)).status_code == 400
        assert (await http.post(HUB, content=b"&a=" * 999, headers=form)).status_code == 400


@pytest.mark.parametrize("way", ["header", "access_token", "authorization", "cookie"])
async def test_tokens(way: str) -> None:
    bearer = {"authorization": "Bearer sesame"}
    params, headers = {"topic": "a"}, {}
    if way == "header":
        headers = bearer
    elif way == "cookie":
        headers = {"cookie": "mercureAuthorization=sesame"}
    else:
        params[way] = "sesame"
    async with (
        running(tokens={"sesame": "ali"}) as run,
        httpx.AsyncClient(base_url=run.url) as http,
        Subscriber(run, params, headers) as subscriber,
    ):
        nobody = await http.get(HUB, params={"topic": "a"})
        assert (nobody.status_code, nobody.headers["www-authenticate"]) == (401, "Bearer")
        wrong = {"authorization": "Bearer no"}
        stranger = await http.get(
            HUB, params={**params, "topic": "a"}, headers={**headers, **wrong}
        )
        assert (stranger.status_code, "invalid_token" in stranger.headers["www-authenticate"]) == (
            401, True
        )  # fmt: skip
        if way == "cookie":
            # A page of somebody else could make a browser send it.
            assert (await http.post(HUB, data={"topic": "a"}, headers=headers)).status_code == 401
        answer = await http.post(HUB, data={"topic": "a", "private": ""}, headers=bearer)
        assert answer.status_code == 200
        [event] = await subscriber.take(1)
        assert event.id == answer.text
