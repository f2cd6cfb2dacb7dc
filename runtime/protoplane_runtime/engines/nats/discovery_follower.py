"""Keeps a roster up to date by what the bucket holds and who lives."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass

from protoplane_base import PlaneError
from protoplane_runtime.engines.discovery import Instance
from protoplane_runtime.engines.nats.bucket import MARKER_S, Bucket, Item
from protoplane_runtime.engines.nats.claim import TTL_S, Claimed, place_at, read
from protoplane_runtime.engines.nats.connection import Connection
from protoplane_runtime.engines.nats.consumer import Consumer, StreamLost
from protoplane_runtime.engines.nats.liveness import Liveness
from protoplane_runtime.engines.nats.patience import until_answered
from protoplane_runtime.engines.nats.pulse import answers
from protoplane_runtime.engines.roster import Roster

_log = logging.getLogger("protoplane.discovery")

_LOOK_S = 0.1
_MISSING_S = 15.0


@dataclass(slots=True)
class _Known:
    owner: str
    instance: Instance
    shown: bool = False
    missing_since: float | None = None


class DiscoveryFollower:
    """Follows who comes and goes, until `stop`.

    Args:
        connection: The way to the server.
        bucket: The bucket of instances.
        subject: Where signs of life go.
        own: This process.
        roster: What is kept up to date.
    """

    def __init__(
        self, connection: Connection, bucket: Bucket, subject: str, own: str, roster: Roster
    ) -> None:
        self._connection = connection
        self._bucket = bucket
        self._subject = subject
        self._roster = roster
        self._known: dict[str, _Known] = {}
        self._keys: dict[str, set[str]] = {}
        self._liveness = Liveness(connection, subject, own, self._show_all)
        self._ready = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._tasks = (asyncio.create_task(self._run()), asyncio.create_task(self._look()))

    @property
    def ended(self) -> bool:
        """Whether it is over, as the connection is."""
        return self._tasks[0].done()

    async def ready(self) -> None:
        """Wait until the roster holds who is there, or it is stopped."""
        await self._ready.wait()

    def heard_lately(self, owner: str) -> bool:
        """Whether there was a sign of life of a process just now."""
        return self._liveness.heard_lately(owner)

    async def stop(self) -> None:
        """Follow no more."""
        self._known.clear()
        self._keys.clear()
        self._roster.replace(())
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._liveness.close()
        self._ready.set()

    async def _run(self) -> None:
        try:
            await until_answered(self._connection, self._liveness.begin)
            while True:
                try:
                    await self._follow()
                except StreamLost:
                    _log.warning("the NATS stream %s was lost", self._bucket.name)
        except PlaneError as error:
            _log.error("watchers of NATS end: %s", error.message)
            self._roster.fail(error)
        finally:
            self._ready.set()

    async def _follow(self) -> None:
        everything = (f"{self._bucket.subjects}.>",)
        found = await until_answered(self._connection, lambda: self._bucket.contents(everything))
        await self._begin(found.items)
        consumer = Consumer(self._connection, self._bucket, everything, found.revision + 1)
        self._ready.set()
        heard = self._loop.time()
        try:
            while True:
                taken = await consumer.take()
                if self._loop.time() - heard > MARKER_S / 2:
                    # Some who left may be forgotten by now.
                    return
                heard = self._loop.time()
                for stored in taken:
                    self._take(self._bucket.item(stored))
        finally:
            consumer.close()

    async def _begin(self, items: Iterable[Item]) -> None:
        claimed = {item.key: claim for item in items if (claim := read(item)) is not None}
        owners = {claim.owner for claim in claimed.values()}
        ended = {claim.owner for claim in claimed.values() if claim.ended}
        unknown = [owner for owner in owners if not self._liveness.lives(owner)]
        signs = await asyncio.gather(
            *(answers(self._connection, self._subject, owner) for owner in unknown)
        )
        for owner, sign in zip(unknown, signs, strict=True):
            if sign is False or owner in ended:
                self._liveness.bury(owner)
            else:
                self._liveness.hear(owner)
        for key, claim in claimed.items():
            self._put(key, claim)
        for key, known in self._known.items():
            if key not in claimed and known.missing_since is None:
                # Where the bucket was lost, those who live come again in a moment.
                known.missing_since = self._loop.time()

    def _take(self, item: Item) -> None:
        claim = read(item)
        if claim is None:
            self._drop(item.key)
        else:
            # Only the process itself says so.
            self._liveness.hear(claim.owner)
            self._put(item.key, claim)

    def _put(self, key: str, claim: Claimed) -> None:
        owner, instance, pid = claim
        known = self._known.get(key)
        if known is None or known.owner != owner:
            self._drop(key)
            known = self._known[key] = _Known(owner, instance)
            self._keys.setdefault(owner, set()).add(key)
        elif known.instance != instance:
            known.instance = instance
            known.shown = False
        known.missing_since = None
        if pid:
            self._liveness.watch(owner, pid)
        self._show(key, known)

    def _drop(self, key: str) -> None:
        known = self._known.pop(key, None)
        if known is None:
            return
        keys = self._keys[known.owner]
        keys.discard(key)
        if not keys:
            del self._keys[known.owner]
            self._liveness.forget((known.owner,))
        self._roster.remove(place_at(key))

    def _show(self, key: str, known: _Known) -> None:
        if self._liveness.lives(known.owner):
            if not known.shown:
                known.shown = True
                self._roster.put(known.instance)
        else:
            known.shown = False
            self._roster.remove(place_at(key))

    def _show_all(self, owner: str) -> None:
        for key in self._keys.get(owner, ()):
            self._show(key, self._known[key])

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            self._liveness.look()
            if not self._connection.connected:
                continue
            now = self._loop.time()
            for key, known in tuple(self._known.items()):
                missing_s = 0.0 if known.missing_since is None else now - known.missing_since
                if missing_s > _MISSING_S or self._liveness.dead_for_s(known.owner) > TTL_S:
                    self._drop(key)
