"""A worker's side: tells what its cache holds, and all of it to routers who missed some."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Self

from protoplane.router.v1 import (
    BlocksCleared,
    BlocksRemoved,
    BlocksStored,
    KvEvent,
    KvStateRequest,
    KvStateResponse,
    KvWorkerService,
    StorageTier,
    Worker,
)
from protoplane_base import Code, PlaneError
from protoplane_components.kv_router.described import describe
from protoplane_components.kv_router.worker_state import WorkerState
from protoplane_runtime.engines.interface import EventLog, Publication
from protoplane_server import Context, Host

_log = logging.getLogger("protoplane.router")

_MAX_WAITING = 10_000
_RETRY_S = 0.1
_LAST_EVENTS_S = 2.0


class _Rank:
    """What is known of one data-parallel rank."""

    def __init__(self) -> None:
        self.state = WorkerState()
        self.event_id = 0


class KvWorker(KvWorkerService):
    """Publishes the KV events of a worker; serve it beside what the worker does.

    `stored`, `removed` and `cleared` return at once, and events leave in order. While the event
    plane is away they wait; of more than ``max_waiting`` the oldest are dropped, and routers notice
    that and ask for the whole state.

    Args:
        described: What the worker is, as routers learn from discovery; an empty id becomes that of
            the instance, and the endpoint is left to discovery.
        max_waiting: Most events that wait to be published.
    """

    def __init__(self, described: Worker, *, max_waiting: int = _MAX_WAITING) -> None:
        if described.block_size < 1:
            raise PlaneError(
                Code.INVALID_ARGUMENT,
                "a worker has a block_size, the tokens in a block of its cache",
            )
        self.described = described
        self.epoch = secrets.token_hex(4)
        self._ranks = {
            rank: _Rank()
            for rank in range(described.dp_start, described.dp_start + max(1, described.dp_size))
        }
        self._waiting: deque[KvEvent] = deque(maxlen=max_waiting)
        self._due = asyncio.Event()
        self._events: EventLog | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def id(self) -> str:
        """Id of the worker."""
        return self.described.id

    @property
    def waiting(self) -> int:
        """Events that are not published yet."""
        return len(self._waiting)

    def hosted(self, host: Host) -> None:
        """Take id and event log from the server, and tell discovery what the worker is."""
        if not self.described.id:
            self.described.id = host.name.rpartition("/")[2]
        self._events = host.events
        host.metadata.update(describe(self.described))

    async def __aenter__(self) -> Self:
        if self._events is not None:
            self._task = asyncio.create_task(self._publish_all(self._events))
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def holds(self, block: int, dp_rank: int = 0) -> bool:
        """Whether a block is held, by what the engine calls it."""
        return block in self._rank(dp_rank).state

    def stored(
        self,
        blocks: Sequence[int],
        tokens_hashes: Sequence[int],
        *,
        parent: int | None = None,
        start_position: int | None = None,
        tier: StorageTier = StorageTier.STORAGE_TIER_DEVICE,
        dp_rank: int = 0,
    ) -> None:
        """Tell that the cache holds blocks that follow each other.

        Args:
            blocks: What the engine calls them, 64-bit numbers.
            tokens_hashes: Hash of each block's tokens alone, see `BlocksStored.tokens_hashes`.
            parent: Block before the first; ``None`` where the first begins a sequence.
            start_position: Position of the first in its sequence, from 0; where that is known.
            tier: Where they are.
            dp_rank: Whose they are.

        Raises:
            PlaneError: INVALID_ARGUMENT; there are not as many hashes as blocks, or no such rank.
        """
        if len(blocks) != len(tokens_hashes):
            raise PlaneError(
                Code.INVALID_ARGUMENT,
                f"{len(blocks)} blocks have as many tokens_hashes, not {len(tokens_hashes)}",
            )
        self._rank(dp_rank).state.stored(blocks, tokens_hashes, parent, tier)
        self._tell(
            dp_rank,
            tier,
            stored=BlocksStored(
                parent_hash=parent,
                start_position=start_position,
                block_hashes=[*blocks],
                tokens_hashes=[*tokens_hashes],
            ),
        )

    def removed(
        self,
        blocks: Sequence[int],
        *,
        tier: StorageTier = StorageTier.STORAGE_TIER_DEVICE,
        dp_rank: int = 0,
    ) -> None:
        """Tell that a tier of the cache holds some blocks no more; arguments as in `stored`."""
        self._rank(dp_rank).state.removed(blocks, tier)
        self._tell(dp_rank, tier, removed=BlocksRemoved(block_hashes=[*blocks]))

    def cleared(self, *, dp_rank: int = 0) -> None:
        """Tell that the cache is empty, all tiers of it."""
        self._rank(dp_rank).state.cleared()
        self._tell(dp_rank, StorageTier.STORAGE_TIER_UNSPECIFIED, cleared=BlocksCleared())

    async def kv_state(
        self, request: KvStateRequest, ctx: Context
    ) -> AsyncIterator[KvStateResponse]:
        """Give all that a rank holds, as of its last event."""
        if request.worker != self.id:
            raise PlaneError(Code.NOT_FOUND, f"this is worker {self.id}, not {request.worker}")
        # All of it before the first leaves: it is as of one event.
        for piece in [*self.pieces(request.dp_rank)]:
            yield piece

    def pieces(self, dp_rank: int = 0) -> Iterator[KvStateResponse]:
        """All that a rank holds, as `kv_state` gives it; nothing may change between two of them."""
        rank = self._rank(dp_rank)
        return rank.state.pieces(self.epoch, rank.event_id, self.described.block_size)

    def _rank(self, dp_rank: int) -> _Rank:
        try:
            return self._ranks[dp_rank]
        except KeyError:
            raise PlaneError(
                Code.INVALID_ARGUMENT,
                f"worker {self.id} has no rank {dp_rank}; it has {min(self._ranks)} to "
                f"{max(self._ranks)}",
            ) from None

    def _tell(
        self,
        dp_rank: int,
        tier: StorageTier,
        *,
        stored: BlocksStored | None = None,
        removed: BlocksRemoved | None = None,
        cleared: BlocksCleared | None = None,
    ) -> None:
        rank = self._ranks[dp_rank]
        rank.event_id += 1
        self._waiting.append(
            KvEvent(
                worker=self.id,
                dp_rank=dp_rank,
                event_id=rank.event_id,
                epoch=self.epoch,
                block_size=self.described.block_size,
                tier=tier,
                stored=stored,
                removed=removed,
                cleared=cleared,
            )
        )
        self._due.set()

    async def _publish_all(self, events: EventLog) -> None:
        heard = True
        while True:
            await self._due.wait()
            if not self._waiting:
                self._due.clear()
                continue
            event = self._waiting[0]
            try:
                await self._publish(events, event)
            except PlaneError as error:
                if error.code is not Code.UNAVAILABLE:
                    # It will not do later either; routers see that it is missing.
                    _log.error("KV event %d of %s: %s", event.event_id, self.id, error.message)
                    self._done(event)
                    continue
                if heard:
                    _log.warning(
                        "routers do not hear the KV events of %s: %s", self.id, error.message
                    )
                heard = False
                await asyncio.sleep(_RETRY_S)
            else:
                heard = True
                self._done(event)

    async def _publish(self, events: EventLog, event: KvEvent) -> None:
        assert event.__event__ is not None
        pb = event.to_pb()
        await events.publish(
            event.__event__.key.key(event),
            pb.DESCRIPTOR.full_name,
            pb.SerializeToString(),
            event.model_dump_json(),
            durable=True,
            publication=Publication(f"{self.id}/{event.dp_rank}/{self.epoch}", event.event_id),
        )

    def _done(self, event: KvEvent) -> None:
        # It may have been dropped while it was under way.
        if self._waiting and self._waiting[0] is event:
            self._waiting.popleft()
