"""KV events over ZeroMQ: in order, each once, and what is lost is told."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest
from tests.components.kv_router.vllm_publisher import publishing, stored

from protoplane_base import Code, PlaneError
from protoplane_components.kv_router.vllm_stream import Missed, VllmStream
from protoplane_components.kv_router.vllm_wire import BlocksStored, VllmBatch

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def seen(got: VllmBatch | Missed) -> object:
    if isinstance(got, Missed):
        return got
    [event] = got.events
    assert isinstance(event, BlocksStored)
    return event.hashes[0]


async def take(stream: VllmStream, count: int, *later: object) -> list[object]:
    del later
    async with asyncio.timeout(30), aclosing(stream.batches()) as batches:
        return [seen(await anext(batches)) for _ in range(count)]


async def test_what_was_before_comes_by_replay() -> None:
    async with publishing() as engine:
        for number in range(3):
            await engine.send(stored(number))
        assert await take(VllmStream(engine.endpoint, replay=engine.replay), 3) == [0, 1, 2]


async def test_a_batch_that_was_lost_on_the_way_is_asked_for() -> None:
    async with publishing() as engine:
        await engine.send(stored(0))
        stream = VllmStream(engine.endpoint, replay=engine.replay)
        async with asyncio.timeout(30), aclosing(stream.batches()) as batches:
            got = [seen(await anext(batches))]
            for number in (1, 2):
                await engine.send(stored(number), lost=True)
            number = 3
            while len(got) < 4:
                # A subscription takes effect when it does.
                waiting = asyncio.ensure_future(anext(batches))
                while not waiting.done():
                    await engine.send(stored(number))
                    number += 1
                    await asyncio.wait([waiting], timeout=0.1)
                got.append(seen(waiting.result()))
            assert got == [0, 1, 2, 3]


async def test_what_is_kept_no_more_is_told() -> None:
    async with publishing(kept=2) as engine:
        for number in range(5):
            await engine.send(stored(number))
        assert await take(VllmStream(engine.endpoint, replay=engine.replay), 3) == [
            Missed(0, 3),
            3,
            4,
        ]


async def test_an_engine_that_starts_anew() -> None:
    async with publishing() as engine:
        for number in range(3):
            await engine.send(stored(number))
        stream = VllmStream(engine.endpoint, replay_timeout_s=0.1)
        async with asyncio.timeout(30), aclosing(stream.batches()) as batches:
            waiting = asyncio.ensure_future(anext(batches))
            while not waiting.done():
                await engine.send(stored(100))
                await asyncio.wait([waiting], timeout=0.1)
            assert isinstance(waiting.result(), Missed)
            assert seen(await anext(batches)) == 100
            engine.batches.clear()
            engine.first = 0
            found: object = 100
            while found == 100:
                await engine.send(stored(200))
                found = seen(await anext(batches))
            assert isinstance(found, Missed)
            assert seen(await anext(batches)) == 200


async def test_what_is_no_endpoint_is_said() -> None:
    with pytest.raises(PlaneError) as caught:
        await take(VllmStream("tcp//nowhere"), 1)
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert "tcp://host:5557" in caught.value.message
