"""An engine on the real clock."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from protoplane_base import Code, PlaneError
from protoplane_components.mocker.engine import EngineOptions, MockEngine, MockRequest
from protoplane_components.mocker.realtime import RealTimeEngine

pytestmark = pytest.mark.anyio
OPTIONS = EngineOptions(block_size=4, blocks=64, max_run=1)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def request(name: str, output: int) -> MockRequest:
    return MockRequest(name, 10, output, range(99))


async def told(engine: RealTimeEngine, asked: MockRequest) -> list[int]:
    async with aclosing(engine.write(asked)) as stream:
        return [written.tokens async for written in stream]


async def test_every_token_is_told_in_order() -> None:
    async with asyncio.timeout(30), RealTimeEngine(MockEngine(OPTIONS), 1000) as engine:
        assert await told(engine, request("a", 12)) == list(range(1, 13))


async def test_a_name_is_for_one_request_at_a_time() -> None:
    async with asyncio.timeout(30), RealTimeEngine(MockEngine(OPTIONS)) as engine:
        async with aclosing(engine.write(request("a", 100))) as stream:
            await anext(stream)
            with pytest.raises(PlaneError) as caught:
                await told(engine, request("a", 1))
        assert caught.value.code is Code.ALREADY_EXISTS
        assert engine.engine.pool.held == 0
        assert await told(engine, request("a", 1)) == [1]


async def test_what_can_never_be_done_leaves_nothing() -> None:
    async with asyncio.timeout(30), RealTimeEngine(MockEngine(OPTIONS)) as engine:
        with pytest.raises(PlaneError, match="more blocks"):
            await told(engine, request("a", 1000))
        assert await told(engine, request("a", 1)) == [1]


async def test_who_waits_hears_that_it_has_stopped() -> None:
    engine = RealTimeEngine(MockEngine(OPTIONS), 1e-6)
    with pytest.raises(PlaneError, match="stopped"):
        await told(engine, request("a", 1))
    async with asyncio.timeout(30), engine:
        call = asyncio.create_task(told(engine, request("a", 1)))
        while not engine.engine.running:  # noqa: ASYNC110  # nobody is told of it
            await asyncio.sleep(0)
    with pytest.raises(PlaneError) as caught:
        await call
    assert caught.value.code is Code.UNAVAILABLE


@pytest.mark.parametrize("speedup", [0, -1, float("nan")])
def test_a_speedup_is_above_zero(speedup: float) -> None:
    with pytest.raises(PlaneError, match="speed-up"):
        RealTimeEngine(MockEngine(OPTIONS), speedup)
