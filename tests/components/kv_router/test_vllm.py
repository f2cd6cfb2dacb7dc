"""An index that is fed by vLLM's events, directly and as a worker of the event plane."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from tests.component_suite import component_options
from tests.components.kv_router.truth import eventually
from tests.components.kv_router.vllm_publisher import publishing, removed, stored

from protoplane.router.v1 import KvEvent, Worker
from protoplane_base import Code, PlaneError
from protoplane_components.kv_router.hashing import block_hashes
from protoplane_components.kv_router.index import KvIndex, Overlap, Target
from protoplane_components.kv_router.vllm import IndexSink, VllmFeed, VllmWorker
from protoplane_components.kv_router.vllm_stream import Missed, VllmStream
from protoplane_components.kv_router.vllm_wire import VllmBatch, read_batch
from protoplane_runtime.engines.interface import Event, Start
from protoplane_server import Server

pytestmark = pytest.mark.anyio

TARGET = Target("vllm")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def batch(*events: Any, rank: int | None = None) -> VllmBatch:
    return read_batch(msgspec.msgpack.encode([1.0, list(events), rank]))


def made() -> tuple[KvIndex, VllmFeed]:
    index = KvIndex()
    return index, VllmFeed(IndexSink(index, "vllm"), block_size=2)


def find(index: KvIndex, *blocks: int, lora: str = "") -> dict[Target, Overlap]:
    tokens = [block for block in blocks for _ in range(2)]
    return index.find(block_hashes(tokens, 2, lora=lora))


def test_prompts_find_what_the_engine_holds() -> None:
    index, feed = made()
    feed.take(batch(stored(1, 2), stored(3, parent=2)))
    assert find(index, 1, 2, 3, 4) == {TARGET: Overlap(3)}
    feed.take(batch(removed(3)))
    assert find(index, 1, 2, 3, 4) == {TARGET: Overlap(2)}
    feed.take(batch(["AllBlocksCleared"]))
    assert find(index, 1) == {}


def test_ranks_adapters_and_tiers() -> None:
    index, feed = made()
    feed.take(batch(stored(1), rank=1))
    assert find(index, 1) == {Target("vllm", 1): Overlap(1)}
    feed.take(batch(["BlockStored", [-5], None, [7, 7], 2, None, "CPU", "adapter"]))
    assert find(index, 7) == {}
    assert find(index, 7, lora="adapter") == {TARGET: Overlap(0, 1)}


def test_what_tokens_do_not_identify_is_left_out_and_all_behind_it() -> None:
    index, feed = made()
    marked = {
        "type": "BlockStored",
        "block_hashes": [1, 2, 3],
        "parent_block_hash": None,
        "token_ids": [1, 1, 2, 2, 3, 3],
        "block_size": 2,
        "extra_keys": [None, ["image"], None],
    }
    feed.take(batch(marked, stored(4, parent=3)))
    assert find(index, 1, 2, 3, 4) == {TARGET: Overlap(1)}
    assert feed.left_out == 3
    window = {**marked, "group_idx": 1, "kv_cache_spec_kind": "sliding_window"}
    feed.take(batch({**window, "block_hashes": [9], "token_ids": [9, 9], "extra_keys": None}))
    # Its blocks may be of another size, as in hybrid models.
    other = {**window, "block_hashes": [9], "token_ids": [9] * 4, "block_size": 4}
    feed.take(batch({**other, "extra_keys": None}))
    feed.take(batch({"type": "BlockRemoved", "block_hashes": [1], "group_idx": 1}))
    assert find(index, 9) == {}
    assert find(index, 1) == {TARGET: Overlap(1)}


def test_what_was_missed_leaves_nothing_to_believe() -> None:
    index, feed = made()
    feed.take(batch(stored(1)))
    feed.take(Missed(1, 3))
    assert find(index, 1) == {}
    feed.take(batch(stored(2, parent=1)))
    assert find(index, 1, 2) == {}


def test_another_block_size_is_refused() -> None:
    _, feed = made()
    with pytest.raises(PlaneError, match="blocks of 4 tokens, not 2") as caught:
        feed.take(batch(stored(1, size=4)))
    assert caught.value.code is Code.FAILED_PRECONDITION


async def test_an_index_over_zeromq() -> None:
    index, feed = made()
    async with publishing() as engine:
        await engine.send(stored(1, 2))
        running = asyncio.create_task(feed.run(VllmStream(engine.endpoint, replay=engine.replay)))
        await eventually(lambda: find(index, 1, 2) == {Target("vllm", 0): Overlap(2)})
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


async def test_a_worker_of_the_event_plane() -> None:
    async with publishing() as engine:
        await engine.send(stored(1, 2))
        worker = VllmWorker(engine.endpoint, replay=engine.replay, described=Worker(block_size=2))
        options = component_options(engine="memory:", name="test/vllm/one")
        async with Server(worker, options) as server:
            events = server.events.read(["router/kv-events/one/0"], after=Start.EARLIEST)
            async with asyncio.timeout(30):
                [event, *_] = await anext(events)
            assert isinstance(event, Event)
            told = KvEvent.from_bytes(event.data).stored
            assert told is not None
            assert told.block_hashes == [1, 2]
            assert told.tokens_hashes == block_hashes([1, 1, 2, 2], 2).tolist()
            assert worker.holds(2)


def test_settings_that_do_not_do(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PlaneError, match="PROTOPLANE_VLLM_EVENTS"):
        VllmWorker()
    monkeypatch.setenv("PROTOPLANE_VLLM_BLOCK_SIZE", "many")
    with pytest.raises(PlaneError, match="'many'; give a number"):
        VllmWorker("tcp://127.0.0.1:1")
