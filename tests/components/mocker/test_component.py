"""The mocker as a served component: what clients get, and what routers are told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import cast

import pytest
from tests.component_suite import component_options

from protoplane.inference.v1 import (
    FinishReason,
    GenerateRequest,
    GenerateResponse,
    InferenceClient,
    ListModelsRequest,
    SamplingParameters,
    TokenIds,
)
from protoplane.router.v1 import KvEvent, KvStateRequest, KvWorkerClient
from protoplane_base import Code, PlaneError
from protoplane_client import Plane, Received, connect
from protoplane_components.kv_router.hashing import block_hashes, sequence_hashes
from protoplane_components.mocker.component import Mocker, written_after
from protoplane_components.mocker.settings import MockerSettings, parse_settings
from protoplane_server import Server
from protoplane_server.component import load

pytestmark = pytest.mark.anyio
SETTINGS = MockerSettings(block_size=4, blocks=64, speedup=100)
PROMPT = list(range(100, 110))


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def mocker() -> Mocker:
    return Mocker(SETTINGS)


@pytest.fixture
async def plane(mocker: Mocker) -> AsyncIterator[Plane]:
    options = component_options(
        http="127.0.0.1:0", engine="memory:", name="protoplane/inference/one"
    )
    async with (
        Server([mocker, mocker.cache], options) as server,
        connect(str(server.http_url)) as plane,
    ):
        yield plane


def asked(prompt: list[int], output: int) -> GenerateRequest:
    return GenerateRequest(
        token_ids=TokenIds(ids=prompt), sampling=SamplingParameters(max_tokens=output)
    )


async def answers(plane: Plane, request: GenerateRequest) -> list[GenerateResponse]:
    return [each async for each in InferenceClient(plane).generate(request, timeout_s=30)]


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not true():  # noqa: ASYNC110  # nobody is told when an engine forgets a request
            await asyncio.sleep(0.01)


async def test_it_writes_what_the_prompt_asks_for(plane: Plane) -> None:
    told = await answers(plane, asked(PROMPT, 9))
    assert [each.index for each in told] == list(range(len(told)))
    assert [token for each in told for token in each.token_ids] == written_after(PROMPT, 9)
    assert "".join(each.text for each in told).encode() == bytes(written_after(PROMPT, 9))
    assert told[0].model == "mock"
    last = told[-1]
    assert last.finish_reason == FinishReason.FINISH_REASON_LENGTH
    assert last.usage is not None
    assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (10, 9)


async def test_a_text_is_its_bytes(plane: Plane) -> None:
    request = GenerateRequest(prompt="Grüße", sampling=SamplingParameters(max_tokens=1))
    [answer] = await answers(plane, request)
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 7


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (GenerateRequest(), Code.INVALID_ARGUMENT),
        (asked([1], 0), Code.INVALID_ARGUMENT),
        (asked([-1], 1), Code.INVALID_ARGUMENT),
        (asked([1] * 300, 1), Code.INVALID_ARGUMENT),
        (GenerateRequest(prompt="a", model="other"), Code.NOT_FOUND),
    ],
)
async def test_what_it_cannot_do_it_says(
    plane: Plane, request_: GenerateRequest, code: Code
) -> None:
    with pytest.raises(PlaneError) as caught:
        await answers(plane, request_)
    assert caught.value.code is code


async def test_it_tells_its_model(plane: Plane) -> None:
    [model] = (await InferenceClient(plane).list_models(ListModelsRequest())).models
    assert (model.name, model.platform, model.context_tokens) == ("mock", "mocker", 256)


async def test_routers_hear_what_is_in_the_cache(plane: Plane, mocker: Mocker) -> None:
    """From the events alone, and from the state, somebody else knows the cache."""
    believed: dict[int, int] = {}
    # Twice as much as the cache holds, so that blocks have to go.
    prompts = [[*PROMPT, number, *range(30)] for number in range(12)]
    for prompt in prompts:
        await answers(plane, asked(prompt, 3))

    told_all = plane.subscribe("router/kv-events/**", after="0")
    async with asyncio.timeout(30), aclosing(cast("AsyncGenerator[Received]", told_all)) as events:
        last = 0
        async for event in events:
            assert isinstance(event, Received)
            told = KvEvent.model_validate_json(event.json)
            assert told.worker == "one"
            assert told.event_id == last + 1
            last = told.event_id
            if told.stored is not None:
                parent = told.stored.parent_hash
                assert parent is None or parent in believed
                believed.update(
                    zip(told.stored.block_hashes, told.stored.tokens_hashes, strict=True)
                )
            if told.removed is not None:
                for block in told.removed.block_hashes:
                    del believed[block]
            if believed.keys() == mocker.engine.pool.cached():
                break
    assert 0 < len(believed) <= SETTINGS.blocks
    newest = block_hashes(prompts[-1], SETTINGS.block_size).tolist()
    for block, tokens in zip(sequence_hashes(newest), newest, strict=True):
        assert believed[block] == tokens

    pieces = KvWorkerClient(plane).kv_state(KvStateRequest(worker="one"), timeout_s=30)
    state = {block async for piece in pieces for block in piece.block_hashes}
    assert state == believed.keys()


async def test_who_leaves_gives_back_what_he_held(plane: Plane, mocker: Mocker) -> None:
    stream = InferenceClient(plane).generate(asked(PROMPT, 200), timeout_s=30)
    async with aclosing(cast("AsyncGenerator[GenerateResponse]", stream)) as told:
        async for _ in told:
            break
    await until(lambda: not mocker.engine.pool.held and not mocker.engine.running)


async def test_many_are_answered_together(plane: Plane, mocker: Mocker) -> None:
    async with asyncio.TaskGroup() as tasks:
        all_told = [tasks.create_task(answers(plane, asked([n, 1, 2], 20))) for n in range(12)]
    for number, told in enumerate(all_told):
        written = [token for each in told.result() for token in each.token_ids]
        assert written == written_after([number, 1, 2], 20)
    # One after the other there would be a step for each token.
    assert mocker.engine.stats.steps < 12 * 20


async def test_a_stopped_engine_says_so() -> None:
    mocker = Mocker(MockerSettings(speedup=1e-6))
    options = component_options(http="127.0.0.1:0", grace_s=0.1)
    async with Server(mocker, options) as server, connect(str(server.http_url)) as plane:
        call = asyncio.create_task(answers(plane, asked(PROMPT, 2)))
        await until(lambda: mocker.engine.running > 0)
        await server.__aexit__(None, None, None)
        with pytest.raises(PlaneError) as caught:
            await call
    assert caught.value.code in (Code.UNAVAILABLE, Code.CANCELLED)


def test_both_services_are_served_by_one_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROTOPLANE_MOCKER", "blocks=32, speedup=2.5")
    server = Server(load("protoplane_components.mocker:mocker"))
    assert set(server.services) == {
        "protoplane.inference.v1.InferenceService",
        "protoplane.router.v1.KvWorkerService",
    }


def test_settings_are_read_from_a_line() -> None:
    assert parse_settings("") == MockerSettings()
    assert parse_settings("blocks=32, speedup=2.5,") == MockerSettings(blocks=32, speedup=2.5)


@pytest.mark.parametrize("text", ["blocks", "blocks=0", "speed=2", "speedup=inf", "model=a/b"])
def test_settings_that_do_not_do_are_named(text: str) -> None:
    with pytest.raises(PlaneError, match=f"PROTOPLANE_MOCKER: {text.partition('=')[0]}: "):
        parse_settings(text)
