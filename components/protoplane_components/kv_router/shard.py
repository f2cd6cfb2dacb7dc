"""One shard: a part of the index in a process of its own, which routers ask."""

from __future__ import annotations

import asyncio
import os
import re
from typing import Self

from protoplane.router.v1 import (
    FindRequest,
    FindResponse,
    FollowRequest,
    FollowResponse,
    ForgetRequest,
    ForgetResponse,
    KvShardService,
)
from protoplane_base import Code, PlaneError
from protoplane_components.kv_router.conversion import overlap_of
from protoplane_components.kv_router.feeding import IndexFeed, kept_up
from protoplane_components.kv_router.hashing import as_hashes, prefix_keys
from protoplane_components.kv_router.index import KvIndex
from protoplane_components.kv_router.metrics import IndexMetrics
from protoplane_components.kv_router.parts import IndexPart
from protoplane_components.kv_router.router import Router
from protoplane_components.kv_router.settings import WORKERS, block_size
from protoplane_server import Context, Host

SHARDS = "protoplane/router-shard"
"""Path under which shards are found: the second of four is ``protoplane/router-shard/2-of-4``."""

_NAME = re.compile(r"(?:.*/)?([1-9][0-9]{0,3})-of-([1-9][0-9]{0,3})/[^/]+")


def shard_path(number: int, count: int) -> str:
    """Path of a shard, counted from 1."""
    return f"{SHARDS}/{number}-of-{count}"


class KvShard(KvShardService):
    """A part of the index. Which one its name says, ``protoplane/router-shard/2-of-4/<id>``.

    It follows the KV events of all workers, keeps those of its part, repairs and keeps them as a
    router does that has the whole index. Several may have the same part: routers ask any of them.

    Args:
        block_size: Tokens in a block; by default that of ``$PROTOPLANE_ROUTER_BLOCK_SIZE``, or 16.
        snapshot_interval_s: Seconds between two snapshots in the object plane; ``None`` for none.
    """

    def __init__(
        self, block_size: int | None = None, *, snapshot_interval_s: float | None = 30.0
    ) -> None:
        self._block_size = _default_size() if block_size is None else block_size
        self._snapshot_interval_s = snapshot_interval_s
        self._feed: IndexFeed | None = None
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def index(self) -> KvIndex | None:
        """The part of the index; ``None`` before it is served."""
        return self._feed.index if self._feed is not None else None

    def hosted(self, host: Host) -> None:
        """Take the planes from the server, and the part from its name.

        Raises:
            PlaneError: INVALID_ARGUMENT, the name says no part.
        """
        found = _NAME.fullmatch(host.name)
        number, count = (int(found[1]), int(found[2])) if found else (0, 0)
        if not 1 <= number <= count:
            raise PlaneError(
                Code.INVALID_ARGUMENT,
                f"{host.name} says of no shard which one it is; name it {shard_path(2, 4)}/a, say",
            )
        index = IndexPart(number - 1, count)
        self._feed = IndexFeed(
            Router(block_size=self._block_size, index=index),
            path=os.environ.get(WORKERS) or None,
            snapshot_interval_s=self._snapshot_interval_s,
        )
        self._feed.hosted(host)
        host.metrics.register(IndexMetrics(self._feed))

    async def __aenter__(self) -> Self:
        if self._feed is not None:
            self._tasks = [asyncio.create_task(kept_up(each)) for each in await self._feed.start()]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def find(self, request: FindRequest, ctx: Context) -> FindResponse:
        """Tell what of a prompt is cached where."""
        feed = self._fed()
        if not feed.warm:
            raise PlaneError(
                Code.UNAVAILABLE, "this shard is fetching what workers hold; ask again in a moment"
            )
        keys = prefix_keys(as_hashes(request.hashes))
        found = feed.index.find_keys(keys) if feed.index is not None else {}
        return FindResponse(overlaps=[overlap_of(*each) for each in found.items()])

    async def follow(self, request: FollowRequest, ctx: Context) -> FollowResponse:
        """Follow workers that did not come by discovery."""
        membership = self._fed().membership
        for worker in request.workers:
            known = membership.members.get(worker.id)
            if known is None or (not known.instance and known.worker != worker):
                membership.add(worker)
        return FollowResponse()

    async def forget(self, request: ForgetRequest, ctx: Context) -> ForgetResponse:
        """Forget a worker that did not come by discovery."""
        membership = self._fed().membership
        known = membership.members.get(request.worker_id)
        found = known is not None and not known.instance
        if found:
            membership.remove(request.worker_id)
        return ForgetResponse(found=found)

    def _fed(self) -> IndexFeed:
        if self._feed is None:
            raise PlaneError(Code.UNAVAILABLE, "this shard is served by nobody yet")
        return self._feed


def _default_size() -> int:
    return block_size(os.environ)
