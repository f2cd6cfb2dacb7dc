"""The event log of the engine ``local:``."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Self

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.batches import Batch, Filter, Filters
from protoplane_runtime.engines.interface import (
    EventId,
    Gap,
    LogStats,
    Publication,
    Since,
    Start,
)
from protoplane_runtime.engines.keys import check_key, matcher
from protoplane_runtime.engines.local import frames
from protoplane_runtime.engines.local.backlog import Backlog, Past
from protoplane_runtime.engines.local.bells import Bell
from protoplane_runtime.engines.local.faults import from_os
from protoplane_runtime.engines.local.retention import Retention
from protoplane_runtime.engines.local.ring import RING_BYTES, Overrun, Ring, Word
from protoplane_runtime.engines.local.writer import Pending, Purge, Writer, Written
from protoplane_runtime.engines.tail import Tail

MAX_EVENT_BYTES = 64 * 1024 * 1024
"""Most bytes of data and JSON that an event may have."""

MAX_WAITING = 65_536
"""Most publications of one process that may wait for the disk."""

_MAX_TYPE_LENGTH = 1024


class LocalLog:
    """An `EventLog` in a folder that the processes of one machine share; get one from `open`.

    A durable event is acknowledged after SQLite's write-ahead log was synced to disk, so neither a
    kill nor a power cut loses it. An ephemeral one is in memory that the processes share, until
    newer events overwrite it there, or the machine stops.

    Use it from the event loop on which it was opened. It holds one thread that writes and, once
    somebody reads what is past, one that reads; a process that was forked needs its own.
    """

    def __init__(self, folder: Path, writer: Writer, ring: Ring) -> None:
        self._folder = folder
        self._writer = writer
        writer.written = self._written
        self._ring = ring
        self._epoch = writer.epoch
        self._filters = Filters()
        self._tail = Tail()
        self._backlog = Backlog(writer.path, ring, writer.epoch)
        self._bell: Bell | None = None
        self._position = 0
        self._pulling = False
        self._readers = 0
        self._last: EventId | None = None
        self._closed = False
        self._loop = asyncio.get_running_loop()

    @classmethod
    async def open(
        cls,
        folder: Path,
        *,
        retention: Sequence[Retention] | None = None,
        ring_bytes: int = RING_BYTES,
    ) -> Self:
        """Open the log of a folder, which is made where there is none.

        Args:
            folder: The engine's folder, on a disk of this machine.
            retention: What the log keeps from now on, for all its processes; ``None`` leaves that
                as it is, which is 1 GiB in a new log.
            ring_bytes: Bytes of the newest events, also the ephemeral ones, that a new log holds in
                memory; an old one keeps its size.

        Raises:
            PlaneError: PERMISSION_DENIED for a folder that cannot be written, RESOURCE_EXHAUSTED
                for a full disk, DATA_LOSS for a damaged database, FAILED_PRECONDITION for one that
                a newer Protoplane made, UNAVAILABLE where another program holds it.
        """
        try:
            await asyncio.to_thread(folder.mkdir, mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise from_os(error, folder) from error
        writer = Writer(folder, retention, ring_bytes)
        ring = await writer.open()
        return cls(folder, writer, ring)

    @property
    def last(self) -> EventId:
        """Id of the newest event of any process; sequence 0 where there is none."""
        if self._last is not None:
            return self._last
        return EventId(self._epoch, self._ring[Word.NEXT] - 1)

    async def publish(
        self,
        key: str,
        type_: str,
        data: bytes,
        json: str,
        *,
        durable: bool = False,
        publication: Publication | None = None,
    ) -> EventId:
        """Append an event; see `EventLog.publish`.

        Raises:
            PlaneError: INVALID_ARGUMENT for a bad key or text, RESOURCE_EXHAUSTED for an event
                that is too large, a full disk, or too many publications that wait, UNAVAILABLE
                once the log is closed or its files are gone, DATA_LOSS where they are damaged.
        """
        check_key(key)
        if not json.isascii() or not type_.isascii() or len(type_) > _MAX_TYPE_LENGTH:
            _check_texts(type_, json)
        if self._closed:
            raise PlaneError(Code.UNAVAILABLE, "the event log is closed")
        if len(data) + len(json) > MAX_EVENT_BYTES:
            raise PlaneError(
                Code.RESOURCE_EXHAUSTED,
                f"an event of {len(data) + len(json)} bytes is too large, {MAX_EVENT_BYTES} are "
                "the most; put it into an object and publish where that is",
            )
        if self._writer.waiting >= MAX_WAITING:
            raise PlaneError(
                Code.RESOURCE_EXHAUSTED,
                f"{MAX_WAITING} publications of this process wait already; wait for some of them",
            )
        accepted: asyncio.Future[EventId] = self._loop.create_future()
        self._writer.put(Pending(key, type_, data, json, durable, publication, accepted))
        return await accepted

    def read(
        self,
        expressions: Sequence[str],
        *,
        after: EventId | Start | Since = Start.NOW,
        latest: bool = False,
    ) -> AsyncIterator[Batch]:
        """Read what any of the key expressions matches; see `EventLog.read`.

        The place to begin is fixed by this call, save that of a time, which the first step finds.

        Raises:
            PlaneError: INVALID_ARGUMENT for a bad key expression.
        """
        return self._read(self._filters.get(expressions, latest), after, self.last)

    async def stats(
        self, expressions: Sequence[str] = ("**",), *, after: EventId | None = None
    ) -> LogStats:
        """What is kept on disk; see `EventLog.stats`.

        Raises:
            PlaneError: INVALID_ARGUMENT for a bad key expression, UNAVAILABLE once the log is
                closed, or the database cannot be read.
        """
        match = matcher(expressions)
        self._require_open()
        place = after.sequence if after is not None and after.epoch == self._epoch else 0
        return await self._backlog.stats(match, place)

    async def purge(
        self, expressions: Sequence[str], *, before: EventId | Since | None = None
    ) -> int:
        """Delete durable events; see `EventLog.purge`.

        Ephemeral ones that lie before the last of them are no longer read either.

        Raises:
            PlaneError: INVALID_ARGUMENT for a bad key expression, UNAVAILABLE once the log is
                closed, or the database cannot be written.
        """
        match = matcher(expressions)
        self._require_open()
        until = self.last.sequence
        if isinstance(before, Since):
            until = min(until, await self._backlog.place_at(before.time_ns))
        elif before is not None:
            # All that is here comes before a later epoch, and nothing before an earlier one.
            until = until if before.epoch > self._epoch else 0
            if before.epoch == self._epoch:
                until = min(self.last.sequence, before.sequence - 1)
        accepted: asyncio.Future[int] = self._loop.create_future()
        self._writer.put(Purge(match, until, accepted))
        count = await accepted
        if count and self._bell is not None:
            # What this process holds ready it reads anew from the disk.
            self._restart()
        self._filters.forget()
        return count

    async def enforce_retention(self) -> None:
        """Delete all that the retention no longer covers; this also happens by itself, in time.

        Raises:
            PlaneError: The database cannot be written.
        """
        self._require_open()
        done: asyncio.Future[None] = self._loop.create_future()
        self._writer.put(done)
        await done

    async def close(self) -> None:
        """Publish what was accepted, end all readers and both threads; once more does nothing."""
        if self._closed:
            return
        self._last = self.last
        self._closed = True
        self._tail.close()
        self._take_bell_down()
        await self._writer.close()
        await asyncio.to_thread(self._backlog.close)
        self._ring.close()

    def _require_open(self) -> None:
        if self._closed:
            raise PlaneError(Code.UNAVAILABLE, "the event log is closed")

    async def _read(
        self, shared: Filter, after: EventId | Start | Since, last: EventId
    ) -> AsyncIterator[Batch]:
        asked: EventId | None = None
        lost = False
        told_durable: int | None = 0
        told_ephemeral: int | None = 0
        if isinstance(after, EventId):
            asked = after
            lost = after.epoch != self._epoch or after > last
            place = 0 if lost else after.sequence
        elif after is Start.NOW:
            place = last.sequence
        else:
            place, told_durable, told_ephemeral = 0, None, None
        tail = self._tail
        self._readers += 1
        try:
            if self._closed:
                return
            if self._bell is None:
                self._hang_bell_up()
            if isinstance(after, Since):
                place = await self._backlog.place_at(after.time_ns)
            while not self._closed:
                if place >= tail.start and not lost and told_durable is not None:
                    told_ephemeral = 0
                    if place < tail.end:
                        batch, place = tail.batch(shared, place)
                        if batch:
                            yield batch
                    else:
                        place = await tail.wait(shared, place)
                    asked = None
                    continue
                past = await self._backlog.read(shared, place)
                if told_durable is None:
                    told_durable = past.floor
                if told_ephemeral is None:
                    told_ephemeral = past.lost
                if lost or past.floor > max(place, told_durable):
                    yield self._gap(asked, place, past, ephemeral=False)
                    told_durable = past.floor
                    told_ephemeral = 1 << 64
                elif past.lost > max(place, told_ephemeral):
                    yield self._gap(asked, place, past, ephemeral=True)
                    # Once, until it has caught up: there is no more to say meanwhile.
                    told_ephemeral = 1 << 64
                lost, asked = False, None
                if past.end == place:
                    # Somebody writes just now, or was killed while writing.
                    await asyncio.sleep(0.001)
                for batch in past.batches:
                    yield batch
                place = past.end
        finally:
            self._readers -= 1
            if self._readers == 0:
                self._take_bell_down()

    def _gap(self, asked: EventId | None, place: int, past: Past, *, ephemeral: bool) -> Batch:
        epoch = self._epoch
        return Batch(
            [
                Gap(
                    asked or EventId(epoch, place),
                    None if past.oldest is None else EventId(epoch, past.oldest),
                    EventId(epoch, past.next),
                    ephemeral,
                )
            ]
        )

    def _hang_bell_up(self) -> None:
        try:
            bell = Bell(self._folder / "bells")
        except OSError as error:
            raise from_os(error, self._folder) from error
        self._ring[Word.BELLS] = int.from_bytes(os.urandom(8), "little")
        self._bell = bell
        self._writer.own_bell = bell.path
        self._restart()
        self._loop.add_reader(bell.fileno(), self._rung)

    def _take_bell_down(self) -> None:
        bell, self._bell = self._bell, None
        if bell is not None:
            self._writer.own_bell = None
            self._loop.remove_reader(bell.fileno())
            bell.close()
            self._tail.restart(self._tail.end)

    def _rung(self) -> None:
        if self._bell is not None:
            self._bell.quiet()
            self._pull()

    def _pull(self) -> None:
        self._pulling = False
        if self._bell is None or self._closed:
            return
        try:
            read, self._position = self._ring.read(self._position)
        except Overrun:
            self._restart()
            return
        for frame in read:
            self._tail.extend(frames.decode(frame, self._epoch))
        if read and self._position != self._ring[Word.HEAD] and not self._pulling:
            # Others get their turn between one piece and the next.
            self._pulling = True
            self._loop.call_soon(self._pull)

    def _restart(self) -> None:
        # In this order: a frame that comes between is read again and left out, not missed.
        self._position = self._ring[Word.HEAD]
        self._tail.restart(self._ring[Word.NEXT] - 1)

    def _written(self, done: Written) -> None:
        if self._bell is not None and done.events:
            if self._position == done.start:
                self._position = done.end
                self._tail.extend(done.events)
            elif self._position < done.start:
                self._pull()
        for pending in done.group:
            accepted = pending.accepted
            if accepted.done():
                continue
            if pending.id is not None:
                accepted.set_result(pending.id)
            else:
                accepted.set_exception(
                    pending.error or PlaneError(Code.INTERNAL, "an event was not written")
                )


def _check_texts(type_: str, json: str) -> None:
    try:
        type_.encode()
        json.encode()
    except UnicodeEncodeError:
        raise PlaneError(
            Code.INVALID_ARGUMENT, "an event's type and JSON may hold no lone surrogates"
        ) from None
    if len(type_) > _MAX_TYPE_LENGTH:
        raise PlaneError(
            Code.INVALID_ARGUMENT,
            f"an event's type has {len(type_)} characters, and {_MAX_TYPE_LENGTH} are the most",
        )
