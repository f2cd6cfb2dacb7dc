"""OpenAI's API, as the official Python client sees it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from openai import (
    APIError,
    APIStatusError,
    AsyncOpenAI,
    AuthenticationError,
    BadRequestError,
    InternalServerError,
    NotFoundError,
    OpenAI,
    RateLimitError,
)
from openai.types.chat import ChatCompletionMessageParam
from tests.components.gateway.running import ALICE, Running, gateway
from tests.components.gateway.talker import MODELS, Talker

pytestmark = pytest.mark.anyio


@pytest.fixture
async def client(opened: Running) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{opened.url}/v1", api_key="any", max_retries=0) as client:
        yield client


def said(text: str) -> list[ChatCompletionMessageParam]:
    return [{"role": "user", "content": text}]


async def test_chat(client: AsyncOpenAI, talker: Talker) -> None:
    answer = await client.chat.completions.create(
        model="parrot",
        messages=[
            {"role": "developer", "content": "Repeat."},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "polly "},
                    {"type": "text", "text": "wants tea"},
                ],
            },
        ],
        temperature=0.5,
        top_p=0.25,
        seed=-1,
        stop=["x", "y"],
        max_completion_tokens=2,
        presence_penalty=0.5,
        frequency_penalty=-0.5,
        user="somebody",
        extra_body={"top_k": 7, "repetition_penalty": 1.5},
    )
    assert answer.id.startswith("chatcmpl-")
    assert answer.object == "chat.completion"
    assert answer.model == "parrot"
    [choice] = answer.choices
    assert (choice.message.role, choice.message.content) == ("assistant", "polly wants")
    assert choice.finish_reason == "length"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 2)
    assert answer.usage.total_tokens == 5
    [asked] = talker.asked
    assert asked.conversation is not None
    assert [each.role for each in asked.conversation.messages] == ["system", "user"]
    sampling = asked.sampling
    assert sampling is not None
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.5, 0.25, 7)
    assert (sampling.seed, sampling.stop, sampling.max_tokens) == (2**64 - 1, ["x", "y"], 2)
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (0.5, -0.5)
    assert sampling.repetition_penalty == 1.5


async def test_chat_in_pieces(client: AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model="parrot",
        messages=said("ein „Zitat“\u2028 end"),
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert texts == ["", "ein", " „Zitat“", " end", ""]
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices] == [
        *[None] * 4,
        "stop",
    ]
    *before, last = chunks
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.total_tokens == 6
    assert all(chunk.usage is None for chunk in before)


async def test_without_usage_there_is_none(client: AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(model="parrot", messages=said("a b"), stream=True)
    assert all([chunk.usage is None and chunk.choices async for chunk in stream])


async def test_the_bytes_of_a_stream(opened: Running) -> None:
    body = {"model": "parrot", "messages": said("a"), "stream": True}
    async with opened.http() as http:
        answer = await http.post("/v1/chat/completions", json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    *events, done, rest = answer.text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    documents = [json.loads(event.removeprefix("data: ")) for event in events]
    assert {each["object"] for each in documents} == {"chat.completion.chunk"}
    assert all("usage" not in each for each in documents)


async def test_completions(client: AsyncOpenAI, talker: Talker) -> None:
    answer = await client.completions.create(model="parrot", prompt="a b c", max_tokens=2)
    assert answer.object == "text_completion"
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == ("a b", "length")
    await client.completions.create(model="parrot", prompt=[4, 5])
    assert talker.asked[-1].token_ids is not None
    assert talker.asked[-1].token_ids.ids == [4, 5]
    stream = await client.completions.create(model="parrot", prompt=["a b"], stream=True)
    assert [chunk.choices[0].text async for chunk in stream] == ["a", " b", ""]


@pytest.mark.parametrize("form", ["float", "base64", None])
async def test_embeddings(client: AsyncOpenAI, form: Any) -> None:
    options = {} if form is None else {"encoding_format": form}
    answer = await client.embeddings.create(model="vectors", input=["a", "bcd"], **options)
    vectors: list[Any] = [each.embedding for each in answer.data]
    if form == "base64":
        assert vectors[0] == "AACAPwAAAD8AAIC+AACAPw=="
    else:
        assert vectors == [[1.0, 0.5, -0.25, 1.0], [1.0, 0.5, -0.25, 3.0]]
    assert answer.usage.prompt_tokens == 3
    one = await client.embeddings.create(model="vectors", input="a", dimensions=4)
    assert len(one.data[0].embedding) == 4
    with pytest.raises(BadRequestError) as caught:
        await client.embeddings.create(model="vectors", input="a", dimensions=5)
    assert caught.value.param == "dimensions"


async def test_models(client: AsyncOpenAI) -> None:
    found = [model async for model in await client.models.list()]
    assert tuple(model.id for model in found) == MODELS
    one = await client.models.retrieve("parrot/large")
    assert (one.id, one.object, one.owned_by) == ("parrot/large", "model", "test")
    with pytest.raises(NotFoundError) as caught:
        await client.models.retrieve("cat")
    assert caught.value.code == "model_not_found"


def test_the_sync_client(anyio_backend: str) -> None:
    def talk(url: str) -> tuple[str | None, list[str | None], int]:
        with OpenAI(base_url=f"{url}/v1", api_key="any") as client:
            whole = client.chat.completions.create(model="parrot", messages=said("a b"))
            stream = client.chat.completions.create(
                model="parrot", messages=said("a b"), stream=True
            )
            pieces = [chunk.choices[0].delta.content for chunk in stream]
            return whole.choices[0].message.content, pieces, len(client.models.list().data)

    async def main() -> tuple[str | None, list[str | None], int]:
        async with gateway(Talker()) as running:
            return await asyncio.to_thread(talk, running.url)

    assert asyncio.run(main()) == ("a b", ["", "a", " b", None], len(MODELS))


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"n": 2}, "n", "unsupported_parameter"),
        ({"tools": [{"type": "function"}]}, "tools", "unsupported_parameter"),
        ({"tool_choice": "auto"}, "tool_choice", "unsupported_parameter"),
        ({"logprobs": True}, "logprobs", "unsupported_parameter"),
        ({"logprobs": 0}, "logprobs", "unsupported_parameter"),
        ({"response_format": {"type": "json_object"}}, "response_format", "unsupported_parameter"),
        ({"logit_bias": {"50256": -100}}, "logit_bias", "unsupported_parameter"),
        ({"modalities": ["text", "audio"]}, "modalities", "unsupported_parameter"),
        ({"temperature": 2.1}, "temperature", "invalid_value"),
        ({"temperature": "hot"}, "temperature", "invalid_value"),
        ({"top_p": -0.1}, "top_p", "invalid_value"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop", "invalid_value"),
        ({"stop": ""}, "stop", "invalid_value"),
        ({"tempreature": 1}, "tempreature", "unknown_parameter"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value"),
        ({"messages": []}, "messages", "invalid_value"),
        ({"messages": [{"role": "pope", "content": "a"}]}, "messages[0].role", "invalid_value"),
        (
            {"messages": [{"role": "tool", "content": "a"}]},
            "messages[0].role",
            "unsupported_parameter",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages[0].content[0].type",
            "unsupported_parameter",
        ),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "invalid_value"),
        ({"model": None}, "model", "invalid_value"),
    ],
)
async def test_what_cannot_be_done_is_said(
    client: AsyncOpenAI, talker: Talker, body: dict[str, Any], param: str, code: str
) -> None:
    whole = {"model": "parrot", "messages": said("a"), **body}
    with pytest.raises(BadRequestError) as caught:
        await client.post("/chat/completions", body=whole, cast_to=object)
    error = caught.value
    assert (error.param, error.code, error.type) == (param, code, "invalid_request_error")
    assert param in error.message
    assert talker.asked == []


async def test_what_asks_for_nothing_is_taken(client: AsyncOpenAI) -> None:
    await client.chat.completions.create(
        model="parrot",
        messages=said("a"),
        n=1,
        logprobs=False,
        tools=[],
        tool_choice="none",
        response_format={"type": "text"},
        logit_bias={},
        metadata={"a": "b"},
        store=False,
        service_tier="auto",
        extra_body={"min_p": 0.0, "top_logprobs": None},
    )


async def test_a_model_that_is_not_there(client: AsyncOpenAI) -> None:
    for stream in (False, True):
        with pytest.raises(NotFoundError) as caught:
            await client.chat.completions.create(model="cat", messages=said("a"), stream=stream)
        assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


async def test_an_unknown_path(client: AsyncOpenAI) -> None:
    with pytest.raises(NotFoundError) as caught:
        await client.audio.speech.create(model="m", voice="alloy", input="a")
    assert "/v1/audio/speech" in caught.value.message


async def test_a_worker_that_is_away(client: AsyncOpenAI) -> None:
    for stream in (False, True):
        with pytest.raises(InternalServerError) as caught:
            await client.chat.completions.create(
                model="parrot", messages=said("!fail"), stream=stream
            )
        assert caught.value.status_code == 503
        assert caught.value.message.count("the worker died") == 1
        assert caught.value.response.headers["retry-after"]


async def test_a_mistake_tells_nothing_of_the_inside(client: AsyncOpenAI) -> None:
    with pytest.raises(InternalServerError) as caught:
        await client.chat.completions.create(model="parrot", messages=said("!crash"))
    assert caught.value.status_code == 500
    assert "1234" not in caught.value.message


async def test_what_a_model_cannot_do_is_not_tried_again(client: AsyncOpenAI) -> None:
    for stream in (False, True):
        with pytest.raises(BadRequestError) as caught:
            await client.chat.completions.create(
                model="parrot", messages=said("!cannot"), stream=stream
            )
        assert (caught.value.code, caught.value.param) == ("unsupported", "model")


async def test_a_full_queue(client: AsyncOpenAI) -> None:
    with pytest.raises(RateLimitError) as caught:
        await client.chat.completions.create(model="parrot", messages=said("!busy"))
    assert caught.value.response.headers["retry-after"] == "2"
    assert caught.value.response.headers["retry-after-ms"] == "1500"
    assert caught.value.type == "server_overloaded"


async def test_an_error_in_the_middle_of_a_stream(client: AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model="parrot", messages=said("a b !fail c"), stream=True
    )
    texts: list[str | None] = []
    with pytest.raises(APIError) as caught:  # noqa: PT012  # the pieces before it count
        async for chunk in stream:
            texts.append(chunk.choices[0].delta.content)  # noqa: PERF401  # it ends in an error
    assert texts == ["", "a", " b"]
    assert "the worker died" in caught.value.message
    assert caught.value.code == "unavailable"


async def test_a_client_that_goes_cancels_the_work(client: AsyncOpenAI, talker: Talker) -> None:
    stream = await client.chat.completions.create(
        model="parrot", messages=said("a !hang"), stream=True
    )
    assert (await anext(stream)).choices[0].delta.role == "assistant"
    await talker.until(hanging=1, cancelled=0)
    await stream.close()
    await talker.until(hanging=0, cancelled=1)
    waiting = asyncio.create_task(
        client.chat.completions.create(model="parrot", messages=said("!hang"))
    )
    await talker.until(hanging=1, cancelled=1)
    waiting.cancel()
    await asyncio.wait([waiting])
    await talker.until(hanging=0, cancelled=2)


async def test_keys() -> None:
    async with gateway(Talker(), api_keys={"alice": ALICE}) as running:
        base = f"{running.url}/v1"
        async with AsyncOpenAI(base_url=base, api_key=ALICE) as client:
            answer = await client.chat.completions.create(model="parrot", messages=said("a"))
            assert answer.choices[0].message.content == "a"
        async with AsyncOpenAI(base_url=base, api_key="sk-wrong") as client:
            for call in (
                client.models.list,
                lambda: client.chat.completions.create(model="parrot", messages=said("a")),
            ):
                with pytest.raises(AuthenticationError) as caught:
                    await call()
                assert caught.value.code == "invalid_api_key"
                assert caught.value.response.headers["www-authenticate"] == "Bearer"


async def test_the_client_comes_again_after_429(talker: Talker) -> None:
    settings = {"api_keys": {"alice": ALICE}, "requests": "1/second"}
    async with gateway(talker, **settings) as running:
        base = f"{running.url}/v1"

        def answer(client: AsyncOpenAI) -> Any:
            return client.chat.completions.create(model="parrot", messages=said("a"))

        async with AsyncOpenAI(base_url=base, api_key=ALICE, max_retries=0) as client:
            with pytest.raises(RateLimitError) as caught:  # noqa: PT012  # one of them
                for _ in range(10_000):
                    await answer(client)
            error = caught.value
            assert (error.type, error.code) == ("requests", "rate_limit_exceeded")
            headers = error.response.headers
            assert int(headers["retry-after"]) == 1
            assert 0 < int(headers["retry-after-ms"]) <= 1000
            assert headers["x-ratelimit-limit-requests"] == "1"
            assert headers["x-ratelimit-remaining-requests"] == "0"
            assert headers["x-ratelimit-reset-requests"].endswith("s")
        async with AsyncOpenAI(base_url=base, api_key=ALICE, max_retries=8) as client:
            for _ in range(2):
                assert (await answer(client)).choices[0].message.content == "a"


@pytest.mark.parametrize(
    ("asked", "body", "status", "says"),
    [
        ("POST chat/completions", [], 400, "body"),
        ("POST chat/completions", {"a": "x" * 1_000_001}, 413, "large"),
        ("POST chat/completions", "{", 400, "no JSON"),
        ("POST chat/completions", "{} ", 415, "application/json"),
        ("GET chat/completions", None, 405, "POST"),
        ("POST models", {}, 405, "GET"),
        ("POST embeddings", {"model": "m", "input": []}, 400, "input"),
        ("POST embeddings", {"model": "m", "input": [[1]]}, 400, "tokens"),
        ("POST completions", {"model": "m", "prompt": ["a", "b"]}, 400, "one prompt"),
        ("POST completions", {"model": "m", "prompt": []}, 400, "prompt is empty"),
    ],
)
async def test_requests_that_cannot_be_read(
    opened: Running, asked: str, body: object, status: int, says: str
) -> None:
    content = body if isinstance(body, str) else json.dumps(body)
    verb, path = asked.split()
    kind = "text/plain" if status == 415 else "application/json; charset=utf-8"
    headers = {"x-request-id": "mine-7", "content-type": kind}
    async with opened.http() as http:
        answer = await http.request(verb, f"/v1/{path}", content=content, headers=headers)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert says in error["message"]
    assert answer.headers["x-request-id"] == "mine-7"


def request_id(answer: object) -> object:
    """What the client's documentation has as ``answer._request_id``."""
    return vars(answer)["_request_id"]


async def test_ids_of_requests(client: AsyncOpenAI, talker: Talker) -> None:
    answer = await client.chat.completions.create(
        model="parrot", messages=said("a"), extra_headers={"x-request-id": "mine-1"}
    )
    assert request_id(answer) == "mine-1"
    assert talker.contexts[-1].request_id == "mine-1"
    answer = await client.chat.completions.create(model="parrot", messages=said("a"))
    assert request_id(answer) == talker.contexts[-1].request_id
    raw = await client.chat.completions.with_raw_response.create(
        model="parrot", messages=said("a"), stream=True, extra_headers={"x-request-id": "mine-2"}
    )
    assert raw.headers["x-request-id"] == "mine-2"
    await raw.http_response.aclose()


async def test_a_server_that_stops_ends_streams_with_an_error(talker: Talker) -> None:
    async with (
        gateway(talker) as running,
        AsyncOpenAI(base_url=f"{running.url}/v1", api_key="any", max_retries=0) as client,
    ):
        stream = await client.chat.completions.create(
            model="parrot", messages=said("a !hang"), stream=True
        )
        await talker.until(hanging=1, cancelled=0)
        stopping = asyncio.create_task(running.server.stop(0))
        with pytest.raises(APIError) as caught:
            async for _ in stream:
                pass
        assert not isinstance(caught.value, APIStatusError)
        assert caught.value.code == "unavailable"
        await stopping
