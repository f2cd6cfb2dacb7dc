"""Unary calls as plain sockets make them: in one piece, in many, one behind the other, cut off."""

from __future__ import annotations

import asyncio
import json
from contextlib import AbstractAsyncContextManager
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.server.http.board import NAME, Board, QuickBoard, Running
from tests.server.http.board import running as running_board

from protoplane_server.http.asgi import Exchange

pytestmark = pytest.mark.anyio
CONNECT = f"/{NAME}/Say"
ROUTE = "/v1/say"
BOTH = pytest.mark.parametrize("path", [CONNECT, ROUTE])
LIMIT_S = 20
WAYS: list[type[Board]] = [Board, QuickBoard]


class Way:
    """What serves: a task for each call, or none where there is nothing to wait for."""

    board: type[Board] = Board


@pytest.fixture(autouse=True, scope="module", params=WAYS, ids=["in a task", "at once"])
def way(request: pytest.FixtureRequest) -> None:
    Way.board = request.param


def running(**options: Any) -> AbstractAsyncContextManager[Running]:
    return running_board(board=Way.board(), **options)


def post(path: str, body: bytes, *headers: str, version: str = "1.1") -> bytes:
    lines = (
        f"POST {path} HTTP/{version}",
        "host: x",
        "content-type: application/json",
        f"content-length: {len(body)}",
        *headers,
    )
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def said(prompt: str, padding: int = 0) -> bytes:
    return json.dumps({"prompt": prompt}).encode() + b" " * padding


class Caller:
    """A connection that reads answers one by one."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def of(cls, run: Running) -> Caller:
        return cls(*await run.connect(window_bytes=1 << 20))

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self, *, body: bool = True) -> tuple[int, dict[str, str], bytes]:
        async with asyncio.timeout(LIMIT_S):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
            status, *lines = head.rstrip().split("\r\n")
            headers = dict(line.split(": ", 1) for line in lines)
            length = int(headers.get("content-length", "0")) if body else 0
            return int(status.split()[1]), headers, await self.reader.readexactly(length)

    async def text(self) -> Any:
        status, _, body = await self.answer()
        assert status == 200
        return json.loads(body)["text"]

    async def ended(self) -> bool:
        """Whether the server closes the connection, and says no more; closes this end too."""
        async with asyncio.timeout(LIMIT_S):
            rest = await self.reader.read()
        self.close()
        return rest == b""

    def close(self) -> None:
        self.writer.close()


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]


async def until_cancelled(run: Running, calls: int = 1) -> None:
    async with asyncio.timeout(LIMIT_S):
        while run.board.cancelled < calls:  # noqa: ASYNC110
            await asyncio.sleep(0.005)


@BOTH
async def test_a_connection_serves_one_call_after_the_other(path: str) -> None:
    async with running() as run:
        caller = await Caller.of(run)
        for number in range(5):
            caller.send(post(path, said(f"call {number}")))
            assert await caller.text() == f"call {number}"
        caller.close()


TWO = post(CONNECT, said("one")) + post(ROUTE, said("two"))
CUTS = st.lists(st.integers(0, len(TWO)), max_size=12).map(sorted)


@settings(max_examples=8, deadline=None)
@given(tries=st.lists(CUTS, min_size=5, max_size=20))
async def test_two_calls_in_any_pieces(tries: list[list[int]]) -> None:
    async with running() as run:
        for cuts in tries:
            caller = await Caller.of(run)
            for start, end in zip([0, *cuts], [*cuts, len(TWO)], strict=True):
                caller.send(TWO[start:end])
                await asyncio.sleep(0)
            assert [await caller.text(), await caller.text()] == ["one", "two"]
            caller.close()


async def test_a_call_that_comes_byte_by_byte() -> None:
    async with running() as run:
        caller = await Caller.of(run)
        for byte in post(CONNECT, said("slowly", padding=50)):
            caller.send(bytes((byte,)))
            await asyncio.sleep(0)
        assert await caller.text() == "slowly"
        caller.close()


@BOTH
@pytest.mark.parametrize("size", [1, 7, 30])
async def test_a_body_in_chunks_that_come_together(path: str, size: int) -> None:
    body = said("in chunks")
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(each), each) for each in [*pieces, b""])
    head = (
        f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        "transfer-encoding: chunked\r\n\r\n"
    )
    async with running() as run:
        caller = await Caller.of(run)
        caller.send((head.encode() + chunks) * 2)
        assert [await caller.text(), await caller.text()] == ["in chunks"] * 2
        caller.close()


@BOTH
@pytest.mark.parametrize("padding", [100, 100_000, 900_000])
async def test_bodies_small_and_large(path: str, padding: int) -> None:
    async with running() as run:
        caller = await Caller.of(run)
        for _ in range(2):
            caller.send(post(path, said("large", padding)))
            assert await caller.text() == "large"
        caller.close()


async def test_a_large_answer_is_whole() -> None:
    async with running() as run:
        caller = await Caller.of(run)
        words = 300_000
        caller.send(post(CONNECT, json.dumps({"prompt": "big", "maxWords": words}).encode()))
        assert await caller.text() == "x" * words
        caller.close()


@BOTH
async def test_calls_in_one_segment_are_answered_in_turn(path: str) -> None:
    async with running() as run:
        caller = await Caller.of(run)
        bodies = [said("first"), b"{", said("fail"), said("crash"), said("last")]
        caller.send(b"".join(post(path, body) for body in bodies))
        answers = [await caller.answer() for _ in bodies]
        assert [status for status, _, _ in answers] == [200, 400, 400, 500, 200]
        assert json.loads(answers[2][2])["code"] == "failed_precondition"
        assert json.loads(answers[4][2])["text"] == "last"
        caller.close()


@BOTH
@pytest.mark.parametrize("padding", [0, 200_000])
@pytest.mark.parametrize("behind", [0, 1, 3])
async def test_a_client_that_leaves_cancels_its_call(
    path: str, padding: int, behind: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with running() as run:
        caller = await Caller.of(run)
        caller.send(post(path, said("wait", padding)) + post(path, said("next")) * behind)
        await asyncio.wait_for(run.board.started.wait(), LIMIT_S)
        caller.writer.transport.abort()
        await until_cancelled(run)
        assert run.dispatcher.open_calls == 0
        # What was asked behind it is not served for nobody.
        [stats] = run.dispatcher.metrics.calls.values()
        assert sum(stats.codes) == 1
    assert errors(caplog) == []


async def test_a_client_that_leaves_at_once_disturbs_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with running() as run:
        for _ in range(20):
            caller = await Caller.of(run)
            caller.send(post(CONNECT, said("hello")))
            caller.writer.transport.abort()
        caller = await Caller.of(run)
        caller.send(post(CONNECT, said("still here")))
        assert await caller.text() == "still here"
        caller.close()
    assert errors(caplog) == []


@BOTH
async def test_a_door_that_closes_ends_calls_with_a_word(path: str) -> None:
    async with running(grace_s=0.1) as run:
        caller = await Caller.of(run)
        caller.send(post(path, said("wait")))
        await asyncio.wait_for(run.board.started.wait(), LIMIT_S)
        run.door.stop()
        status, headers, body = await caller.answer()
        assert (status, json.loads(body)["code"]) == (503, "unavailable")
        assert headers["connection"] == "close"
        assert await caller.ended()
        assert run.board.cancelled == 1


@BOTH
async def test_a_server_that_drains_refuses_calls_on_old_connections(path: str) -> None:
    async with running() as run:
        caller = await Caller.of(run)
        caller.send(post(path, said("before")))
        assert await caller.text() == "before"
        await run.dispatcher.drain(0)
        caller.send(post(path, said("after")))
        status, _, body = await caller.answer()
        assert (status, json.loads(body)["code"]) == (503, "unavailable")
        caller.close()


async def test_no_more_calls_than_the_limit() -> None:
    async with running(max_calls=1) as run:
        waits, asks = await Caller.of(run), await Caller.of(run)
        waits.send(post(CONNECT, said("wait")))
        await asyncio.wait_for(run.board.started.wait(), LIMIT_S)
        asks.send(post(CONNECT, said("one too many")))
        status, _, body = await asks.answer()
        assert (status, json.loads(body)["code"]) == (429, "resource_exhausted")
        waits.writer.transport.abort()
        await until_cancelled(run)
        asks.send(post(CONNECT, said("now")))
        assert await asks.text() == "now"
        asks.close()


@BOTH
async def test_a_deadline_ends_a_call_and_the_connection_goes_on(path: str) -> None:
    async with running() as run:
        caller = await Caller.of(run)
        caller.send(post(path, said("wait"), "connect-timeout-ms: 30"))
        status, _, body = await caller.answer()
        assert (status, json.loads(body)["code"]) == (504, "deadline_exceeded")
        assert run.board.cancelled == 1
        caller.send(post(path, said("next")))
        assert await caller.text() == "next"
        caller.close()


@pytest.mark.parametrize(
    ("headers", "version"), [(("connection: close",), "1.1"), ((), "1.0"), (("te: x",), "1.0")]
)
async def test_who_wants_one_answer_only_is_left(headers: tuple[str, ...], version: str) -> None:
    async with running() as run:
        caller = await Caller.of(run)
        caller.send(post(CONNECT, said("only"), *headers, version=version))
        status, told, _ = await caller.answer()
        assert (status, told["connection"]) == (200, "close")
        assert await caller.ended()


async def test_a_body_too_large_in_one_piece_ends_the_connection() -> None:
    async with running(max_message_bytes=1000) as run:
        caller = await Caller.of(run)
        caller.send(post(CONNECT, said("large", padding=2000)))
        status, told, body = await caller.answer()
        assert (status, told["connection"]) == (413, "close")
        assert json.loads(body)["code"] == "resource_exhausted"
        assert await caller.ended()


async def test_who_asks_before_it_sends_is_told_to_go_on() -> None:
    async with running() as run:
        caller = await Caller.of(run)
        request = post(CONNECT, said("polite"), "expect: 100-continue")
        head, _, body = request.partition(b"\r\n\r\n")
        caller.send(head + b"\r\n\r\n")
        assert (await caller.answer())[0] == 100
        caller.send(body)
        assert await caller.text() == "polite"
        caller.send(request)  # All at once: the answer is all there is to say.
        assert await caller.text() == "polite"
        caller.close()


async def test_a_head_alone_has_the_length_and_no_body() -> None:
    async with running() as run:
        caller = await Caller.of(run)
        caller.send(b"HEAD /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        status, told, _ = await caller.answer(body=False)
        assert (status, told["content-length"]) == (200, "3")
        assert "date" in told
        caller.send(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        assert (await caller.answer())[2] == b"ok\n"
        caller.close()


async def test_trailers_are_of_one_call() -> None:
    async with running() as run:
        caller = await Caller.of(run)
        caller.send(post(CONNECT, said("trailer")) + post(CONNECT, said("none")))
        _, first, _ = await caller.answer()
        _, second, _ = await caller.answer()
        assert first["trailer-mood"] == "fine"
        assert "trailer-mood" not in second
        caller.close()


async def test_an_idle_connection_is_closed_and_a_busy_one_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("protoplane_server.http.door.IDLE_S", 0.1)
    async with running() as run:
        busy, idle = await Caller.of(run), await Caller.of(run)
        for caller in (busy, idle):
            caller.send(post(CONNECT, said("hello")))
            assert await caller.text() == "hello"
        busy.send(post(CONNECT, said("wait")))
        await asyncio.wait_for(run.board.started.wait(), LIMIT_S)
        assert await idle.ended()
        await asyncio.sleep(0.3)
        assert run.dispatcher.open_calls == 1
        busy.close()
        await until_cancelled(run)


class Splitting:
    """A path whose answer has a header that would be two."""

    def serves(self, path: str) -> bool:
        return path == "/split"

    async def serve(self, exchange: Exchange) -> None:
        await exchange.answer(200, [(b"x-told", b"a\r\nx-told-too: b")], b"")


class BringsSplitting:
    """Brings it."""

    def http_routes(self, state: object) -> Splitting:
        return Splitting()


async def test_no_header_is_split() -> None:
    async with running(beside=[BringsSplitting()]) as run, httpx.AsyncClient() as http:
        answer = await http.get(run.url + "/split")
        assert answer.status_code == 500
        assert "x-told-too" not in answer.headers
