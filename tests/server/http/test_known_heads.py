"""Requests whose heads are known are those that were sent, and nothing else is taken for one."""

from __future__ import annotations

import asyncio
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.server.http.board import NAME, Board, QuickBoard, Running, running

from protoplane_server.http.known_heads import KnownHeads

pytestmark = pytest.mark.anyio
CONNECT = f"/{NAME}/Say"
ROUTE = "/v1/say"
LIMIT_S = 20
BOTH = pytest.mark.parametrize("board", [Board, QuickBoard])


def request(body: bytes, *headers: str, path: str = ROUTE, length: str | None = None) -> bytes:
    length = str(len(body)) if length is None else length
    lines = (
        f"POST {path} HTTP/1.1",
        "host: x",
        f"Content-Length: {length}",
        "content-type: application/json",
        *headers,
    )
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def saying(text: str, *headers: str, path: str = ROUTE) -> bytes:
    return request(json.dumps({"prompt": text}).encode(), *headers, path=path)


def scope() -> dict[str, object]:
    return {"headers": []}


BODIES = st.binary(max_size=200)


@given(first=BODIES, second=BODIES, digits=st.text("0123456789", max_size=12))
def test_only_the_length_may_differ(first: bytes, second: bytes, digits: str) -> None:
    heads = KnownHeads()
    heads.learn(request(first), scope(), None)
    found = heads.find(request(second))
    assert found is not None
    assert found[1] == second
    cut = heads.find(request(second, length=digits))
    assert (cut is not None) == (
        digits.isdigit() and len(digits) < 10 and int(digits) == len(second)
    )
    assert heads.find(request(second) + b"x") is None
    assert heads.find(request(second, "x: y")) is None
    assert heads.find(request(second).replace(b"host", b"Host")) is None


@given(data=st.binary(max_size=300))
def test_what_is_no_whole_request_is_not_learnt(data: bytes) -> None:
    heads = KnownHeads()
    for part in (data, request(b"abc")[:-1], request(b"abc") + b"d", b"POST / HTTP/1.1\r\n\r\n"):
        heads.learn(part, scope(), None)
        assert heads.find(part) is None


@pytest.mark.parametrize("length", ["+3", "-3", "3 ", "0x3", "3,3", "", "٣"])
def test_lengths_that_are_none(length: str) -> None:
    heads = KnownHeads()
    heads.learn(request(b"abc"), scope(), None)
    assert heads.find(request(b"abc", length=length)) is None


def test_a_few_heads_are_known_at_a_time() -> None:
    heads = KnownHeads()
    for number in range(5):
        heads.learn(request(b"", path=f"/{number}"), scope(), None)
    known = [heads.find(request(b"abc", path=f"/{number}")) is not None for number in range(5)]
    assert known == [False, True, True, True, True]


def test_long_heads_are_not_kept() -> None:
    heads = KnownHeads()
    for size, known in ((3000, True), (5000, False)):
        long = request(b"abc", "x-long: " + "x" * size)
        heads.learn(long, scope(), None)
        assert (heads.find(long) is not None) is known


def test_a_client_that_never_repeats_itself_is_given_up() -> None:
    heads = KnownHeads()
    for number in range(20):
        heads.learn(request(b"", f"traceparent: {number}"), scope(), None)
    assert heads.find(request(b"", "traceparent: 19")) is None


async def answers(run: Running, *requests: bytes) -> list[str]:
    """The texts that are told, one by one."""
    reader, writer = await run.connect()
    told: list[str] = []
    async with asyncio.timeout(LIMIT_S):
        for each in requests:
            writer.write(each)
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].split(b"\r")[0])
            body = json.loads(await reader.readexactly(length))
            told.append(body.get("text") or body["code"])
    writer.close()
    return told


@BOTH
async def test_calls_by_turns(board: type[Board]) -> None:
    texts = [f"{number} " * number for number in range(1, 30)]
    async with running(board=board()) as run:
        requests = [
            saying(text, path=(ROUTE, CONNECT)[number % 2]) for number, text in enumerate(texts)
        ]
        assert await answers(run, *requests) == texts


@BOTH
async def test_faults_between_calls(board: type[Board]) -> None:
    asked = [
        (saying("one"), "one"),
        (saying("fail"), "failed_precondition"),
        (request(b"{"), "invalid_argument"),
        (saying("two"), "two"),
        (saying("two", path="/v1/nowhere"), "not_found"),
        (saying("three"), "three"),
        (saying("trailer", "x-more: 1"), "trailer"),
        (saying("crash"), "internal"),
        (saying("four"), "four"),
    ]
    async with running(board=board()) as run:
        assert await answers(run, *(each for each, _ in asked)) == [told for _, told in asked]


@BOTH
async def test_the_rest_of_a_body_is_no_request(board: type[Board]) -> None:
    hidden = saying("hidden")
    async with running(board=board()) as run:
        reader, writer = await run.connect()
        async with asyncio.timeout(LIMIT_S):
            writer.write(saying("known"))
            await reader.readuntil(b"}")
            # This one is answered before its body comes, and that looks like the one before.
            writer.write(request(b"", path="/v1/nowhere", length=str(len(hidden))))
            assert b"404" in await reader.readuntil(b"\r\n")
            await reader.readuntil(b"}")
            writer.write(hidden)
            await asyncio.sleep(0.05)
            writer.write(saying("seen"))
            rest = await reader.readuntil(b"}")
            assert b"seen" in rest
            assert b"hidden" not in rest
        writer.close()


@BOTH
async def test_what_comes_behind_a_known_request_is_served_too(board: type[Board]) -> None:
    async with running(board=board()) as run:
        reader, writer = await run.connect()
        async with asyncio.timeout(LIMIT_S):
            writer.write(saying("one"))
            await reader.readuntil(b"}")
            writer.write(saying("two") + saying("three"))
            assert b"two" in await reader.readuntil(b"}")
            assert b"three" in await reader.readuntil(b"}")
            third = saying("four")
            writer.write(third[:-5])
            await asyncio.sleep(0.02)
            writer.write(third[-5:])
            assert b"four" in await reader.readuntil(b"}")
        writer.close()
