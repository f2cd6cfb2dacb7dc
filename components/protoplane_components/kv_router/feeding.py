"""Keeps an index at what workers hold: who is there, their events, and what was kept of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from protoplane.router.v1 import Worker
from protoplane_base import DecodeError, PlaneError
from protoplane_components.kv_router.following import KvFollower
from protoplane_components.kv_router.index import KvIndex
from protoplane_components.kv_router.keeping import SnapshotKeeper, snapshot_key
from protoplane_components.kv_router.membership import Membership
from protoplane_components.kv_router.parts import IndexPart
from protoplane_components.kv_router.registrations import Registrations
from protoplane_components.kv_router.router import Router
from protoplane_runtime.engines.discovery import DEFAULT_NAMESPACE
from protoplane_runtime.engines.interface import EventId
from protoplane_server import Host

_log = logging.getLogger("protoplane.router")

_AGAIN_S = 1.0
_RESTORE_S = 30.0

Work = Callable[[], Awaitable[None]]
"""What goes on until it is cancelled."""


class IndexFeed:
    """Feeds the index of a router.

    Args:
        router: The router; where its index is no `KvIndex`, it is only told who is there.
        path: Path under which discovery finds workers; ``None`` for all that say they are workers.
        without_events: Path under which it finds workers that tell no events; ``None`` for none.
        snapshot_interval_s: Seconds between two snapshots; ``None`` for none.
    """

    def __init__(
        self,
        router: Router,
        *,
        path: str | None,
        snapshot_interval_s: float | None,
        without_events: str | None = None,
    ) -> None:
        self._router = router
        self._path = path
        self._without_events = without_events
        self._snapshot_interval_s = snapshot_interval_s
        self.index = router.index if isinstance(router.index, KvIndex) else None
        self.membership = Membership(router, None, DEFAULT_NAMESPACE)
        self.follower: KvFollower | None = None
        self._host: Host | None = None

    @property
    def warm(self) -> bool:
        """Whether the index is worth asking."""
        return self.follower is None or self.follower.warm

    def hosted(self, host: Host) -> None:
        """Take the planes from the server."""
        self._host = host
        self.membership = Membership(self._router, host.discovery, host.namespace)
        if self.index is not None:
            self.follower = self.membership.follower = KvFollower(
                self.index,
                host.events,
                self.membership.fetch,
                block_size=self._router.block_size,
                whole=not isinstance(self.index, IndexPart),
            )
        # Shards are told by the routers.
        if host.discovery is not None and not isinstance(self.index, IndexPart):
            component, _, name = host.name.rpartition("/")
            self.membership.registrations = Registrations(
                self.membership,
                host.events,
                router=f"{host.namespace}:{component}",
                name=name,
            )

    async def start(self) -> list[Work]:
        """Begin with what was kept; gives what is to be done from then on.

        Cancelling leaves a part of it in the index.
        """
        host = self._host
        if host is None:
            return []
        work: list[Work] = []
        follower = self.follower
        if follower is not None and self.index is not None:
            after = None
            if self._snapshot_interval_s is not None:
                keeper = SnapshotKeeper(
                    self.index,
                    follower,
                    await host.open_objects(),
                    snapshot_key(host.name.rpartition("/")[0], host.namespace, host.engine_url),
                    block_size=self._router.block_size,
                    workers=self._registered,
                    interval_s=self._snapshot_interval_s,
                )
                after = await self._restore(keeper)
                work.append(keeper.run)

            async def follow() -> None:
                await follower.run(follower.position or after)

            work.append(follow)
        if self.membership.registrations is not None:
            work.append(self.membership.registrations.run)
        if host.discovery is not None:
            work.append(lambda: self.membership.watch(self._path))
            silent = self._without_events
            if silent is not None:
                work.append(lambda: self.membership.watch_without_events(silent))
        return work

    def _registered(self) -> list[dict[str, Any]]:
        return [worker.model_dump(mode="json") for worker in self.membership.registered()]

    async def _restore(self, keeper: SnapshotKeeper) -> EventId | None:
        try:
            async with asyncio.timeout(_RESTORE_S):
                found = await keeper.restore()
        except TimeoutError:
            _log.warning("the snapshot of the index takes too long; workers are asked instead")
            return None
        if found is None:
            return None
        restoring, header, position = found
        self.membership.expect(restoring.courses)
        for worker in header.workers:
            with suppress(PlaneError, DecodeError, ValueError):
                kept = Worker.model_validate(worker)
                self.membership.put(kept)
                if self.membership.registrations is not None:
                    self.membership.registrations.kept(kept)
        return position


async def kept_up(work: Work) -> None:
    """Do something until it is over, again where a plane fails it."""
    while True:
        try:
            await work()
        except PlaneError as error:
            _log.warning("%s; it is tried again", error.message)
            await asyncio.sleep(_AGAIN_S)
        else:
            return
