"""Keeps snapshots of an index in the object plane, so that a router that starts again is warm."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any

from protoplane.router.v1 import IndexPiece
from protoplane_base import Code, PlaneError
from protoplane_components.kv_router.following import KvFollower
from protoplane_components.kv_router.index import KvIndex
from protoplane_components.kv_router.snapshots import (
    Restoring,
    SnapshotHeader,
    dump,
    read,
    write,
)
from protoplane_runtime.engines.discovery import DEFAULT_NAMESPACE
from protoplane_runtime.engines.interface import EventId
from protoplane_runtime.engines.objects.interface import ObjectStore

_log = logging.getLogger("protoplane.router")

_LAST_S = 5.0
# Of a server in a list: its scheme, and who logs in there.
_BEFORE_HOST = re.compile(r"^(?:[a-z+]*:?//)?(?:[^/@]*@)?")


def snapshot_key(component: str, namespace: str, engine_url: str) -> str:
    """Where in the object plane the snapshot of a router is.

    Routers of other namespaces and other engines have another: what they know is not true here. An
    engine in a folder has its own object store, or, where one was named, is taken to be the only
    one there.

    Args:
        component: Path of the component.
        namespace: Where it is found.
        engine_url: URL of its engine, with servers in any order.
    """
    scheme, _, rest = engine_url.partition(":")
    own = scheme in ("", "memory", "local")
    if own and namespace == DEFAULT_NAMESPACE:
        return f"{component}/index"
    servers = (
        "" if own else ",".join(sorted(_BEFORE_HOST.sub("", each) for each in rest.split(",")))
    )
    named = f"{namespace}\n{scheme}:{servers}".encode()
    return f"{component}/index-{blake2b(named, digest_size=8).hexdigest()}"


class SnapshotKeeper:
    """Writes a snapshot every now and then, and reads the last one.

    Replicas share it: who finds that another has just written one does not write another.

    Args:
        index: The index.
        follower: What keeps it at the truth.
        store: The object plane.
        key: Where the snapshot is.
        block_size: Tokens in a block.
        workers: Gives the workers that did not come by discovery, as ProtoJSON.
        interval_s: Seconds between two snapshots.
    """

    def __init__(
        self,
        index: KvIndex,
        follower: KvFollower,
        store: ObjectStore,
        key: str,
        *,
        block_size: int,
        workers: Callable[[], Sequence[dict[str, Any]]],
        interval_s: float,
    ) -> None:
        self._index = index
        self._follower = follower
        self._store = store
        self._key = key
        self._block_size = block_size
        self._workers = workers
        self._interval_s = interval_s
        self._written: object = None

    async def restore(self) -> tuple[Restoring, SnapshotHeader, EventId | None] | None:
        """Put the last snapshot into the index; ``None`` where there is none that can be used.

        Cancelling leaves a part of it in the index.
        """
        restoring = Restoring(self._index, self._block_size)
        header: SnapshotHeader | None = None
        began = time.monotonic()
        try:
            async with self._store.get(self._key) as body:
                async for each in read(body):
                    if isinstance(each, IndexPiece):
                        restoring.put(each)
                        await asyncio.sleep(0)
                    else:
                        header = each
            if header is None:
                raise PlaneError(Code.DATA_LOSS, "it has no header")
            position = EventId.parse(header.position) if header.position else None
        except (PlaneError, ValueError) as error:
            if not (isinstance(error, PlaneError) and error.code is Code.NOT_FOUND):
                _log.warning("the snapshot %s is of no use: %s", self._key, error)
            for target in restoring.courses:
                self._index.clear(target)
            return None
        _log.info(
            "%d blocks of %d ranks come from the snapshot, in %.1f s",
            *(restoring.blocks, len(restoring.courses), time.monotonic() - began),
        )
        return restoring, header, position

    async def run(self) -> None:
        """Write snapshots until it is cancelled, and then a last one."""
        try:
            while True:
                await asyncio.sleep(self._interval_s)
                if not await self._is_fresh():
                    await self._save()
        finally:
            # The last one is worth a moment: whoever starts next begins with it.
            try:
                async with asyncio.timeout(_LAST_S):
                    await self._save()
            except TimeoutError:
                _log.warning("there was no time for a last snapshot")

    async def write(self) -> None:
        """Write a snapshot now.

        Raises:
            PlaneError: The object plane does not take it.
        """
        position = self._follower.position
        header = SnapshotHeader(
            block_size=self._block_size,
            position="" if position is None else str(position),
            workers=self._workers(),
        )
        now = self._progress
        await self._store.put(
            self._key,
            write(header, dump(self._index, self._follower.courses, self._block_size)),
        )
        self._written = now

    @property
    def _progress(self) -> object:
        return self._follower.applied, self._follower.fetched, self._workers()

    async def _save(self) -> None:
        if self._progress == self._written:
            return
        try:
            await self.write()
        except PlaneError as error:
            _log.warning("no snapshot of the index is kept: %s", error.message)

    async def _is_fresh(self) -> bool:
        try:
            info = await self._store.head(self._key)
        except PlaneError:
            return False
        return time.time() - info.modified_s < self._interval_s / 2
