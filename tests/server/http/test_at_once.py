"""What is answered without a task is answered as it would be with one."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest
from tests.server.http.board import NAME, Board, QuickBoard, running

from protoplane_base import Code, PlaneError
from protoplane_server.access import Access

pytestmark = pytest.mark.anyio
CONNECT = f"/{NAME}/Say"
ROUTE = "/v1/say"
JSON = {"content-type": "application/json"}
BIG = {"prompt": "big", "maxWords": 5000}


ASKED: list[tuple[dict[str, Any], dict[str, str]]] = [
    ({"prompt": "hello"}, {}),
    ({"prompt": "hellö \u2028"}, {}),
    ({"prompt": "trailer"}, {}),
    ({"prompt": "fail"}, {}),
    (BIG, {}),
    (BIG, {"accept-encoding": "gzip"}),
    ({"prompt": "hello"}, {"connect-protocol-version": "1"}),
    ({"prompt": "hello"}, {"connect-timeout-ms": "5000"}),
    ({"prompt": "hello"}, {"connect-timeout-ms": "soon"}),
    ({"prompt": "hello"}, {"connect-timeout-ms": "0"}),
    ({"prompt": "hello"}, {"authorization": "Bearer secret"}),
    ({"prompt": "hello"}, {"authorization": "Bearer wrong"}),
]


@pytest.mark.parametrize("path", [CONNECT, ROUTE])
@pytest.mark.parametrize("tokens", [None, {"secret": "somebody"}])
async def test_answers_are_the_same(path: str, tokens: dict[str, str] | None) -> None:
    async with (
        running(board=Board(), tokens=tokens) as one,
        running(board=QuickBoard(), tokens=tokens) as other,
        httpx.AsyncClient() as http,
    ):
        for document, headers in ASKED:
            told: list[str] = []
            for run in [one, other] * 3:
                answer = await http.post(
                    run.url + path, content=json.dumps(document), headers={**JSON, **headers}
                )
                fields = {name: value for name, value in answer.headers.items() if name != "date"}
                told.append(f"{answer.status_code} {fields} {answer.content!r}")
            assert told == [told[0]] * 6


async def test_no_task_is_made() -> None:
    board = QuickBoard()
    async with running(board=board) as run, httpx.AsyncClient() as http:
        for number in range(1, 4):
            answer = await http.post(run.url + ROUTE, json={"prompt": "hello"})
            assert answer.json()["text"] == "hello"
            assert board.at_once == number
        [stats] = run.dispatcher.metrics.calls.values()
        assert stats.codes[Code.OK] == 3
        assert stats.in_flight == run.dispatcher.open_calls == 0
        assert sum(stats.buckets) == 3
        await http.post(run.url + CONNECT, json={"prompt": "fail"})
        assert board.at_once == 4
        assert stats.codes[Code.FAILED_PRECONDITION] == 1


@pytest.mark.parametrize(
    ("path", "body", "headers", "status"),
    [
        (ROUTE, b'{"prompt": ', {}, 400),
        (ROUTE, b'{"unheard": 1}', {}, 400),
        (ROUTE + "?x=1", b'{"prompt": "a"}', {}, 400),
        (CONNECT, b'{"prompt": "a"}', {"connect-protocol-version": "2"}, 400),
        (CONNECT, b'{"prompt": "a"}', {"content-type": "text/plain"}, 415),
        (CONNECT, b'{"prompt": "a"}', {"content-encoding": "gzip"}, 400),
        (CONNECT, b'{"prompt": "a"}', {"content-encoding": "br"}, 501),
        (CONNECT, b'{"prompt": "a"}', {"idempotency-key": "k"}, 200),
        (CONNECT, b'{"prompt": "a"}', {"content-type": "application/json; charset=utf-8"}, 200),
        (ROUTE, b'{"prompt": "' + b"a" * 2000 + b'"}', {}, 413),
    ],
)
async def test_what_is_unusual_goes_the_ordinary_way(
    path: str, body: bytes, headers: dict[str, str], status: int
) -> None:
    board = QuickBoard()
    async with running(board=board, max_message_bytes=1000) as run, httpx.AsyncClient() as http:
        answer = await http.post(run.url + path, content=body, headers={**JSON, **headers})
        assert answer.status_code == status
    assert board.at_once == 0


async def test_an_answer_can_be_too_large() -> None:
    board = QuickBoard()
    async with running(board=board, max_message_bytes=1000) as run, httpx.AsyncClient() as http:
        answer = await http.post(run.url + ROUTE, json=BIG)
        assert answer.json()["code"] == "resource_exhausted"
    assert board.at_once == 1


async def test_pages_of_other_origins_are_told_that_they_may_read() -> None:
    board = QuickBoard()
    async with (
        running(board=board, cors_origins=["https://a.example"]) as run,
        httpx.AsyncClient() as http,
    ):
        origin = {"origin": "https://a.example"}
        answer = await http.post(run.url + ROUTE, json={"prompt": "hello"}, headers=origin)
        assert answer.headers["access-control-allow-origin"] == "https://a.example"


async def test_metadata_are_those_of_each_request() -> None:
    async with running(board=QuickBoard()) as run, httpx.AsyncClient() as http:
        for mood in ("fine", "fine", "bad", "fine"):
            await http.post(run.url + ROUTE, json={"prompt": "hello"}, headers={"x-mood": mood})
            assert run.board.metadata["x-mood"] == mood
    assert run.board.metadata.get("content-length") is None


class Fickle(Access):
    """Knows everybody, for as long as it likes."""

    def __init__(self) -> None:
        self.likes = True

    def identity(self, token: str) -> str:
        if not self.likes:
            raise PlaneError(Code.UNAUTHENTICATED, "not any more")
        return "somebody"


async def test_a_token_is_asked_for_each_time() -> None:
    board, access = QuickBoard(), Fickle()
    async with running(board=board) as run, httpx.AsyncClient() as http:
        run.dispatcher.guard(access)
        bearer = {"authorization": "Bearer secret"}
        for _ in range(3):
            answer = await http.post(run.url + ROUTE, json={"prompt": "a"}, headers=bearer)
            assert answer.status_code == 200
        access.likes = False
        answer = await http.post(run.url + ROUTE, json={"prompt": "a"}, headers=bearer)
        assert answer.status_code == 401
    assert board.at_once == 3


async def test_a_drain_refuses_what_needs_no_task() -> None:
    board = QuickBoard()
    async with running(board=board) as run, httpx.AsyncClient() as http:
        await http.post(run.url + ROUTE, json={"prompt": "a"})
        await run.dispatcher.drain(0)
        answer = await http.post(run.url + ROUTE, json={"prompt": "a"})
        assert answer.status_code == 503
    assert board.at_once == 1


async def test_many_at_once_on_many_connections() -> None:
    async with running(board=QuickBoard()) as run, httpx.AsyncClient() as http:

        async def say(number: int) -> None:
            word = "wait" if number % 10 == 9 else f"word {number}"
            timeout = {"connect-timeout-ms": "200"}
            answer = await http.post(run.url + ROUTE, json={"prompt": word}, headers=timeout)
            assert answer.status_code == (504 if word == "wait" else 200)
            assert word == "wait" or answer.json()["text"] == word

        await asyncio.gather(*map(say, range(60)))


@pytest.mark.parametrize("path", [CONNECT, ROUTE])
@pytest.mark.parametrize(
    "case",
    [(0, 2, 0.0, 3), (0, 2, 0.005, 3), (30_000, 3, 0.005, 3), (0, 2, 0.2, 0), (300_000, 9, 0, 0)],
)
async def test_what_comes_in_parts_is_waited_for_a_little(
    path: str, case: tuple[int, int, float, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    padding, parts, pause_s, at_once = case
    if at_once:  # On a busy machine a short pause may be a long one.
        monkeypatch.setattr("protoplane_server.http.guard._REST_S", 10.0)
    board = QuickBoard()
    body = json.dumps({"prompt": "in parts"}).encode() + b" " * padding
    head = (
        f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    size = -(-len(body) // (parts - 1))
    async with running(board=board) as run:
        reader, writer = await run.connect()
        async with asyncio.timeout(20):
            for _ in range(3):
                for part in (
                    head.encode(),
                    *(body[at : at + size] for at in range(0, len(body), size)),
                ):
                    writer.write(part)
                    await asyncio.sleep(pause_s)
                assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
                assert b"in parts" in await reader.readuntil(b"}")
        writer.close()
    assert board.at_once == at_once


async def test_who_leaves_before_the_rest_came_is_forgotten() -> None:
    board = QuickBoard()
    async with running(board=board) as run:
        for _ in range(5):
            _, writer = await run.connect()
            writer.write(f"POST {ROUTE} HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n".encode())
            await asyncio.sleep(0.005)
            writer.transport.abort()
        await asyncio.sleep(0.1)
        assert run.dispatcher.open_calls == 0
    assert board.at_once == 0
