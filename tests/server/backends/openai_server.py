"""A server that speaks OpenAI's API, for tests: the shapes are those of its API reference.

It writes letters by chance, and does what a prompt that begins with ``!`` says.
"""

from __future__ import annotations

import asyncio
import json
import random
import socket
import threading
import time
from collections.abc import AsyncIterator, Generator
from contextlib import contextmanager
from typing import Any

import pytest
import uvicorn

from protoplane_server.backends.embedded.lexical import embed

WRITER = "writer"
EMBEDDER = "tiny-embed"
KEY = "sk-test"

_LIMITS = {"temperature": (0, 2), "top_p": (0, 1), "top_k": (0, 100), "max_tokens": (1, 100_000)}


class BrokenOffError(Exception):
    """The server falls over in the middle of an answer."""


class OpenaiServer:
    """The application, and what it has seen.

    Attributes:
        url: Where its API begins.
        requests: Bodies of the requests that came.
        headers: Headers of the last one.
        left: How many streams their callers left early.
        models: What it lists.
        down: Whether it refuses all requests with 503.
    """

    def __init__(self) -> None:
        self.url = ""
        self.requests: list[dict[str, Any]] = []
        self.headers: dict[str, str] = {}
        self.left = 0
        self.models: list[dict[str, Any]] = []
        self.reset()

    def reset(self) -> None:
        """Forget what was."""
        self.requests.clear()
        self.left = 0
        self.models = [
            {"id": WRITER, "object": "model", "owned_by": "test", "max_model_len": 4096},
            {"id": EMBEDDER, "object": "model", "owned_by": "test"},
        ]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        self.headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        if self.headers.get("authorization") != f"Bearer {KEY}":
            return await _error(send, 401, "Incorrect API key provided.")
        if scope["path"] == "/v1/models":
            return await _json(send, 200, {"object": "list", "data": self.models})
        request = json.loads(body)
        self.requests.append(request)
        if request["model"] not in [each["id"] for each in self.models]:
            return await _error(send, 404, f"The model `{request['model']}` does not exist.")
        if scope["path"] == "/v1/embeddings":
            return await self._embed(send, request)
        return await self._write(scope["path"].endswith("chat/completions"), request, receive, send)

    async def _embed(self, send: Any, request: dict[str, Any]) -> None:
        rows = [
            {"object": "embedding", "index": index, "embedding": (3 * vector).tolist()}
            for index, vector in enumerate(embed(request["input"]))
        ]
        usage = {"prompt_tokens": 3 * len(rows), "total_tokens": 3 * len(rows)}
        # In any order: each says its index.
        document = {"object": "list", "data": rows[::-1], "model": EMBEDDER, "usage": usage}
        await _json(send, 200, document)

    async def _write(self, chat: bool, request: dict[str, Any], receive: Any, send: Any) -> None:
        prompt = request["messages"][-1]["content"] if chat else request["prompt"]
        order, _, value = (prompt if isinstance(prompt, str) else "").partition(" ")
        if order == "!status":
            headers = [(b"retry-after", b"7")]
            return await _error(send, int(value), "as you wish", headers)
        if order == "!hang":
            while (await receive())["type"] != "http.disconnect":
                pass
            self.left += 1
            return None
        for name, (low, high) in _LIMITS.items():
            if not low <= request.get(name, 1) <= high:
                return await _error(send, 400, f"{name} must be in [{low}, {high}]")
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [(b"content-type", b"text/event-stream; charset=utf-8")],
            }
        )
        gone = asyncio.create_task(_gone(receive))
        try:
            async for event in _events(chat, request, order):
                if gone.done():
                    self.left += 1
                    return None
                data = b"data: " + event + b"\n\n"
                await send({"type": "http.response.body", "body": data, "more_body": True})
                await asyncio.sleep(0)
            await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})
        finally:
            gone.cancel()
        return None


async def _events(chat: bool, request: dict[str, Any], order: str) -> AsyncIterator[bytes]:
    seeded = random.Random(request.get("seed"))
    limit, finish = request.get("max_tokens", 16), "length"
    stops, written, sent = request.get("stop", []), "", 0
    tokens = 0
    if chat:
        yield _chunk(True, {"role": "assistant", "content": ""}, None)
    while tokens < limit:
        written += seeded.choice("abcdefghijklmnopqrstuvwxyz      ")
        tokens += 1
        found = [written.index(stop) for stop in stops if stop in written]
        held = max(map(len, stops), default=1) - 1
        end = min(found) if found else max(sent, len(written) - held)
        if end > sent:
            yield _chunk(chat, {"content": written[sent:end]}, None)
            sent = end
        if found:
            finish = "stop"
            break
        if tokens == 3 and order == "!break":
            raise BrokenOffError
        if tokens == 3 and order == "!cut":
            return
        if tokens == 3 and order == "!error":
            yield json.dumps({"error": {"message": "out of memory", "code": 503}}).encode()
            return
        if order == "!slow":
            await asyncio.sleep(0.01)
    if finish == "length" and len(written) > sent:
        yield _chunk(chat, {"content": written[sent:]}, None)
    yield _chunk(chat, {}, "content_filter" if order == "!filter" else finish)
    if order != "!uncounted":
        assert request["stream_options"] == {"include_usage": True}
        usage = {"prompt_tokens": 4, "completion_tokens": tokens, "total_tokens": tokens + 4}
        yield json.dumps({"id": "x", "choices": [], "usage": usage}).encode()


def _chunk(chat: bool, delta: dict[str, Any], finish: str | None) -> bytes:
    choice: dict[str, Any] = {"index": 0, "finish_reason": finish, "logprobs": None}
    if chat:
        choice["delta"] = delta
    else:
        choice["text"] = delta.get("content", "")
    kind = "chat.completion.chunk" if chat else "text_completion"
    return json.dumps({"id": "x", "object": kind, "model": WRITER, "choices": [choice]}).encode()


async def _gone(receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _json(
    send: Any, status: int, document: object, headers: list[tuple[bytes, bytes]] | None = None
) -> None:
    found = [(b"content-type", b"application/json"), *(headers or [])]
    await send({"type": "http.response.start", "status": status, "headers": found})
    await send({"type": "http.response.body", "body": json.dumps(document).encode()})


async def _error(
    send: Any, status: int, message: str, headers: list[tuple[bytes, bytes]] | None = None
) -> None:
    error = {"message": message, "type": "test", "param": None, "code": None}
    await _json(send, status, {"error": error}, headers)


@contextmanager
def openai_server() -> Generator[OpenaiServer]:
    """Run one in a thread of its own until the block ends."""
    application = OpenaiServer()
    config: Any = uvicorn.Config(application, log_config=None, lifespan="off", ws="none")
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        application.url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        until = time.monotonic() + 30
        while not server.started and time.monotonic() < until:
            time.sleep(0.01)
        assert server.started
        try:
            yield application
        finally:
            server.should_exit = True
            server.force_exit = True
            thread.join(30)


@pytest.fixture(scope="session")
def openai_app() -> Generator[OpenaiServer]:
    """A server that all tests of this process share."""
    with openai_server() as server:
        yield server
