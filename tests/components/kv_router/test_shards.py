"""An index in processes of its own: it answers as a whole one does, and one of them may die."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.component_suite import component_options
from tests.components.kv_router.truth import eventually

from protoplane.router.v1 import (
    BlockSequence,
    BlocksStored,
    DumpRequest,
    ExplainRequest,
    KvEvent,
    KvRouterClient,
    Prompt,
    QueryRequest,
    RegisterWorkerRequest,
    RemoveWorkerRequest,
    RoutingRequest,
    SelectRequest,
    Worker,
)
from protoplane_base import Code, PlaneError
from protoplane_client import connect
from protoplane_components.kv_router import KvRouter, Router, block_hashes
from protoplane_components.kv_router.index import Target, UnknownParentError
from protoplane_components.kv_router.parts import IndexPart, part_of_prompt
from protoplane_components.kv_router.shard import KvShard, shard_path
from protoplane_components.kv_router.shard_process import ShardPlace, ShardProcesses
from protoplane_components.kv_router.worker import KvWorker
from protoplane_server import Server

pytestmark = pytest.mark.anyio

COUNT = 2
PROMPTS = [block_hashes([*range(first, first + 64)], 16).tolist() for first in range(0, 800, 100)]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Place:
    """An engine with shards, routers and workers on it."""

    def __init__(self, folder: Path, stack: AsyncExitStack) -> None:
        self.engine = f"local:{folder / 'engine'}"
        self._folder = folder
        self._stack = stack

    def options(self, name: str) -> Any:
        objects = self._folder / "objects"
        objects.mkdir(exist_ok=True)
        link = ("link+tcp://127.0.0.1:0",)
        return component_options(engine=self.engine, objects=objects.as_uri(), name=name, link=link)

    async def shard(self, number: int) -> tuple[KvShard, Server]:
        """Start a shard here."""
        shard = KvShard(16, snapshot_interval_s=None)
        server = Server(shard, self.options(f"{shard_path(number, COUNT)}/{number}"))
        await self._stack.enter_async_context(server)
        return shard, server

    async def worker(self, id_: str, *prompts: list[int]) -> KvWorker:
        """Start a worker that holds prompts."""
        worker = KvWorker(Worker(block_size=16))
        await self._stack.enter_async_context(Server(worker, self.options(f"test/worker/{id_}")))
        for prompt in prompts:
            worker.stored(prompt[:2], prompt[:2])
            worker.stored(prompt[2:], prompt[2:], parent=prompt[1])
        return worker

    async def router(self) -> KvRouterClient:
        """Start a router that asks the shards."""
        router = KvRouter(Router(block_size=16), shards=COUNT)
        server = Server(router, self.options("protoplane/router/r"))
        await self._stack.enter_async_context(server)
        plane = await self._stack.enter_async_context(connect(server.link_addresses[0]))
        return KvRouterClient(plane)


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    async with AsyncExitStack() as stack:
        yield Place(tmp_path, stack)


def request(prompt: list[int]) -> RoutingRequest:
    return RoutingRequest(prompt=Prompt(blocks=BlockSequence(hashes=prompt)), omit_scores=True)


async def held(client: KvRouterClient, prompt: list[int]) -> dict[str, int]:
    """How many blocks of a prompt each worker has, as the router says."""
    answer = await client.query(QueryRequest(prompt=Prompt(blocks=BlockSequence(hashes=prompt))))
    return {each.worker_id: each.device_blocks for each in answer.overlaps}


async def until(client: KvRouterClient, prompts: list[list[int]], expected: dict[str, int]) -> None:
    async with asyncio.timeout(30):
        for prompt in prompts:
            while await held(client, prompt) != expected:  # noqa: ASYNC110
                await asyncio.sleep(0.02)


def test_a_part_has_its_own_sequences_alone() -> None:
    parts = [IndexPart(number, COUNT) for number in range(COUNT)]
    target = Target("a")
    for prompt in PROMPTS:
        mine = part_of_prompt(prompt, COUNT)
        for number, part in enumerate(parts):
            part.store(target, prompt[:2], prompt[:2])
            if number == mine:
                part.store(target, prompt[2:], prompt[2:], parent=prompt[1])
                assert part.find(prompt)[target].device == 4
            else:
                with pytest.raises(UnknownParentError):
                    part.store(target, prompt[2:], prompt[2:], parent=prompt[1])
                assert part.find(prompt) == {}
    assert {part_of_prompt(prompt, COUNT) for prompt in PROMPTS} == {0, 1}
    with pytest.raises(PlaneError, match="no part 2 of 2"):
        IndexPart(2, 2)


async def test_shards_together_know_what_one_index_would(place: Place) -> None:
    shards = [(await place.shard(number))[0] for number in (1, 2)]
    await place.worker("one", *PROMPTS)
    client = await place.router()
    await until(client, PROMPTS, {"one": 4})
    chosen = (await client.select(SelectRequest(request=request(PROMPTS[0])))).selection
    assert chosen is not None
    assert (chosen.worker_id, chosen.overlap_blocks, chosen.degraded) == ("one", 4, False)
    told = await client.explain(ExplainRequest(request=request(PROMPTS[1])))
    assert any("which has 4 of the blocks" in step for step in told.steps)
    counts = [shard.index.stats().blocks for shard in shards if shard.index is not None]
    assert sum(counts) == 4 * len(PROMPTS)
    assert min(counts) > 0
    # A prompt without a full block is nobody's.
    assert await held(client, []) == {}


async def test_a_dead_shard_degrades_its_part_alone_and_heals(place: Place) -> None:
    [mine, *_] = [prompt for prompt in PROMPTS if part_of_prompt(prompt, COUNT) == 0]
    [other, *_] = [prompt for prompt in PROMPTS if part_of_prompt(prompt, COUNT) == 1]
    processes = ShardProcesses([1, 2], COUNT, ShardPlace(engine=place.engine))
    async with processes:
        worker = await place.worker("one", *PROMPTS)
        client = await place.router()
        await until(client, PROMPTS, {"one": 4})
        os.kill(processes.pids[1], signal.SIGKILL)
        async with asyncio.timeout(30):
            while True:
                # Each is answered, whatever is dead.
                answer = await client.select(SelectRequest(request=request(mine)))
                assert answer.selection is not None
                if answer.selection.degraded:
                    break
        assert (answer.selection.worker_id, answer.selection.policy) == ("one", "least-loaded")
        assert await held(client, mine) == {}
        assert await held(client, other) == {"one": 4}
        # What happens meanwhile is in the index of the one that takes its place.
        worker.removed(mine[3:])
        await until(client, [mine], {"one": 3})
        healed = (await client.select(SelectRequest(request=request(mine)))).selection
        assert healed is not None
        assert (healed.overlap_blocks, healed.degraded) == (3, False)
    assert not processes.pids


async def test_registered_workers_are_told_to_shards_that_come_later(place: Place) -> None:
    client = await place.router()
    await client.register_worker(
        RegisterWorkerRequest(worker=Worker(id="hand", block_size=16, endpoint="http://x"))
    )
    _, server = await place.shard(1)
    shard, _ = await place.shard(2)
    [prompt, *_] = [prompt for prompt in PROMPTS if part_of_prompt(prompt, COUNT) == 1]
    stored = BlocksStored(block_hashes=prompt, tokens_hashes=prompt)
    event = KvEvent(worker="hand", event_id=1, block_size=16, stored=stored)
    await server.events.publish(
        "router/kv-events/hand/0",
        "protoplane.router.v1.KvEvent",
        event.to_bytes(),
        event.model_dump_json(),
        durable=True,
    )
    await until(client, [prompt], {"hand": 4})
    removed = await client.remove_worker(RemoveWorkerRequest(worker_id="hand"))
    assert removed.found
    index = shard.index
    assert index is not None
    await eventually(lambda: index.stats().blocks == 0)


async def test_a_router_with_shards_has_nothing_to_dump(place: Place) -> None:
    client = await place.router()
    with pytest.raises(PlaneError, match="the shards have the index") as raised:
        [piece async for piece in client.dump(DumpRequest())]
    assert raised.value.code is Code.UNIMPLEMENTED


async def test_shards_need_an_engine_and_a_name(place: Place) -> None:
    with pytest.raises(PlaneError, match="no engine to find them by"):
        await Server(KvRouter(shards=2), component_options()).start()
    with pytest.raises(PlaneError, match="says of no shard which one it is"):
        await Server(KvShard(16), place.options("test/shard/3-of-2/x")).start()
    with pytest.raises(PlaneError, match="memory: is in one process alone"):
        ShardProcesses([1], 1, ShardPlace(engine="memory:"))
