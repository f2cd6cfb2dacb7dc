"""The state store of the engine ``memory:``: values in this process, gone with it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from heapq import heappop, heappush

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.keys import KeyMatcher, check_key, matcher
from protoplane_runtime.engines.state import (
    Deleted,
    Entry,
    Snapshot,
    check_expected,
    check_put,
    conflict,
)
from protoplane_runtime.engines.state_changes import MAX_CHANGES, Changes


class MemoryState:
    """A `StateStore` in memory; use it from one event loop.

    Args:
        max_changes: Most keys whose newest change watchers can catch up on without a snapshot.
    """

    def __init__(self, *, max_changes: int = MAX_CHANGES) -> None:
        self._entries: dict[str, Entry] = {}
        self._changes = Changes(most=max_changes)
        self._expiries: list[tuple[int, str]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    async def get(self, key: str) -> Entry | None:
        """The value of a key; see `StateStore.get`."""
        check_key(key)
        self._begin()
        return self._entries.get(key)

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
        self._begin()
        self._check(key, expected)
        expires_ns = None if ttl_s is None else time.time_ns() + int(ttl_s * 1e9)
        entry = Entry(key, bytes(value), self._changes.revision + 1, expires_ns)
        self._entries[key] = entry
        if expires_ns is not None:
            heappush(self._expiries, (expires_ns, key))
            self._set_timer()
        self._changes.add([entry])
        return entry.revision

    async def delete(self, key: str, *, expected: int | None = None) -> bool:
        """Take the value of a key away; see `StateStore.delete`."""
        check_key(key)
        check_expected(expected)
        self._begin()
        self._check(key, expected)
        if self._entries.pop(key, None) is None:
            return False
        self._changes.add([Deleted(key, self._changes.revision + 1)])
        return True

    async def list(self, expression: str = "**") -> Sequence[Entry]:
        """All entries that a key expression matches; see `StateStore.list`."""
        match = matcher([expression])
        self._begin()
        return self._matching(match)

    def watch(self, expression: str = "**") -> AsyncGenerator[Snapshot | Entry | Deleted, None]:
        """Follow what a key expression matches; see `StateStore.watch`."""
        match = matcher([expression])

        async def snapshot() -> Snapshot:
            return Snapshot(self._changes.revision, self._matching(match))

        return self._changes.follow(match, snapshot)

    async def close(self) -> None:
        """End all watches and forget everything."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._entries.clear()
        self._expiries.clear()
        self._changes.close()

    def _matching(self, match: KeyMatcher) -> Sequence[Entry]:
        found = (entry for entry in self._entries.values() if match.matches(entry.key))
        return tuple(sorted(found, key=lambda entry: entry.key))

    def _check(self, key: str, expected: int | None) -> None:
        if expected is not None:
            entry = self._entries.get(key)
            found = entry.revision if entry is not None else 0
            if found != expected:
                raise conflict(key, expected, found)

    def _begin(self) -> None:
        if self._closed:
            raise PlaneError(Code.UNAVAILABLE, "the state store is closed")
        if self._expiries and self._expiries[0][0] <= time.time_ns():
            self._expire()

    def _expire(self) -> None:
        now_ns = time.time_ns()
        while self._expiries and self._expiries[0][0] <= now_ns:
            expires_ns, key = heappop(self._expiries)
            entry = self._entries.get(key)
            # One that was put anew has another time, or none.
            if entry is not None and entry.expires_ns == expires_ns:
                del self._entries[key]
                self._changes.add([Deleted(key, self._changes.revision + 1, expired=True)])
        self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._expiries:
            wait_s = max(0.0, (self._expiries[0][0] - time.time_ns()) / 1e9)
            self._timer = asyncio.get_running_loop().call_later(wait_s + 0.001, self._expire)
