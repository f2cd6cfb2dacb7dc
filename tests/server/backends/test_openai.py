"""The OpenAI-compatible backend against a server that speaks the API."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import aclosing
from time import monotonic
from typing import Any

import pytest
from google.rpc.error_details_pb2 import RetryInfo
from tests.server.backends.backend_suite import CTX, eventually, text_of, written
from tests.server.backends.openai_server import EMBEDDER, KEY, WRITER, OpenaiServer
from tests.server.backends.openai_suite import OpenaiSuite

from protoplane_base import Code, PlaneError
from protoplane_server.backends.interface import (
    Backend,
    BackendContext,
    Capability,
    ChatMessage,
    Chunk,
    FinishReason,
    Sampling,
    Tokens,
    Usage,
)
from protoplane_server.backends.openai.settings import OpenaiSettings
from protoplane_server.backends.opening import open_backend

pytestmark = pytest.mark.anyio


class TestOpenai(OpenaiSuite):
    writer = WRITER
    embedder = EMBEDDER

    @pytest.fixture(autouse=True)
    def served(self, openai_app: OpenaiServer) -> None:
        openai_app.reset()
        self.url = f"openai:{openai_app.url}?key={KEY}"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def app(openai_app: OpenaiServer) -> OpenaiServer:
    openai_app.reset()
    return openai_app


@pytest.fixture
async def backend(app: OpenaiServer) -> AsyncIterator[Backend]:
    opened = open_backend(f"openai:{app.url}?key={KEY}")
    await opened.start()
    try:
        yield opened
    finally:
        await opened.stop()


async def write(backend: Backend, prompt: Any, **sampling: Any) -> list[Chunk]:
    sampling = {"max_tokens": 6, "seed": 1, **sampling}
    return await written(backend.generate(WRITER, prompt, Sampling(**sampling), CTX))


async def test_it_lists_what_the_server_has(app: OpenaiServer, backend: Backend) -> None:
    embedder, writer = await backend.list()
    assert (embedder.name, embedder.capabilities) == (EMBEDDER, frozenset({Capability.EMBED}))
    assert (writer.name, writer.capabilities) == (WRITER, frozenset({Capability.GENERATE}))
    assert (writer.context_tokens, writer.platform) == (4096, "openai")
    assert writer == await backend.metadata(WRITER)
    app.models.append({"id": "another", "object": "model"})
    # It asks anew for what it does not know.
    assert (await backend.metadata("another")).name == "another"


async def test_what_the_server_is_asked(app: OpenaiServer, backend: Backend) -> None:
    sampling = Sampling(
        temperature=0.5,
        top_p=0.9,
        top_k=7,
        seed=3,
        max_tokens=5,
        stop=("zz",),
        stop_tokens=(9,),
        repetition_penalty=1.1,
        presence_penalty=0.1,
        frequency_penalty=0.2,
    )
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    ctx = BackendContext(request_id="call-7", traceparent=trace)
    await written(backend.generate(WRITER, "The state", sampling, ctx))
    [request] = app.requests
    assert request == {
        "model": WRITER,
        "prompt": "The state",
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 7,
        "seed": 3,
        "max_tokens": 5,
        "stop": ["zz"],
        "stop_token_ids": [9],
        "repetition_penalty": 1.1,
        "presence_penalty": 0.1,
        "frequency_penalty": 0.2,
    }
    assert (app.headers["traceparent"], app.headers["x-client-request-id"]) == (trace, "call-7")
    # Some servers refuse those that are no UUID.
    assert "x-request-id" not in app.headers


async def test_texts_tokens_and_conversations(app: OpenaiServer, backend: Backend) -> None:
    plain = await write(backend, "The state")
    assert await write(backend, Tokens((1, 2, 3))) == plain
    talk = [ChatMessage("system", "Be short."), ChatMessage("user", "Hello")]
    assert text_of(await write(backend, talk)) == text_of(plain)
    prompts = [each.get("prompt") for each in app.requests]
    assert prompts == ["The state", [1, 2, 3], None]
    assert app.requests[2]["messages"] == [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "Hello"},
    ]
    assert plain[-1].usage == Usage(4, 6)


async def test_texts_may_go_as_messages(app: OpenaiServer) -> None:
    backend = open_backend(f"openai:{app.url}/?key={KEY}&text=chat")
    await backend.start()
    try:
        assert text_of(await write(backend, "Hello"))
        assert app.requests[0]["messages"] == [{"role": "user", "content": "Hello"}]
        with pytest.raises(PlaneError, match="send a text"):
            await write(backend, Tokens((1,)))
    finally:
        await backend.stop()


async def test_why_a_text_ended(backend: Backend) -> None:
    assert (await write(backend, "a"))[-1].finish is FinishReason.LENGTH
    assert (await write(backend, "!filter"))[-1].finish is FinishReason.CONTENT_FILTER
    uncounted = (await write(backend, "!uncounted"))[-1]
    assert uncounted.usage == Usage(0, 6)


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, Code.INVALID_ARGUMENT),
        (403, Code.FAILED_PRECONDITION),
        (404, Code.NOT_FOUND),
        (422, Code.INVALID_ARGUMENT),
        (429, Code.RESOURCE_EXHAUSTED),
        (500, Code.INTERNAL),
        (503, Code.UNAVAILABLE),
        (504, Code.DEADLINE_EXCEEDED),
    ],
)
async def test_errors_of_the_server(backend: Backend, status: int, code: Code) -> None:
    with pytest.raises(PlaneError, match="as you wish") as caught:
        await write(backend, f"!status {status}")
    assert caught.value.code is code
    retries = [each for each in caught.value.details if isinstance(each, RetryInfo)]
    waits_s = [each.retry_delay.seconds for each in retries]
    assert waits_s == ([7] if status in (429, 503) else [])
    stats = await backend.stats(WRITER)
    assert (stats.in_flight, stats.failed + stats.cancelled) == (0, 1)
    assert await write(backend, "a")


@pytest.mark.parametrize(
    ("order", "code", "told"),
    [
        ("!break", Code.UNAVAILABLE, "cannot be reached"),
        ("!cut", Code.UNAVAILABLE, "broke off within a text"),
        ("!error", Code.UNAVAILABLE, "out of memory"),
    ],
)
async def test_a_text_that_breaks_off(backend: Backend, order: str, code: Code, told: str) -> None:
    got: list[Chunk] = []

    async def read() -> None:
        async for chunk in backend.generate(WRITER, order, Sampling(max_tokens=20), CTX):
            got.append(chunk)  # noqa: PERF401  # what came before the error counts

    with pytest.raises(PlaneError, match=told) as caught:
        await read()
    assert caught.value.code is code
    assert len(got) == 3


@pytest.mark.parametrize("order", ["!slow", "!hang"])
async def test_the_server_learns_that_the_caller_is_gone(
    app: OpenaiServer, backend: Backend, order: str
) -> None:
    sampling = Sampling(max_tokens=100_000)

    async def read() -> None:
        await written(backend.generate(WRITER, order, sampling, CTX))

    task = asyncio.create_task(read())

    async def asked() -> bool:
        return len(app.requests) == 1

    await eventually(asked)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    async def left() -> bool:
        return app.left == 1

    await eventually(left)


async def test_the_server_learns_that_a_stream_was_left(
    app: OpenaiServer, backend: Backend
) -> None:
    sampling = Sampling(max_tokens=100_000)
    async with aclosing(backend.generate(WRITER, "!slow", sampling, CTX)) as chunks:
        await anext(chunks)

    async def left() -> bool:
        return app.left == 1

    await eventually(left)


async def test_a_deadline_reaches_a_server_that_hangs(app: OpenaiServer, backend: Backend) -> None:
    ctx = BackendContext(request_id="late", deadline=monotonic() + 0.3)
    with pytest.raises(PlaneError, match="late ran out of time") as caught:
        await written(backend.generate(WRITER, "!hang", Sampling(), ctx))
    assert caught.value.code is Code.DEADLINE_EXCEEDED

    async def left() -> bool:
        return app.left == 1

    await eventually(left)


async def test_a_wrong_key(app: OpenaiServer) -> None:
    backend = open_backend(f"openai:{app.url}?key=sk-other")
    with pytest.raises(PlaneError, match="does not take this instance's key") as caught:
        await backend.start()
    assert caught.value.code is Code.FAILED_PRECONDITION
    assert "sk-other" not in caught.value.message
    assert not await backend.live()


async def test_a_server_that_is_away() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    backend = open_backend(f"openai:http://127.0.0.1:{port}/v1")
    with pytest.raises(PlaneError, match="cannot be reached") as caught:
        await backend.start()
    assert caught.value.code is Code.UNAVAILABLE
    with pytest.raises(PlaneError, match="start it first"):
        await backend.list()


async def test_models_of_the_settings(app: OpenaiServer) -> None:
    url = f"openai:{app.url}?key={KEY}&model=one&model=two&embedder=two"
    backend = open_backend(url)
    await backend.start()
    try:
        capabilities = {each.name: set(each.capabilities) for each in await backend.list()}
        assert capabilities == {"one": {Capability.GENERATE}, "two": {Capability.EMBED}}
        # The server does not have it.
        with pytest.raises(PlaneError, match="does not exist") as caught:
            await written(backend.generate("one", "a", Sampling(), CTX))
        assert caught.value.code is Code.NOT_FOUND
    finally:
        await backend.stop()


def test_urls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("MY_KEY", "sk-mine")
    parse = OpenaiSettings.parse
    assert parse("openai:http://a:8000/v1/") == OpenaiSettings(base_url="http://a:8000/v1")
    found = parse("openai:https://a/v1?key_env=MY_KEY&timeout_s=5&text=chat&model=m/n")
    assert (found.key, found.timeout_s, found.chat, found.models) == ("sk-mine", 5, True, ("m/n",))
    assert "sk-mine" not in repr(found)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-common")
    assert parse("openai:http://a/v1").key == "sk-common"
    assert parse("openai:http://a/v1?key=sk-own").key == "sk-own"


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("openai:", "it looks like"),
        ("openai:127.0.0.1:8000", "it looks like"),
        ("openai:ftp://a/v1", "it looks like"),
        ("openai:http://a:x/v1", "no URL"),
        ("openai:http://me:secret@a/v1", "a key goes into"),
        ("openai:http://a/v1?text=prose", "'prose'"),
        ("openai:http://a/v1?timeout_s=0", "above 0"),
        ("openai:http://a/v1?timeout_s=soon", "'soon'"),
        ("openai:http://a/v1?key_env=NOT_THERE_AT_ALL", "NOT_THERE_AT_ALL"),
        ("openai:http://a/v1?key=secret&key_env=PATH", "contradict"),
        ("openai:http://a/v1?text=chat&text=chat", "more than once"),
        ("openai:http://a/v1?tone=kind", "'tone'; there are embedder, key, key_env, model"),
        ("openai:http://a/v1?model=m&tone=secret", "[?]model=m&tone=…' is no URL .* 'tone'"),
        ("openai:http://a/v1?keyy=secret", "[?]keyy=…' is no URL"),
    ],
)
def test_urls_that_are_none(url: str, told: str) -> None:
    with pytest.raises(PlaneError, match=told) as caught:
        open_backend(url)
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert "secret" not in caught.value.message
