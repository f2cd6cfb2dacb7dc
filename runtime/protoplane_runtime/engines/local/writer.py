"""The one thread of a process that writes: it commits whole groups of publications at once.

While a group is on its way to the disk the next one gathers, so one fsync serves all who publish.
A turn of the ring orders the groups of all processes, and with them every event of the log.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.interface import Event, EventId, Publication
from protoplane_runtime.engines.keys import KeyMatcher
from protoplane_runtime.engines.local import frames, retention
from protoplane_runtime.engines.local.bells import Ringer
from protoplane_runtime.engines.local.faults import from_os, from_sqlite, translated
from protoplane_runtime.engines.local.ring import Ring, Word
from protoplane_runtime.engines.local.schema import migrate, transaction
from protoplane_runtime.engines.local.store import Appender

MAX_GROUP = 1024
"""Most publications that are committed together."""

MAX_GROUP_BYTES = 1024 * 1024
"""Bytes of their data and JSON after which no more are added."""

_RESERVED_AT_ONCE = 65_536
_SWEEP_INTERVAL_S = 1.0
_IDLE_SWEEP_INTERVAL_S = 30.0


@dataclass(slots=True, eq=False)
class Pending:
    """A publication on its way into the log."""

    key: str
    type: str
    data: bytes
    json: str
    durable: bool
    publication: Publication | None
    accepted: asyncio.Future[EventId]
    id: EventId | None = None
    error: PlaneError | None = None


@dataclass(slots=True, eq=False)
class Purge:
    """Events that are to be deleted, by and by.

    Attributes:
        match: Their keys.
        until: Greatest sequence that may go.
        accepted: Gets the number of those deleted.
        place: How far it has come.
        count: How many were deleted so far.
    """

    match: KeyMatcher
    until: int
    accepted: asyncio.Future[int]
    place: int = 0
    count: int = 0


@dataclass(frozen=True, slots=True)
class Written:
    """A group that was written.

    Attributes:
        group: Its publications, each with its id or its error.
        events: The events that were appended.
        start: Position in the ring where their frame begins.
        end: Position after it.
    """

    group: Sequence[Pending]
    events: Sequence[Event] = field(default=())
    start: int = 0
    end: int = 0


class Writer:
    """Writes what is published; its methods are for the event loop's thread.

    Args:
        folder: The engine's folder, which exists.
        rules: The log's retention from now on; ``None`` leaves it as it is.
        ring_bytes: Bytes of frames that a new ring holds.

    Attributes:
        path: The database.
        epoch: The log's epoch, once it is open.
        own_bell: The bell of this process, which it need not ring.
        written: Called on the event loop with each group; set it before the first `put`.
    """

    def __init__(
        self,
        folder: Path,
        rules: Sequence[retention.Retention] | None,
        ring_bytes: int,
    ) -> None:
        self.path = folder / "events.db"
        self.epoch = 0
        self.own_bell: Path | None = None
        self.written: Callable[[Written], None]
        self._folder = folder
        self._rules = rules
        self._ring_bytes = ring_bytes
        self._queue: deque[Pending | Purge | asyncio.Future[None]] = deque()
        self._wake = threading.Lock()
        self._wake.acquire()
        self._stopping = False
        self._loop = asyncio.get_running_loop()
        self._opened: asyncio.Future[Ring] = self._loop.create_future()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._ended.add_done_callback(lambda _: self._refuse_rest())
        self._thread = threading.Thread(target=self._run, name="protoplane-events", daemon=True)

    async def open(self) -> Ring:
        """Start the thread; the ring is of use until `close`.

        Raises:
            PlaneError: The folder, the database or the ring cannot be used.
        """
        self._thread.start()
        return await self._opened

    def put(self, item: Pending | Purge | asyncio.Future[None]) -> None:
        """Give it a publication or a purge, or ask it to apply the retention now and say so."""
        self._queue.append(item)
        if self._ended.done():
            self._refuse_rest()
        elif self._wake.locked():
            self._wake.release()

    @property
    def waiting(self) -> int:
        """How many publications wait to be written."""
        return len(self._queue)

    async def close(self) -> None:
        """Write what was put, and end the thread."""
        self._stopping = True
        if self._wake.locked():
            self._wake.release()
        await asyncio.shield(self._ended)
        self._thread.join()

    def _refuse_rest(self) -> None:
        error = PlaneError(Code.UNAVAILABLE, "the event log is closed")
        while self._queue:
            item = self._queue.popleft()
            _fail(item if isinstance(item, asyncio.Future) else item.accepted, error)

    # What follows runs in the thread.

    def _run(self) -> None:
        with ExitStack() as stack:
            stack.callback(self._post, _settle, self._ended, None)
            try:
                with translated(self._folder):
                    ring = self._open(stack)
            except PlaneError as error:
                self._post(_fail, self._opened, error)
                return
            self._post(_settle, self._opened, ring)
            while not self._stopping or self._queue:
                if not self._queue:
                    self._wake.acquire(timeout=self._rest_s())
                self._work()

    def _rest_s(self) -> float:
        """How long there is nothing to do, if nobody has anything to write."""
        if not self._unswept:
            return _IDLE_SWEEP_INTERVAL_S
        # What was written last may be too much, also where nothing is written behind it.
        return max(0.0, self._next_sweep - time.monotonic())

    def _open(self, stack: ExitStack) -> Ring:
        # The ring's own descriptors end with the log, not with this thread: readers look at it.
        self._ring = ring = Ring(self._folder / "events.ring", self._ring_bytes)
        try:
            with translated(self.path), ring.turn(), ExitStack() as undo:
                self._appender = undo.enter_context(closing(Appender(self.path)))
                migrate(self._appender.connection, self.path)
                if self._rules is not None:
                    with transaction(self._appender.connection):
                        if retention.set_rules(self._appender.connection, self._rules):
                            ring[Word.KEYS] = time.time_ns()
                bounds = self._appender.bounds()
                self.epoch, self._reserved = bounds.epoch, bounds.reserved
                if not ring.fits(bounds.epoch, bounds.last):
                    ring.reset(bounds.epoch, max(bounds.last, bounds.reserved) + 1, bounds.reserved)
                self._inode = self.path.stat().st_ino
                stack.push(undo.pop_all())
            self._ringer = stack.enter_context(
                closing(Ringer(self._folder / "bells", lambda: ring[Word.BELLS]))
            )
        except BaseException:
            ring.close()
            raise
        self._keys_seen = ring[Word.KEYS]
        self._names_left = {"key": 0, "publisher": 0}
        self._next_sweep = 0.0
        self._unswept = True
        self._more = False
        return ring

    def _work(self) -> None:
        swept: list[asyncio.Future[None]] = []
        purges: list[Purge] = []
        group: list[Pending] = []
        size = 0
        while self._queue and len(group) < MAX_GROUP and size < MAX_GROUP_BYTES:
            item = self._queue.popleft()
            if isinstance(item, Pending):
                group.append(item)
                size += len(item.data) + len(item.json)
            elif isinstance(item, Purge):
                purges.append(item)
            else:
                swept.append(item)
        if group:
            self._unswept = True
            written = Written(group)
            try:
                written = self._write(group)
            except BaseException:
                for pending in group:
                    pending.id = None
                raise
            finally:
                self._post(self.written, written)
        for purge in purges:
            self._purge(purge)
        now = time.monotonic()
        if swept or now >= self._next_sweep:
            error = self._sweep(everything=bool(swept))
            self._next_sweep = now + (0.0 if self._more else _SWEEP_INTERVAL_S)
            self._unswept = self._more
            for each in swept:
                if error is None:
                    self._post(_settle, each, None)
                else:
                    self._post(_fail, each, error)

    def _write(self, group: Sequence[Pending]) -> Written:
        try:
            with translated(self.path), self._ring.turn():
                self._agree()
                start = self._ring[Word.HEAD]
                events = self._append(group)
                end = self._ring[Word.HEAD]
            self._ringer.ring(self.own_bell)
        except PlaneError as error:
            for pending in group:
                if pending.id is None:
                    pending.error = error
            return Written(group)
        return Written(group, events, start, end)

    def _agree(self) -> None:
        """Make sure that the files are still those of the folder, and agree with each other."""
        ring = self._ring
        try:
            gone = self.path.stat().st_ino != self._inode or ring.replaced
        except FileNotFoundError:
            gone = True
        if gone or ring[Word.EPOCH] != self.epoch:
            raise PlaneError(
                Code.UNAVAILABLE,
                f"{self._folder} was removed or replaced while this process used it; restart it",
            )
        if ring[Word.DIRTY]:
            # Who wrote last was killed in between: what it committed is in the database only.
            bounds = self._appender.bounds()
            ring.reset(self.epoch, bounds.last + 1, ring[Word.NEXT] - 1)
        if ring[Word.KEYS] != self._keys_seen:
            self._appender.forget()
            self._keys_seen = ring[Word.KEYS]

    def _append(self, group: Sequence[Pending]) -> list[Event]:
        ring = self._ring
        epoch, sequence = self.epoch, ring[Word.NEXT]
        time_ns = max(time.time_ns(), ring[Word.TIME])
        names = [
            each.publication for each in group if each.durable and each.publication is not None
        ]
        known = self._appender.known(names, epoch) if names else {}
        events: list[Event] = []
        durable: list[Event] = []
        publications: list[Publication | None] = []
        last_ephemeral = 0
        for pending in group:
            name = pending.publication if pending.durable else None
            if name is not None and name in known:
                pending.id = known[name]
                continue
            event_id = pending.id = EventId(epoch, sequence)
            event = Event(event_id, pending.key, pending.type, pending.data, pending.json, time_ns)
            events.append(event)
            if pending.durable:
                durable.append(event)
                publications.append(name)
                if name is not None:
                    known[name] = event_id
            else:
                last_ephemeral = sequence
            sequence += 1
        if not events:
            return events
        frame = frames.encode(events, last_ephemeral)
        ring[Word.DIRTY] = 1
        try:
            if last_ephemeral > self._reserved:
                self._appender.reserve(last_ephemeral + _RESERVED_AT_ONCE)
                self._reserved = last_ephemeral + _RESERVED_AT_ONCE
            if durable:
                self._appender.append(durable, publications)
        except (sqlite3.Error, OSError, PlaneError) as error:
            return self._without_durable(group, error)
        ring[Word.TIME] = time_ns
        ring.append(frame, events[-1].id.sequence, last_ephemeral)
        ring[Word.DIRTY] = 0
        return events

    def _without_durable(
        self, group: Sequence[Pending], error: sqlite3.Error | OSError | PlaneError
    ) -> list[Event]:
        """The database refused: say so to those who need it, and serve the others."""
        if isinstance(error, PlaneError):
            fault = error
        elif isinstance(error, sqlite3.Error):
            fault = from_sqlite(error, self.path)
        else:
            fault = from_os(error, self.path)
        rest: list[Pending] = []
        for pending in group:
            pending.id = None
            if pending.durable:
                pending.error = fault
            else:
                rest.append(pending)
        # Where it was committed all the same, the ring stays dirty and `_agree` mends it.
        if self._appender.bounds().last < self._ring[Word.NEXT]:
            self._ring[Word.DIRTY] = 0
        if len(rest) in (0, len(group)):
            raise fault
        self._agree()
        return self._append(rest)

    def _purge(self, purge: Purge) -> None:
        connection = self._appender.connection
        try:
            with translated(self.path), self._ring.turn():
                self._agree()
                # What is published from now on stays, also where `until` lies in the future.
                purge.until = min(purge.until, self._ring[Word.NEXT] - 1)
                with transaction(connection):
                    count, purge.place = retention.purge(
                        connection, purge.match, purge.place, purge.until
                    )
                purge.count += count
        except PlaneError as error:
            self._post(_fail, purge.accepted, error)
            return
        if purge.place < purge.until:
            # Those who publish have their turn in between.
            self._queue.append(purge)
        else:
            self._post(_settle, purge.accepted, purge.count)

    def _sweep(self, *, everything: bool) -> PlaneError | None:
        connection = self._appender.connection
        self._more = False
        try:
            with translated(self.path), self._ring.turn():
                self._agree()
                while True:
                    with transaction(connection):
                        self._more = retention.sweep(connection)
                        left = {
                            table: retention.sweep_names(connection, table, known)
                            for table, known in self._names_left.items()
                        }
                    for table, count in left.items():
                        if count >= 0:
                            self._names_left[table] = count
                            self._ring[Word.KEYS] = time.time_ns()
                    if not (everything and self._more):
                        return None
        except PlaneError as error:
            return error

    def _post(self, call: Callable[..., None], *arguments: object) -> None:
        # A loop that was closed has nobody left who waits.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(call, *arguments)


def _settle(future: asyncio.Future[Any], result: object) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: asyncio.Future[Any], error: PlaneError) -> None:
    if not future.done():
        future.set_exception(error)
