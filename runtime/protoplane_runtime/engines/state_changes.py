"""The newest changes of a store as one process sees them: what all its watchers share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

from protoplane_runtime.engines.keys import KeyMatcher
from protoplane_runtime.engines.state import Deleted, Entry, Snapshot

MAX_CHANGES = 16_384
"""Most keys whose newest change is held."""

MAX_BYTES = 16 * 1024 * 1024
"""Bytes of values that they may take together."""


class Changes:
    """The newest change of each key, in the order of the revisions; use it on the event loop.

    Args:
        revision: Newest revision that is not told here.
        most: Most keys that are held.
    """

    def __init__(self, revision: int = 0, most: int = MAX_CHANGES) -> None:
        self.revision = revision
        self._floor = revision
        self._most = most
        self._newest: dict[str, Entry | Deleted] = {}
        self._bytes = 0
        self._changed = asyncio.Event()
        self._closed = False

    def add(self, changes: Sequence[Entry | Deleted]) -> None:
        """Add changes that follow; those that it has are left out."""
        newest = self._newest
        for change in changes:
            if change.revision > self.revision:
                before = newest.pop(change.key, None)
                self._bytes += _size(change) - (_size(before) if before is not None else 0)
                newest[change.key] = change
                self.revision = change.revision
        while len(newest) > self._most or (self._bytes > MAX_BYTES and len(newest) > 1):
            key = next(iter(newest))
            dropped = newest.pop(key)
            self._floor = dropped.revision
            self._bytes -= _size(dropped)
        self._wake()

    def restart(self, revision: int) -> None:
        """Begin anew after a revision; whoever watches gets a snapshot."""
        self._newest.clear()
        self._bytes = 0
        self._floor = self.revision = revision
        self._wake()

    def close(self) -> None:
        """End all watches."""
        self._closed = True
        self._wake()

    async def follow(
        self, match: KeyMatcher, snapshot: Callable[[], Awaitable[Snapshot]]
    ) -> AsyncGenerator[Snapshot | Entry | Deleted, None]:
        """Follow what some key expressions match; see `StateStore.watch`.

        Args:
            match: The key expressions.
            snapshot: Takes one of what they match.
        """
        place = -1
        while not self._closed:
            if place < self._floor:
                whole = await snapshot()
                if whole.revision < self._floor:
                    continue  # The changes went on meanwhile, further than they are held.
                place = whole.revision
                yield whole
            elif place < self.revision:
                for change in self._after(place):
                    if match.matches(change.key):
                        yield change
                    place = change.revision
                    if place < self._floor:
                        break
            else:
                await self._changed.wait()

    def _after(self, place: int) -> Sequence[Entry | Deleted]:
        found: list[Entry | Deleted] = []
        for change in reversed(self._newest.values()):
            if change.revision <= place:
                break
            found.append(change)
        found.reverse()
        return found

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


def _size(change: Entry | Deleted) -> int:
    return len(change.value) if isinstance(change, Entry) else 0
