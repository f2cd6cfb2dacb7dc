"""Clients that mean no good, or know no better: an error or an end, and the server serves on."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from tests.server.http.board import NAME, Running, running

pytestmark = pytest.mark.anyio
SAY = f"/{NAME}/Say"
HEAD = f"POST {SAY} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n".encode()


async def serves_on(run: Running) -> None:
    async with httpx.AsyncClient(base_url=run.url) as http:
        answer = await http.post(SAY, json={"prompt": "still here"})
        assert answer.json() == {"text": "still here"}


async def test_a_gigabyte_is_refused_before_it_is_read() -> None:
    async with running() as run:
        answer = await run.raw(HEAD + b"content-length: 1073741824\r\n\r\n" + b"x" * 1000)
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert b"resource_exhausted" in answer
        assert b"connection: close" in answer
        await serves_on(run)


async def test_an_endless_body_is_cut_off() -> None:
    async with running(max_message_bytes=10_000) as run:
        chunk = b"1000\r\n" + b"x" * 0x1000 + b"\r\n"
        answer = await run.raw(HEAD + b"transfer-encoding: chunked\r\n\r\n" + chunk * 5)
        assert answer.startswith(b"HTTP/1.1 413 ")
        await serves_on(run)


async def test_an_answer_too_large_is_an_error() -> None:
    async with running(max_message_bytes=1000) as run, httpx.AsyncClient() as http:
        answer = await http.post(run.url + SAY, json={"prompt": "big", "maxWords": 2000})
        assert answer.json()["code"] == "resource_exhausted"
        await serves_on(run)


@pytest.mark.parametrize("sent", [b"", b"GET / HT", HEAD, HEAD + b"x-a: b"])
async def test_a_head_that_never_ends_is_cut_off(sent: bytes) -> None:
    async with running(header_timeout_s=0.2) as run:
        answer = await run.raw(sent, limit_s=2)
        assert answer.startswith(b"HTTP/1.1 408 ")
        await serves_on(run)


async def test_a_slow_loris_is_cut_off() -> None:
    async with running(header_timeout_s=0.3) as run:
        reader, writer = await run.connect()
        writer.write(HEAD)

        async def dribble() -> None:
            while not reader.at_eof():
                writer.write(b"x-a: b\r\n")
                await asyncio.sleep(0.05)

        async with asyncio.timeout(30):
            dribbling = asyncio.create_task(dribble())
            # What comes too late is answered with a reset, perhaps before all is read.
            assert await reader.readuntil(b" 408 ") == b"HTTP/1.1 408 "
        dribbling.cancel()
        writer.close()
        await serves_on(run)


async def test_a_second_request_that_dribbles_is_cut_off() -> None:
    async with running(header_timeout_s=0.3) as run:
        first = HEAD + b"content-length: 2\r\n\r\n{}"
        answer = await run.raw(first + b"POST /x HTTP/1.1\r\nho", limit_s=2)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b"HTTP/1.1 408 " in answer
        await serves_on(run)


async def test_headers_without_end_are_cut_off() -> None:
    async with running() as run:
        reader, writer = await run.connect()
        writer.write(HEAD)
        number = 0
        try:
            async with asyncio.timeout(30):
                for number in range(100_000):
                    writer.write(b"x-%d: %s\r\n" % (number, b"y" * 1000))
                    await writer.drain()
                    await asyncio.sleep(0)
                    if reader.at_eof():
                        break
        except ConnectionError:
            pass
        assert number < 10_000
        writer.close()
        await serves_on(run)


async def test_a_body_that_never_comes_is_cut_off() -> None:
    async with running(body_timeout_s=0.2) as run:
        answer = await run.raw(HEAD + b"content-length: 10\r\n\r\n{", limit_s=2)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"deadline_exceeded" in answer
        await serves_on(run)


async def test_a_client_that_leaves_in_the_middle_of_its_body() -> None:
    async with running() as run:
        _, writer = await run.connect()
        writer.write(HEAD + b"content-length: 10\r\n\r\n{")
        await asyncio.sleep(0.05)
        writer.transport.abort()
        await serves_on(run)
        assert run.dispatcher.open_calls == 0


@pytest.mark.parametrize(
    "sent",
    [
        b"\x00\x01\x02\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        HEAD + b"content-length: -5\r\n\r\n",
        HEAD + b"content-length: x\r\n\r\n",
        HEAD + b"transfer-encoding: chunked\r\n\r\nzz\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nhost: x\r\n\r\n",
    ],
)
async def test_what_is_no_http_is_cut_off(sent: bytes) -> None:
    async with running(header_timeout_s=0.5, body_timeout_s=0.5) as run:
        answer = await run.raw(sent, limit_s=3)
        assert answer == b"" or answer.startswith(b"HTTP/1.1 4"), answer
        await serves_on(run)
