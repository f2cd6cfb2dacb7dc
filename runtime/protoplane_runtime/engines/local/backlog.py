"""What lies before the tail: events of the ring, and before those the ones on disk."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from weakref import WeakKeyDictionary

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.batches import MAX_BATCH, Batch, Filter, newest
from protoplane_runtime.engines.interface import Event, LogStats
from protoplane_runtime.engines.keys import KeyMatcher
from protoplane_runtime.engines.local import frames
from protoplane_runtime.engines.local.faults import translated
from protoplane_runtime.engines.local.ring import Overrun, Ring, Word
from protoplane_runtime.engines.local.store import Replay

_ATTEMPTS = 20

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Past:
    """Events from before the tail.

    Attributes:
        batches: Those that match, shared by all readers at the same place.
        end: Place up to which was looked.
        floor: Greatest sequence of a durable event that was deleted and might have matched.
        lost: Greatest sequence of an ephemeral event that is no longer in the ring.
        oldest: Sequence of the oldest event that is kept; ``None`` where there is none.
        next: Sequence of the oldest event that is kept after the place asked for, or of the one
            that would be published next.
    """

    batches: Sequence[Batch]
    end: int
    floor: int
    lost: int
    oldest: int | None
    next: int


class Backlog:
    """Reads in a thread of its own, so that the event loop never waits for the disk.

    Args:
        path: The database.
        ring: The folder's ring.
        epoch: The log's epoch.
    """

    def __init__(self, path: Path, ring: Ring, epoch: int) -> None:
        self._path = path
        self._ring = ring
        self._epoch = epoch
        self._replay: Replay | None = None
        self._executor = ThreadPoolExecutor(1, "protoplane-replay")
        self._running: WeakKeyDictionary[Filter, dict[int, asyncio.Future[Past]]] = (
            WeakKeyDictionary()
        )
        self._hint = (0, 0)
        self._first = (-1, 0)

    async def read(self, shared: Filter, place: int) -> Past:
        """The next events after a place; readers that ask for the same are given the same.

        Raises:
            PlaneError: The database cannot be read.
        """
        running = self._running.setdefault(shared, {})
        future = running.get(place)
        if future is None:
            future = running[place] = asyncio.get_running_loop().run_in_executor(
                self._executor, self._read, shared, place
            )
            future.add_done_callback(lambda done: _forget(running, place, done))
        # Whoever else waits for it still wants it when this one is cancelled.
        return await asyncio.shield(future)

    async def place_at(self, time_ns: int) -> int:
        """Place before the first event that was accepted at some time or later.

        Raises:
            PlaneError: The database cannot be read.
        """
        return await asyncio.get_running_loop().run_in_executor(
            self._executor, self._place_at, time_ns
        )

    async def stats(self, match: KeyMatcher, after: int) -> LogStats:
        """What is kept on disk of what the expressions match, after a sequence.

        Raises:
            PlaneError: The database cannot be read.
        """
        return await asyncio.get_running_loop().run_in_executor(
            self._executor, self._stats, match, after
        )

    def close(self) -> None:
        """Wait for what runs, and close the database; blocks."""
        self._executor.shutdown(wait=True, cancel_futures=True)
        if self._replay is not None:
            self._replay.close()

    # What follows runs in the thread.

    def _guarded(self, call: Callable[[Replay], _Result]) -> _Result:
        with translated(self._path):
            if self._replay is None:
                self._replay = Replay(self._path, self._epoch)
            return call(self._replay)

    def _stats(self, match: KeyMatcher, after: int) -> LogStats:
        return self._guarded(lambda replay: replay.stats(match, after))

    def _read(self, shared: Filter, place: int) -> Past:
        return self._guarded(lambda replay: self._read_past(replay, shared, place))

    def _read_past(self, replay: Replay, shared: Filter, place: int) -> Past:
        ring = self._ring
        for _ in range(_ATTEMPTS):
            floor = ring[Word.FLOOR]
            # What the ring still holds of deleted events is not shown either.
            chunk = replay.read(shared.match, place, floor)
            events, end = chunk.events, chunk.end
            if place < max(floor, chunk.floor):
                break
            try:
                events, end = self._from_ring(shared, place)
            except Overrun:
                continue  # The floor rose, so now it is on disk.
            break
        else:
            raise PlaneError(
                Code.DATA_LOSS,
                f"the shared memory beside {self._path} is damaged; end the processes that use it, "
                "and remove events.ring",
            )
        found = newest(events) if shared.latest else events
        first = self._first_in_ring(chunk.floor)
        following = [at for at in (chunk.next, first) if at is not None and at > place]
        kept = [at for at in (chunk.oldest, first) if at is not None]
        return Past(
            [Batch(found[at : at + MAX_BATCH]) for at in range(0, len(found), MAX_BATCH)],
            end,
            chunk.floor,
            ring[Word.LOST],
            min(kept, default=None),
            min(following, default=max(place + 1, ring[Word.NEXT])),
        )

    def _from_ring(self, shared: Filter, place: int) -> tuple[list[Event], int]:
        ring = self._ring
        before, position = self._hint
        if before != place or position < ring[Word.TAIL]:
            position = ring[Word.TAIL]
        matches = shared.match.matches
        found: list[Event] = []
        end = place
        while True:
            read, after = ring.read(position)
            if not read:
                return found, end
            for frame in read:
                last = frames.last_sequence(frame)
                if last > place:
                    for event in frames.decode(frame, self._epoch):
                        if event.id.sequence > place and matches(event.key):
                            if len(found) == MAX_BATCH:
                                end = found[-1].id.sequence
                                self._hint = (end, position)
                                return found, end
                            found.append(event)
                    end = last
                position += len(frame)
            position = after

    def _first_in_ring(self, floor: int) -> int | None:
        following = self._ring[Word.NEXT]
        tail = self._ring[Word.TAIL]
        position, first = self._first
        if position != tail:
            # Looking at a frame means to read all of it, so it is done once for each.
            try:
                read, _ = self._ring.read(tail, frames.HEADER.size)
            except Overrun:
                return None
            if not read:
                return None
            first = frames.first_sequence(read[0])
            self._first = (tail, first)
        first = max(first, floor + 1)
        return first if first < following else None

    def _place_at(self, time_ns: int) -> int:
        now = self._ring[Word.NEXT] - 1
        durable = self._guarded(lambda replay: replay.first_at(time_ns))
        place = now if durable is None else durable - 1
        try:
            position = self._ring[Word.TAIL]
            while True:
                read, position = self._ring.read(position)
                if not read:
                    return place
                for frame in read:
                    if frames.time_of(frame) >= time_ns:
                        return min(place, frames.first_sequence(frame) - 1)
        except Overrun:
            return place


def _forget(
    running: dict[int, asyncio.Future[Past]], place: int, done: asyncio.Future[Past]
) -> None:
    running.pop(place, None)
    if not done.cancelled():
        done.exception()  # Seen, also where all who waited have gone.
