"""The state store of the engine ``local:``: one SQLite file for all processes of a machine."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, aclosing, closing
from pathlib import Path
from typing import ParamSpec, Self, TypeVar

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.keys import KeyMatcher, check_key, matcher
from protoplane_runtime.engines.local.bells import Bell, Ringer
from protoplane_runtime.engines.local.faults import from_os, translated
from protoplane_runtime.engines.local.state_store import MAX_DELETED, Reading, Write, Writing
from protoplane_runtime.engines.state import (
    Deleted,
    Entry,
    Snapshot,
    check_expected,
    check_put,
)
from protoplane_runtime.engines.state_changes import Changes

MAX_GROUP = 1024
"""Most changes that are committed together."""

MAX_WAITING = 65_536
"""Most changes of one process that may wait for the disk."""

_BELLS = "state.bells"
_LOOK_INTERVAL_S = 5.0
_P = ParamSpec("_P")
_R = TypeVar("_R")


class LocalState:
    """A `StateStore` in a folder that the processes of one machine share; get one from `open`.

    A change is acknowledged once SQLite's write-ahead log was synced to disk. While a group of
    changes is on its way there, the next one gathers. Use it from the event loop on which it was
    opened; it holds two threads, one that writes and one that reads, one task while something
    waits to be written and one while somebody watches. A process that was forked needs its own.
    """

    def __init__(
        self, folder: Path, writing: Writing, reading: Reading, ringer: Ringer, writer: _Thread
    ) -> None:
        self._path = folder / "state.db"
        self._bells = folder / _BELLS
        self._writing = writing
        self._reading = reading
        self._writer = writer
        self._reader = _Thread("protoplane-state-read", self._path)
        self._ringer = ringer
        self._queue: deque[tuple[Write, asyncio.Future[int]]] = deque()
        self._committing: asyncio.Task[None] | None = None
        self._changes: Changes | None = None
        self._watchers = 0
        self._following: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._closed = False

    @classmethod
    async def open(cls, folder: Path, *, max_deleted: int = MAX_DELETED) -> Self:
        """Open the store of a folder, which is made where there is none.

        Args:
            folder: The engine's folder, on a disk of this machine.
            max_deleted: Deleted keys that are remembered for watchers that fell behind.

        Raises:
            PlaneError: PERMISSION_DENIED for a folder that cannot be written, RESOURCE_EXHAUSTED
                for a full disk, DATA_LOSS for a damaged database, FAILED_PRECONDITION for one that
                a newer Protoplane made, UNAVAILABLE where another program holds it.
        """
        writer = _Thread("protoplane-state", folder / "state.db")

        def begin() -> tuple[Writing, Reading, Ringer]:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with ExitStack() as stack:
                writing = stack.enter_context(closing(Writing(folder / "state.db", max_deleted)))
                reading = stack.enter_context(closing(Reading(folder / "state.db")))
                ringer = Ringer(folder / _BELLS)
                stack.pop_all()
            return writing, reading, ringer

        try:
            parts = await writer.run(begin)
        except BaseException:
            await writer.close()
            raise
        return cls(folder, *parts, writer)

    async def get(self, key: str) -> Entry | None:
        """The value of a key; see `StateStore.get`."""
        check_key(key)
        self._require_open()
        return await self._reader.run(self._reading.get, key)

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
        return await self._write(Write(key, bytes(value), expected, ttl_s))

    async def delete(self, key: str, *, expected: int | None = None) -> bool:
        """Take the value of a key away; see `StateStore.delete`."""
        check_key(key)
        check_expected(expected)
        return bool(await self._write(Write(key, None, expected)))

    async def list(self, expression: str = "**") -> Sequence[Entry]:
        """All entries that a key expression matches; see `StateStore.list`."""
        match = matcher([expression])
        self._require_open()
        return (await self._reader.run(self._reading.snapshot, match)).entries

    def watch(self, expression: str = "**") -> AsyncGenerator[Snapshot | Entry | Deleted, None]:
        """Follow what a key expression matches; see `StateStore.watch`."""
        return self._watch(matcher([expression]))

    async def close(self) -> None:
        """Do what was accepted, end all watches and both threads; once more does nothing."""
        if self._closed:
            return
        self._closed = True
        if self._changes is not None:
            self._changes.close()
        await self._stop_following()
        if self._committing is not None:
            await asyncio.wait([self._committing])
        await self._writer.close(self._writing.close)
        await self._reader.close(self._reading.close)
        self._ringer.close()

    async def _write(self, write: Write) -> int:
        self._require_open()
        if len(self._queue) >= MAX_WAITING:
            raise PlaneError(
                Code.RESOURCE_EXHAUSTED,
                f"{MAX_WAITING} changes of this process wait already; wait for some of them",
            )
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._queue.append((write, done))
        if self._committing is None:
            self._committing = asyncio.create_task(self._commit())
        return await done

    async def _commit(self) -> None:
        try:
            while self._queue:
                count = min(len(self._queue), MAX_GROUP)
                group = [self._queue.popleft() for _ in range(count)]
                try:
                    results = await self._writer.run(
                        self._write_and_ring, [write for write, _ in group]
                    )
                except PlaneError as error:
                    results = [error] * count
                except BaseException:
                    _refuse(group, PlaneError(Code.INTERNAL, "a change was not written"))
                    raise
                for (_, done), result in zip(group, results, strict=True):
                    if done.done():
                        continue
                    if isinstance(result, PlaneError):
                        done.set_exception(result)
                    else:
                        done.set_result(result)
                self._wake.set()
        finally:
            self._committing = None
            _refuse(self._queue, PlaneError(Code.UNAVAILABLE, "the state store is closed"))
            self._queue.clear()

    def _write_and_ring(self, group: Sequence[Write]) -> Sequence[int | PlaneError]:
        results = self._writing.write(group)
        self._ringer.ring(None)
        return results

    async def _watch(self, match: KeyMatcher) -> AsyncGenerator[Snapshot | Entry | Deleted, None]:
        if self._closed:
            return
        self._watchers += 1
        try:
            if self._following is None or self._following.done():
                recent = Changes(-1)  # Until it looked, nothing is known.
                bell = self._hang_bell_up()
                self._changes = recent
                self._following = asyncio.create_task(self._follow(recent, bell))

            async def snapshot() -> Snapshot:
                return await self._reader.run(self._reading.snapshot, match)

            assert self._changes is not None
            async with aclosing(self._changes.follow(match, snapshot)) as changes:
                async for change in changes:
                    yield change
        finally:
            self._watchers -= 1
            if self._watchers == 0:
                await self._stop_following()

    async def _stop_following(self) -> None:
        following, self._following = self._following, None
        if following is not None:
            following.cancel()
            await asyncio.wait([following])

    def _hang_bell_up(self) -> Bell:
        try:
            return Bell(self._bells)
        except OSError as error:
            raise from_os(error, self._bells) from error

    async def _follow(self, recent: Changes, bell: Bell) -> None:
        """Take over what this and other processes change; a bell says when."""
        loop = asyncio.get_running_loop()

        def rung() -> None:
            bell.quiet()
            self._wake.set()

        loop.add_reader(bell.fileno(), rung)
        try:
            while True:
                self._wake.clear()
                wait_s = _LOOK_INTERVAL_S
                try:
                    found = await self._reader.run(self._reading.after, recent.revision)
                    if found.changes is None:
                        recent.restart(found.revision)
                    elif found.changes:
                        recent.add(found.changes)
                    if found.expires_ns is not None:
                        wait_s = min(wait_s, (found.expires_ns - time.time_ns()) / 1e9)
                    if wait_s <= 0:
                        await self._writer.run(self._write_and_ring, ())
                        continue
                except PlaneError:
                    # The disk is away; watchers wait until it is back.
                    wait_s = _LOOK_INTERVAL_S
                try:
                    async with asyncio.timeout(wait_s + 0.001):
                        await self._wake.wait()
                except TimeoutError:
                    continue
        finally:
            loop.remove_reader(bell.fileno())
            bell.close()

    def _require_open(self) -> None:
        if self._closed:
            raise PlaneError(Code.UNAVAILABLE, "the state store is closed")


def _refuse(group: Iterable[tuple[Write, asyncio.Future[int]]], error: PlaneError) -> None:
    for _, done in group:
        if not done.done():
            done.set_exception(error)


class _Thread:
    """One thread that works on the store's file; what a cancelled caller asked for is done."""

    def __init__(self, name: str, path: Path) -> None:
        self._executor = ThreadPoolExecutor(1, name)
        self._path = path

    async def run(self, call: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
        """Do something in the thread.

        Raises:
            PlaneError: It failed.
        """

        def guarded() -> _R:
            with translated(self._path):
                return call(*args, **kwargs)

        return await asyncio.shield(
            asyncio.get_running_loop().run_in_executor(self._executor, guarded)
        )

    async def close(self, last: Callable[[], None] | None = None) -> None:
        """Do a last thing and end the thread."""
        if last is not None:
            self._executor.submit(last)
        await asyncio.to_thread(self._executor.shutdown)
