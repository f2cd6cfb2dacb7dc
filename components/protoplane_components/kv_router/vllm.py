"""Feeds a router from the KV events of vLLM or SGLang.

    PROTOPLANE_VLLM_EVENTS=tcp://127.0.0.1:5557 PROTOPLANE_VLLM_BLOCK_SIZE=16 \
        protoplane serve protoplane_components.kv_router.vllm:VllmWorker

Served beside an engine, `VllmWorker` tells the event plane what the engine tells over ZeroMQ, and
routers find the engine by it. A program that has an index of its own uses `VllmFeed`.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from typing import Protocol, Self

from protoplane.router.v1 import StorageTier, Worker
from protoplane_base import Code, MissingExtraError, PlaneError
from protoplane_components.kv_router.hashing import block_hashes
from protoplane_components.kv_router.index import KvIndex, Target
from protoplane_components.kv_router.states import tier_of
from protoplane_components.kv_router.worker import KvWorker

try:
    from protoplane_components.kv_router.vllm_stream import Missed, VllmStream
    from protoplane_components.kv_router.vllm_wire import (
        AllCleared,
        BlocksRemoved,
        BlocksStored,
        EngineHash,
        VllmBatch,
        VllmEvent,
    )
except ModuleNotFoundError as error:
    if error.name not in ("msgspec", "zmq"):
        raise
    raise MissingExtraError("vllm", "KV events of vLLM") from error

_log = logging.getLogger("protoplane.router")

_EVENTS = "PROTOPLANE_VLLM_EVENTS"
_REPLAY = "PROTOPLANE_VLLM_REPLAY"
_BLOCK_SIZE = "PROTOPLANE_VLLM_BLOCK_SIZE"
_RANKS = "PROTOPLANE_VLLM_RANKS"
_MODEL = "PROTOPLANE_VLLM_MODEL"
_AGAIN_S = 1.0
_MAX_AGAIN_S = 60.0
_WORD = 1 << 64

# The kinds of KV cache groups that hold every block of a prompt, in what vLLM calls them.
_WHOLE = frozenset({"", "full_attention", "mla_attention"})
_TIERS = {
    "": StorageTier.STORAGE_TIER_DEVICE,
    "GPU": StorageTier.STORAGE_TIER_DEVICE,
    "CPU": StorageTier.STORAGE_TIER_HOST,
    "CPU_PINNED": StorageTier.STORAGE_TIER_HOST,
}


class Sink(Protocol):
    """Who is told of changes to a cache: a `KvWorker`, or an index by `IndexSink`."""

    def stored(
        self,
        blocks: Sequence[int],
        tokens_hashes: Sequence[int],
        *,
        parent: int | None = None,
        tier: StorageTier = StorageTier.STORAGE_TIER_DEVICE,
        dp_rank: int = 0,
    ) -> None:
        """Blocks that follow each other are held; see `KvWorker.stored`."""
        ...

    def removed(
        self,
        blocks: Sequence[int],
        *,
        tier: StorageTier = StorageTier.STORAGE_TIER_DEVICE,
        dp_rank: int = 0,
    ) -> None:
        """Blocks are held no more."""
        ...

    def cleared(self, *, dp_rank: int = 0) -> None:
        """Nothing is held any more."""
        ...


class IndexSink:
    """Puts what an engine tells straight into an index.

    Args:
        index: The index.
        worker: Id of the worker there.
    """

    def __init__(self, index: KvIndex, worker: str) -> None:
        self._index = index
        self._worker = worker

    def stored(
        self,
        blocks: Sequence[int],
        tokens_hashes: Sequence[int],
        *,
        parent: int | None = None,
        tier: StorageTier = StorageTier.STORAGE_TIER_DEVICE,
        dp_rank: int = 0,
    ) -> None:
        """Blocks that follow each other are held."""
        target = Target(self._worker, dp_rank)
        self._index.store(target, blocks, tokens_hashes, parent=parent, tier=tier_of(tier))

    def removed(
        self,
        blocks: Sequence[int],
        *,
        tier: StorageTier = StorageTier.STORAGE_TIER_DEVICE,
        dp_rank: int = 0,
    ) -> None:
        """Blocks are held no more."""
        self._index.remove(Target(self._worker, dp_rank), blocks, tier=tier_of(tier))

    def cleared(self, *, dp_rank: int = 0) -> None:
        """Nothing is held any more."""
        self._index.clear(Target(self._worker, dp_rank))


class VllmFeed:
    """Tells a sink what an engine tells.

    Left out are blocks that their tokens alone do not identify (images, salts), those of groups
    with a sliding window or a recurrent state, and what comes behind a block that was left out or
    that nobody told of: it makes the index poorer, never wrong.

    Args:
        sink: Who is told.
        block_size: Tokens in a block; events with another are refused.
        dp_rank: Rank of batches that do not say theirs.
    """

    def __init__(self, sink: Sink, *, block_size: int, dp_rank: int = 0) -> None:
        self._sink = sink
        self._block_size = block_size
        self._dp_rank = dp_rank
        # For each rank, the blocks that the sink was told of, with the tiers that hold them.
        self._held: dict[int, dict[int, set[StorageTier]]] = {}
        self._partial_groups: set[int] = set()
        self.left_out = 0

    async def run(self, stream: VllmStream) -> None:
        """Follow an engine until it is cancelled.

        Raises:
            PlaneError: FAILED_PRECONDITION for another block size; and as `VllmStream.batches`.
        """
        async with aclosing(stream.batches()) as batches:
            async for batch in batches:
                self.take(batch)

    def take(self, batch: VllmBatch | Missed) -> None:
        """Take in a batch, or that some are missing: then nothing is believed to be held.

        Raises:
            PlaneError: FAILED_PRECONDITION for another block size.
        """
        if isinstance(batch, Missed):
            for dp_rank in {*self._held, self._dp_rank}:
                self._clear(dp_rank)
            return
        dp_rank = self._dp_rank if batch.rank is None else batch.rank
        for event in batch.events:
            self._event(event, dp_rank)

    def _event(self, event: VllmEvent, dp_rank: int) -> None:
        match event:
            case BlocksStored():
                if event.group_kind not in _WHOLE:
                    self._partial_groups.add(event.group)
                if event.group in self._partial_groups:
                    # Its blocks may have another size.
                    return
                if event.block_size != self._block_size:
                    raise PlaneError(
                        Code.FAILED_PRECONDITION,
                        f"the engine has blocks of {event.block_size} tokens, not "
                        f"{self._block_size}; say so in {_BLOCK_SIZE}, and to the router",
                    )
                self._stored(event, dp_rank)
            case BlocksRemoved():
                if event.group not in self._partial_groups:
                    self._removed(event, dp_rank)
            case AllCleared():
                self._clear(dp_rank)

    def _stored(self, event: BlocksStored, dp_rank: int) -> None:
        held = self._held.setdefault(dp_rank, {})
        parent = None if event.parent is None else _number(event.parent)
        count = event.marked.index(True) if True in event.marked else len(event.hashes)
        if parent is not None and parent not in held:
            count = 0
        self.left_out += len(event.hashes) - count
        if count:
            tier = _tier(event.medium)
            blocks = [_number(each) for each in event.hashes[:count]]
            hashes = block_hashes(
                event.tokens[: count * event.block_size], event.block_size, lora=event.lora_name
            )
            for block in blocks:
                held.setdefault(block, set()).add(tier)
            self._sink.stored(blocks, hashes.tolist(), parent=parent, tier=tier, dp_rank=dp_rank)

    def _removed(self, event: BlocksRemoved, dp_rank: int) -> None:
        held = self._held.setdefault(dp_rank, {})
        tier = _tier(event.medium)
        gone = [block for each in event.hashes if tier in held.get(block := _number(each), ())]
        for block in gone:
            held[block].discard(tier)
            if not held[block]:
                del held[block]
        if gone:
            self._sink.removed(gone, tier=tier, dp_rank=dp_rank)

    def _clear(self, dp_rank: int) -> None:
        self._held.pop(dp_rank, None)
        self._sink.cleared(dp_rank=dp_rank)


class VllmWorker(KvWorker):
    """The worker that an engine is, for routers.

    Args:
        endpoint: Where the engine publishes, by default ``$PROTOPLANE_VLLM_EVENTS``. Further ranks
            publish at the ports after it.
        replay: Where it answers with old events; by default ``$PROTOPLANE_VLLM_REPLAY``, else
            nowhere.
        topic: Topic that it publishes under.
        described: What the worker is; by default what ``$PROTOPLANE_VLLM_BLOCK_SIZE`` (16),
            ``$PROTOPLANE_VLLM_RANKS`` (1) and ``$PROTOPLANE_VLLM_MODEL`` say.
    """

    def __init__(
        self,
        endpoint: str | None = None,
        *,
        replay: str | None = None,
        topic: str = "",
        described: Worker | None = None,
    ) -> None:
        super().__init__(described or _described(os.environ))
        where = endpoint or os.environ.get(_EVENTS)
        if not where:
            raise PlaneError(
                Code.INVALID_ARGUMENT,
                f"set {_EVENTS} to where the engine publishes its KV events, for example "
                "tcp://127.0.0.1:5557",
            )
        again = replay or os.environ.get(_REPLAY)
        first = self.described.dp_start
        self._streams = {
            rank: VllmStream(
                _shifted(where, rank - first),
                replay=_shifted(again, rank - first) if again else None,
                topic=topic,
            )
            for rank in range(first, first + max(1, self.described.dp_size))
        }
        self._feeding: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        self._feeding = [
            asyncio.create_task(self._feed(rank, stream)) for rank, stream in self._streams.items()
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._feeding:
            task.cancel()
        if self._feeding:
            await asyncio.wait(self._feeding)
        await super().__aexit__(*_)

    async def _feed(self, rank: int, stream: VllmStream) -> None:
        said, pause_s = "", _AGAIN_S
        while True:
            feed = VllmFeed(self, block_size=self.described.block_size, dp_rank=rank)
            try:
                await feed.run(stream)
            except PlaneError as error:
                # What is wrong with an engine stays wrong until somebody mends it.
                level = logging.DEBUG if error.message == said else logging.ERROR
                _log.log(level, "KV events at %s: %s", stream.endpoint, error.message)
                said = error.message
            self.cleared(dp_rank=rank)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _MAX_AGAIN_S)


def _described(environment: Mapping[str, str]) -> Worker:
    return Worker(
        block_size=_positive(environment, _BLOCK_SIZE, 16),
        dp_size=_positive(environment, _RANKS, 1),
        model=environment.get(_MODEL, ""),
    )


def _positive(environment: Mapping[str, str], name: str, default: int) -> int:
    text = environment.get(name) or str(default)
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 1 << 32):
        raise PlaneError(Code.INVALID_ARGUMENT, f"{name} is {text!r}; give a number from 1 on")
    return int(text)


def _shifted(endpoint: str, by: int) -> str:
    """The endpoint of another rank: vLLM adds the rank to the port."""
    head, colon, port = endpoint.rpartition(":")
    return f"{head}{colon}{int(port) + by}" if by and port.isdigit() else endpoint


def _number(block: EngineHash) -> int:
    """What an engine calls a block, as 64 bits; of a longer digest the last."""
    return int.from_bytes(block[-8:], "big") if isinstance(block, bytes) else block % _WORD


def _tier(medium: str) -> StorageTier:
    return _TIERS.get(medium.upper(), StorageTier.STORAGE_TIER_DISK)
