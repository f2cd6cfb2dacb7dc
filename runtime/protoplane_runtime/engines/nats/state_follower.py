"""What the watchers of some state share: the changes as they come, and an eye on what expires."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncGenerator, Iterable
from contextlib import suppress
from heapq import heappop, heappush

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.keys import KeyMatcher
from protoplane_runtime.engines.nats.bucket import MARKER_S, Bucket, Contents, Item
from protoplane_runtime.engines.nats.connection import Connection
from protoplane_runtime.engines.nats.consumer import Consumer, StreamLost
from protoplane_runtime.engines.nats.patience import until_answered
from protoplane_runtime.engines.nats.subjects import subjects_of
from protoplane_runtime.engines.state import Deleted, Entry, Snapshot
from protoplane_runtime.engines.state_changes import Changes

_log = logging.getLogger("protoplane.engines")

TTL_HEADER = "Protoplane-TTL"
"""Header of a value that goes by itself: nanoseconds from when the server got it."""

LINGER_S = MARKER_S
"""Seconds for which the server keeps a value whose time is up, for those who watch to see it."""

_EXPIRED_HEADER = "Protoplane-Expired"
_SPREAD_S = 0.05
_EXPIRE_RETRY_NS = 1_000_000_000


class StateFollower:
    """Follows what some expressions match, for all who watch it in this process.

    Attributes:
        watchers: How many do.
    """

    def __init__(self, connection: Connection, bucket: Bucket, match: KeyMatcher) -> None:
        self.watchers = 0
        self._connection = connection
        self._bucket = bucket
        self._match = match
        self._subjects = subjects_of(bucket.subjects, match.expressions)
        self._changes = Changes(-1)  # Until it looked, nothing is known.
        self._closing = False
        self._error: PlaneError | None = None
        self._asking: set[asyncio.Task[Contents]] = set()
        self._due: list[tuple[int, str, int]] = []
        self._expiring: dict[str, int] = {}
        self._noted = asyncio.Event()
        self._tasks = (asyncio.create_task(self._run()), asyncio.create_task(self._expire()))

    @property
    def ended(self) -> bool:
        """Whether it is over: the bucket was lost, or the connection is."""
        return self._tasks[0].done()

    async def follow(self) -> AsyncGenerator[Snapshot | Entry | Deleted, None]:
        """Follow the changes; it ends with the follower.

        Raises:
            PlaneError: UNAVAILABLE where the connection is over for good.
        """
        async for change in self._changes.follow(self._match, self._snapshot):
            yield change
        if self._error is not None and not self._closing:
            raise self._error

    async def close(self) -> None:
        """End it."""
        self._closing = True
        self._changes.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _run(self) -> None:
        try:
            while True:
                await self._follow()
        except StreamLost:
            _log.warning("the NATS stream %s was lost; its watchers begin anew", self._bucket.name)
        except PlaneError as error:
            _log.error("watchers of NATS end: %s", error.message)
            self._error = error
        finally:
            self._changes.close()
            for asking in self._asking:
                asking.cancel()

    async def _follow(self) -> None:
        state = await until_answered(self._connection, self._bucket.state)
        self._changes.restart(state.last)
        loop = asyncio.get_running_loop()
        consumer = Consumer(self._connection, self._bucket, self._subjects, state.last + 1)
        heard = loop.time()
        try:
            while True:
                found = await consumer.take()
                if loop.time() - heard > MARKER_S / 2:
                    # Some deletions may be forgotten by now.
                    return
                heard = loop.time()
                items = [self._bucket.item(stored) for stored in found]
                items = [item for item in items if self._match.matches(item.key)]
                self._note(items)
                self._changes.add([_change(item) for item in items])
        finally:
            consumer.close()

    async def _snapshot(self) -> Snapshot:
        asking = asyncio.create_task(
            until_answered(self._connection, lambda: self._bucket.contents(self._subjects))
        )
        self._asking.add(asking)
        try:
            await asyncio.wait([asking])
        finally:
            self._asking.discard(asking)
            asking.cancel()
        if asking.cancelled():
            return Snapshot(-1, ())  # The follower is over, and nobody is told of this.
        found = asking.result()
        self._note(found.items)
        now_ns = time.time_ns()
        entries = tuple(
            Entry(item.key, item.value, item.revision, expiry_of(item))
            for item in found.items
            if there(item, now_ns) and self._match.matches(item.key)
        )
        return Snapshot(found.revision, entries)

    def _note(self, items: Iterable[Item]) -> None:
        for item in items:
            expires_ns = expiry_of(item)
            known = self._expiring.get(item.key, 0)
            if item.revision <= known or not self._match.matches(item.key):
                continue
            if expires_ns is not None and not item.deleted:
                self._expiring[item.key] = item.revision
                heappush(self._due, (expires_ns, item.key, item.revision))
                self._noted.set()
            elif known:
                del self._expiring[item.key]

    async def _expire(self) -> None:
        """Delete what is to go by itself, unless another process does it first."""
        while True:
            self._noted.clear()
            if not self._due:
                await self._noted.wait()
                continue
            wait_s = (self._due[0][0] - time.time_ns()) / 1e9
            if wait_s > 0:
                spread_s = random.uniform(0.001, _SPREAD_S)  # noqa: S311
                with suppress(TimeoutError):
                    async with asyncio.timeout(wait_s + spread_s):
                        await self._noted.wait()
                continue
            _, key, revision = heappop(self._due)
            if self._expiring.get(key) != revision:
                continue
            try:
                await self._bucket.delete(key, expected=revision, headers={_EXPIRED_HEADER: "1"})
            except PlaneError as error:
                if error.code is not Code.ABORTED:
                    later_ns = time.time_ns() + _EXPIRE_RETRY_NS
                    heappush(self._due, (later_ns, key, revision))


def expiry_of(item: Item) -> int | None:
    """When a value goes by itself, in nanoseconds since 1970; ``None`` for never."""
    ttl_ns = item.headers.get(TTL_HEADER, "")
    if not (ttl_ns.isascii() and ttl_ns.isdigit()):
        return None
    return item.time_ns + int(ttl_ns)


def there(item: Item, now_ns: int) -> bool:
    """Whether a key has a value at some time."""
    expires_ns = expiry_of(item)
    return not item.deleted and (expires_ns is None or now_ns < expires_ns)


def _change(item: Item) -> Entry | Deleted:
    if not item.deleted:
        return Entry(item.key, item.value, item.revision, expiry_of(item))
    expired = _EXPIRED_HEADER in item.headers or item.headers.get("Nats-Marker-Reason") == "MaxAge"
    return Deleted(item.key, item.revision, expired)
