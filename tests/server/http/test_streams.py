"""Enveloped calls: streams of the Connect protocol, and gRPC-Web."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import struct
from collections.abc import AsyncIterator

import httpx
import pytest
from google.rpc import status_pb2
from tests.server.http.board import NAME, running

from forge.captioner.v1 import (
    CaptionChunk,
    CaptionRequest,
    CollectRequest,
    CollectResponse,
    ConverseResponse,
)

pytestmark = pytest.mark.anyio
CONNECT_JSON = {"content-type": "application/connect+json"}
CONNECT_PROTO = {"content-type": "application/connect+proto"}


def frame(payload: bytes, flags: int = 0) -> bytes:
    return struct.pack(">BI", flags, len(payload)) + payload


def frames(body: bytes) -> list[tuple[int, bytes]]:
    found: list[tuple[int, bytes]] = []
    while body:
        flags, size = struct.unpack_from(">BI", body)
        found.append((flags, body[5 : 5 + size]))
        body = body[5 + size :]
    return found


async def test_server_stream_in_json() -> None:
    async with running() as run, httpx.AsyncClient(base_url=run.url) as http:
        answer = await http.post(
            f"/{NAME}/Tell", content=frame(b'{"prompt":"a b"}'), headers=CONNECT_JSON
        )
        assert answer.headers["content-type"] == "application/connect+json"
        assert [(flags, json.loads(payload)) for flags, payload in frames(answer.content)] == [
            (0, {"text": "a"}),
            (0, {"text": "b", "index": 1}),
            (2, {}),
        ]


async def test_failure_in_the_middle_is_the_last_frame() -> None:
    async with running() as run, httpx.AsyncClient(base_url=run.url) as http:
        body = frame(CaptionRequest(prompt="a fail b").to_bytes())
        answer = await http.post(f"/{NAME}/Tell", content=body, headers=CONNECT_PROTO)
        first, last = frames(answer.content)
        assert CaptionChunk.from_bytes(first[1]).text == "a"
        assert last[0] == 2
        error = json.loads(last[1])["error"]
        assert (error["code"], error["details"][0]["debug"]) == (
            "failed_precondition",
            {"text": "why"},
        )


async def test_client_stream_arrives_in_pieces() -> None:
    async def body() -> AsyncIterator[bytes]:
        data = b"".join(frame(CollectRequest(text=text).to_bytes()) for text in "abc")
        for at in range(0, len(data), 3):
            yield data[at : at + 3]
            await asyncio.sleep(0.001)

    async with running() as run, httpx.AsyncClient(base_url=run.url) as http:
        answer = await http.post(f"/{NAME}/Join", content=body(), headers=CONNECT_PROTO)
        first, last = frames(answer.content)
        assert CollectResponse.from_bytes(first[1]) == CollectResponse(text="abc", chunks=3)
        assert last == (2, b"{}")


async def test_bidi_goes_back_and_forth_over_one_connection() -> None:
    async with running() as run:
        reader, writer = await run.connect()
        writer.write(
            f"POST /{NAME}/Chat HTTP/1.1\r\nhost: x\r\ncontent-type: application/connect+json\r\n"
            "transfer-encoding: chunked\r\n\r\n".encode()
        )
        assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
        for line in ("one", "two"):
            data = frame(json.dumps({"line": line}).encode())
            writer.write(b"%x\r\n%s\r\n" % (len(data), data))
            size = int(await reader.readline(), 16)
            ((flags, payload),) = frames(await reader.readexactly(size))
            await reader.readline()
            assert (flags, json.loads(payload)) == (0, {"line": line.upper()})
        writer.write(b"0\r\n\r\n")
        size = int(await reader.readline(), 16)
        assert frames(await reader.readexactly(size)) == [(2, b"{}")]
        writer.close()
        await writer.wait_closed()


async def test_compressed_messages() -> None:
    async with running() as run, httpx.AsyncClient(base_url=run.url) as http:
        text = "w" * 3000
        answer = await http.post(
            f"/{NAME}/Tell",
            content=frame(gzip.compress(json.dumps({"prompt": text}).encode()), 1),
            headers=CONNECT_JSON
            | {"connect-content-encoding": "gzip", "connect-accept-encoding": "gzip"},
        )
        assert answer.headers["connect-content-encoding"] == "gzip"
        (flags, payload), _ = frames(answer.content)
        assert flags == 1
        assert json.loads(gzip.decompress(payload))["text"] == text


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "unimplemented"),
        (b"\x00\x00", "invalid_argument"),
        (frame(b'{"prompt":"a"}')[:-3], "invalid_argument"),
        (frame(b'{"prompt":'), "invalid_argument"),
        (frame(b'{"prompt":1}'), "invalid_argument"),
        (frame(b'{"prompt":"a"}') * 2, "unimplemented"),
        (frame(b"", 0x80), "invalid_argument"),
        (frame(b"", 1), "internal"),
        (b"\x00\xff\xff\xff\xff", "resource_exhausted"),
    ],
)
async def test_bad_frames_are_a_clear_error(body: bytes, code: str) -> None:
    async with running() as run, httpx.AsyncClient(base_url=run.url) as http:
        for _ in range(2):
            answer = await http.post(f"/{NAME}/Tell", content=body, headers=CONNECT_JSON)
            assert answer.status_code == 200
            ((flags, payload),) = frames(answer.content)
            assert flags == 2
            assert json.loads(payload)["error"]["code"] == code


async def test_deadline_of_a_stream() -> None:
    async with running() as run, httpx.AsyncClient(base_url=run.url) as http:
        answer = await http.post(
            f"/{NAME}/Tell",
            content=frame(b'{"prompt":"a wait"}'),
            headers=CONNECT_JSON | {"connect-timeout-ms": "60"},
        )
        last = json.loads(frames(answer.content)[-1][1])
        assert last["error"]["code"] == "deadline_exceeded"
        assert run.board.cancelled == 1


@pytest.mark.parametrize("method", ["Tell", "Join", "Chat"])
async def test_leaving_a_stream_cancels_its_handler(method: str) -> None:
    key = {"Tell": "prompt", "Join": "text", "Chat": "line"}[method]
    async with running() as run:
        _, writer = await run.connect()
        data = frame(json.dumps({key: "wait"}).encode())
        writer.write(
            f"POST /{NAME}/{method} HTTP/1.1\r\nhost: x\r\n"
            "content-type: application/connect+json\r\ntransfer-encoding: chunked\r\n\r\n".encode()
            + b"%x\r\n%s\r\n" % (len(data), data)
            + (b"0\r\n\r\n" if method == "Tell" else b"")
        )
        async with asyncio.timeout(30):
            await run.board.started.wait()
        writer.transport.abort()
        await asyncio.sleep(0.1)
        assert run.board.cancelled == 1


@pytest.mark.parametrize("text", [False, True])
async def test_grpc_web(text: bool) -> None:
    kind = "application/grpc-web-text+proto" if text else "application/grpc-web+proto"
    body = frame(CaptionRequest(prompt="a b").to_bytes())
    async with running() as run, httpx.AsyncClient(base_url=run.url) as http:
        answer = await http.post(
            f"/{NAME}/Tell",
            content=base64.b64encode(body) if text else body,
            headers={"content-type": kind, "x-grpc-web": "1"},
        )
        data = answer.content
        if text:
            data = b"".join(base64.b64decode(data[at : at + 4]) for at in range(0, len(data), 4))
        *messages, (flags, trailers) = frames(data)
        assert [CaptionChunk.from_bytes(payload).text for _, payload in messages] == ["a", "b"]
        assert (flags, trailers) == (0x80, b"grpc-status: 0\r\n")


async def test_grpc_web_unary_error_and_timeout() -> None:
    headers = {"content-type": "application/grpc-web+proto"}
    async with running() as run, httpx.AsyncClient(base_url=run.url) as http:
        body = frame(CaptionRequest(prompt="fail").to_bytes())
        answer = await http.post(f"/{NAME}/Say", content=body, headers=headers)
        ((_, trailers),) = frames(answer.content)
        lines = dict(line.split(": ", 1) for line in trailers.decode().splitlines())
        assert lines["grpc-status"] == "9"
        assert lines["grpc-message"] == "told to fail: %C3%BCnlucky"
        status = status_pb2.Status.FromString(
            base64.b64decode(lines["grpc-status-details-bin"] + "==")
        )
        assert status.code == 9
        body = frame(CaptionRequest(prompt="wait").to_bytes())
        answer = await http.post(
            f"/{NAME}/Say", content=body, headers=headers | {"grpc-timeout": "50m"}
        )
        assert b"grpc-status: 4\r\n" in answer.content


async def test_grpc_web_trailers_and_answer() -> None:
    headers = {"content-type": "application/grpc-web"}
    async with running() as run, httpx.AsyncClient(base_url=run.url) as http:
        body = frame(CaptionRequest(prompt="trailer").to_bytes())
        answer = await http.post(f"/{NAME}/Say", content=body, headers=headers)
        (_, payload), (_, trailers) = frames(answer.content)
        assert CollectResponse.from_bytes(payload).text == "trailer"
        assert trailers == b"grpc-status: 0\r\nmood: fine\r\nraw-bin: AP8\r\n"
        assert ConverseResponse() == ConverseResponse.from_bytes(b"")
