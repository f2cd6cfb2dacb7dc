"""Reads a group's events ahead of its position, for one process."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import aclosing
from typing import Any, cast

from protoplane_base import PlaneError
from protoplane_runtime.engines.group_state import GroupState
from protoplane_runtime.engines.groups import DEAD_LETTERS
from protoplane_runtime.engines.interface import Event, EventId, EventLog, Gap, Start

_log = logging.getLogger("protoplane.groups")

MAX_AHEAD = 8192
"""Most events, not done, that a process holds for a group; behind them, it reads no further."""

MAX_AHEAD_BYTES = 16 * 1024 * 1024
"""Bytes of their data and JSON after which it reads no further."""

_FIRST_RETRY_S = 0.1
_LAST_RETRY_S = 2.0


class GroupReader:
    """Events after a group's position, as far as they are not done.

    Args:
        log: Their log.
        expressions: Key expressions of the group.
        durable: Tells by its id whether an event is delivered at all.
        changed: Called when there is more.
        closed: Called when the log is closed.

    Attributes:
        gaps: What was lost since the group looked last.
    """

    def __init__(
        self,
        log: EventLog,
        expressions: Sequence[str],
        durable: Callable[[EventId], bool],
        changed: Callable[[], None],
        closed: Callable[[], None],
    ) -> None:
        self.gaps: list[Gap] = []
        self._log = log
        self._expressions = expressions
        self._letters = any(text.split("/")[0] == DEAD_LETTERS for text in expressions)
        self._durable = durable
        self._changed = changed
        self._closed = closed
        self._events: list[Event] = []
        self._bytes = 0
        self._epoch = 0
        self._read_to = 0
        self._room = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self, state: GroupState) -> None:
        """Begin, or begin anew, at the group's position."""
        await self.stop()
        self.gaps.clear()
        self._events, self._bytes = [], 0
        self._epoch, self._read_to = state.epoch, state.position
        self._task = asyncio.create_task(self._read())

    async def stop(self) -> None:
        """Read no further."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    def undone(self, state: GroupState) -> list[Event]:
        """The events that are not done, after writing down shortly which are."""
        if state.epoch != self._epoch:
            return []
        left = self._left(state)
        state.compact([event.id.sequence for event in left], self._read_to)
        return left

    def prune(self, state: GroupState) -> None:
        """Forget what is done, now that the state is stored."""
        if state.epoch != self._epoch:
            return
        self._events = self._left(state)
        self._bytes = sum(_size(event) for event in self._events)
        if not self._full():
            self._room.set()

    def _left(self, state: GroupState) -> list[Event]:
        left: list[Event] = []
        done, position, at = state.done, state.position, 0
        # Both are in order, so one goes along with the other.
        for event in self._events:
            sequence = event.id.sequence
            while at < len(done) and done[at][1] < sequence:
                at += 1
            if sequence > position and not (at < len(done) and done[at][0] <= sequence):
                left.append(event)
        return left

    def _full(self) -> bool:
        return len(self._events) >= MAX_AHEAD or self._bytes >= MAX_AHEAD_BYTES

    async def _read(self) -> None:
        delay_s = _FIRST_RETRY_S
        while True:
            after = EventId(self._epoch, self._read_to) if self._read_to else Start.EARLIEST
            try:
                batches = cast("Any", self._log.read(self._expressions, after=after))
                async with aclosing(batches):
                    async for batch in batches:
                        delay_s = _FIRST_RETRY_S
                        self._add(batch)
                        while self._full():
                            self._room.clear()
                            await self._room.wait()
                self._closed()
            except PlaneError as error:
                _log.warning("a consumer group reads on in %.1f s: %s", delay_s, error)
            else:
                return
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, _LAST_RETRY_S)

    def _add(self, batch: Sequence[Event | Gap]) -> None:
        for item in batch:
            if isinstance(item, Gap):
                if not item.ephemeral:
                    self._skip(item)
                continue
            if item.id.epoch != self._epoch:
                # Nothing was asked for by id, so nothing was said to be lost.
                self._skip(Gap(EventId(self._epoch, self._read_to), item.id, item.id))
            self._read_to = item.id.sequence
            if self._durable(item.id) and (
                self._letters or not item.key.startswith(f"{DEAD_LETTERS}/")
            ):
                self._events.append(item)
                self._bytes += _size(item)
        self._changed()

    def _skip(self, gap: Gap) -> None:
        if gap.next.epoch != self._epoch:
            self._epoch = gap.next.epoch
            self._events, self._bytes = [], 0
        self._read_to = gap.next.sequence - 1
        self.gaps.append(gap)


def _size(event: Event) -> int:
    return len(event.data) + len(event.json)
