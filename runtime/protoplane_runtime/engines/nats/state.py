"""The state store of the engine ``nats://…``."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Self

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.keys import KeyMatcher, check_key, matcher
from protoplane_runtime.engines.nats.bucket import Bucket
from protoplane_runtime.engines.nats.connection import Connection, alone
from protoplane_runtime.engines.nats.settings import NatsSettings
from protoplane_runtime.engines.nats.state_follower import (
    LINGER_S,
    TTL_HEADER,
    StateFollower,
    expiry_of,
    there,
)
from protoplane_runtime.engines.nats.subjects import subjects_of
from protoplane_runtime.engines.state import (
    Deleted,
    Entry,
    Snapshot,
    check_expected,
    check_put,
    conflict,
)


class NatsState:
    """A `StateStore` in a KV bucket of a NATS server or cluster; get one from `open`.

    A change is acknowledged once the bucket has it: with several replicas, once most of them have.
    A revision is the change's number in the bucket's stream. The server counts times to live in
    whole seconds, so the store does it: a value whose time is up is no value any more for whoever
    reads it, by the clock of who reads and that of the server, and those who watch delete it.

    Use it from the event loop on which it was opened; it holds two tasks for each set of key
    expressions that somebody watches.
    """

    def __init__(self, connection: Connection, bucket: Bucket) -> None:
        self._connection = connection
        self._bucket = bucket
        self._followers: dict[KeyMatcher, StateFollower] = {}
        self._closed = False

    @classmethod
    async def open(cls, url: str) -> Self:
        """Open the store that a URL names; see `NatsSettings.parse` for its form.

        The bucket is ``<stream>-state``, made where there is none.

        Raises:
            PlaneError: As `NatsLog.open`. Cancelling leaves nothing open.
        """
        return await alone(url, cls.on)

    @classmethod
    async def on(cls, connection: Connection, settings: NatsSettings) -> Self:
        """Open the store over a connection that others use too; see `open`."""
        bucket = await Bucket.on(connection, settings, "state", "State")
        return cls(connection, bucket)

    async def get(self, key: str) -> Entry | None:
        """The value of a key; see `StateStore.get`."""
        check_key(key)
        self._require_open()
        item = await self._bucket.last(key)
        if item is None or not there(item, time.time_ns()):
            return None
        return Entry(key, item.value, item.revision, expiry_of(item))

    async def put(
        self,
        key: str,
        value: bytes,
        *,
        expected: int | None = None,
        ttl_s: float | None = None,
    ) -> int:
        """Give a key a value; see `StateStore.put`."""
        check_put(key, value, expected, ttl_s)
        headers = {} if ttl_s is None else {TTL_HEADER: str(max(1, int(ttl_s * 1e9)))}
        kept_s = None if ttl_s is None else ttl_s + LINGER_S
        while True:
            last = None if expected is None else await self._expect(key, expected)
            self._require_open()
            try:
                return await self._bucket.put(
                    key, bytes(value), headers, expected=last, ttl_s=kept_s
                )
            except PlaneError as error:
                if expected is None or error.code is not Code.ABORTED:
                    raise

    async def delete(self, key: str, *, expected: int | None = None) -> bool:
        """Take the value of a key away; see `StateStore.delete`."""
        check_key(key)
        check_expected(expected)
        while True:
            self._require_open()
            item = await self._bucket.last(key)
            live = item is not None and there(item, time.time_ns())
            found = item.revision if item is not None and live else 0
            if expected is not None and found != expected:
                raise conflict(key, expected, found)
            if not found:
                return False
            try:
                await self._bucket.delete(key, expected=found)
            except PlaneError as error:
                if error.code is not Code.ABORTED:
                    raise
            else:
                return True

    async def list(self, expression: str = "**") -> Sequence[Entry]:
        """All entries that a key expression matches; see `StateStore.list`."""
        match = matcher([expression])
        self._require_open()
        subjects = subjects_of(self._bucket.subjects, match.expressions)
        found = await self._bucket.contents(subjects)
        now_ns = time.time_ns()
        return tuple(
            Entry(item.key, item.value, item.revision, expiry_of(item))
            for item in found.items
            if there(item, now_ns) and match.matches(item.key)
        )

    def watch(self, expression: str = "**") -> AsyncGenerator[Snapshot | Entry | Deleted, None]:
        """Follow what a key expression matches; see `StateStore.watch`."""
        return self._watch(matcher([expression]))

    async def close(self) -> None:
        """End all watches, and let go of the connection; once more does nothing."""
        if self._closed:
            return
        self._closed = True
        followers, self._followers = list(self._followers.values()), {}
        await asyncio.gather(*(follower.close() for follower in followers))
        await self._bucket.close()

    async def _expect(self, key: str, expected: int) -> int:
        """The newest message of a key that has the expected revision; 0 where there is none."""
        self._require_open()
        item = await self._bucket.last(key)
        found = item.revision if item is not None and there(item, time.time_ns()) else 0
        if found != expected:
            raise conflict(key, expected, found)
        return item.revision if item is not None else 0

    async def _watch(self, match: KeyMatcher) -> AsyncGenerator[Snapshot | Entry | Deleted, None]:
        # A follower ends where the bucket was lost; the next one begins with a snapshot.
        while not self._closed:
            follower = self._followers.get(match)
            if follower is None or follower.ended:
                follower = StateFollower(self._connection, self._bucket, match)
                self._followers[match] = follower
            follower.watchers += 1
            try:
                async with aclosing(follower.follow()) as changes:
                    async for change in changes:
                        yield change
            finally:
                follower.watchers -= 1
                if follower.watchers == 0:
                    if self._followers.get(match) is follower:
                        del self._followers[match]
                    await follower.close()

    def _require_open(self) -> None:
        if self._closed:
            raise PlaneError(Code.UNAVAILABLE, "the state store is closed")
