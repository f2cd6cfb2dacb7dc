"""Follows the KV events of workers: in order, each once, and what was lost is fetched."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterable, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, cast

from protoplane.router.v1 import KvEvent
from protoplane_base import Code, DecodeError, PlaneError, ProtoplaneError
from protoplane_components.kv_router.index import KvIndex, Target, UnknownParentError
from protoplane_components.kv_router.states import FetchedState, tier_of
from protoplane_components.kv_router.wire import StoredBlocks, read_stored
from protoplane_runtime.engines.interface import Event, EventId, EventLog, Gap, Start

_log = logging.getLogger("protoplane.router")

KEYS = "router/kv-events/**"
"""Where KV events are filed."""

_REPLAY_S = 2.0
_IDLE_S = 0.25
_MAX_RETRY_S = 5.0
_ORPHANS_S = 30.0
_MAX_PENDING = 100_000

Fetch = Callable[[Target], Awaitable[FetchedState | None]]
"""Asks a worker for the state of a rank; ``None`` where it cannot be asked."""


@dataclass(slots=True)
class Course:
    """How far the events of a rank were followed.

    Attributes:
        epoch: Epoch of the worker's events.
        event_id: Last event that the index includes.
        in_sync: Whether it includes all before that too.
        alone: Whether there is nobody to ask for its state: all that is known comes by events.
        repaired_s: When it was repaired last, by ``time.monotonic``.
        pending: Events that came while the state was being repaired, by epoch and id.
    """

    epoch: str = ""
    event_id: int = 0
    in_sync: bool = False
    alone: bool = False
    repaired_s: float = float("-inf")
    pending: dict[tuple[str, int], KvEvent | StoredBlocks] = field(
        default_factory=dict[tuple[str, int], KvEvent | StoredBlocks]
    )


class KvFollower:
    """Keeps an index at what the workers say.

    Args:
        index: The index.
        events: The event plane.
        fetch: Asks a worker for its state. It may raise `PlaneError`; UNAVAILABLE is tried again.
        block_size: Tokens in a block of the router.
        whole: Whether the index is of all that workers hold. In a part of one, blocks behind such
            that it does not have are no sign of lost events.
    """

    def __init__(
        self,
        index: KvIndex,
        events: EventLog,
        fetch: Fetch,
        *,
        block_size: int,
        whole: bool = True,
    ) -> None:
        self._index = index
        self._whole = whole
        self._events = events
        self._fetch = fetch
        self._block_size = block_size
        self._courses: dict[Target, Course] = {}
        self._repairs: dict[Target, asyncio.Task[None]] = {}
        self._position: EventId | None = None
        self._refused: set[str] = set()
        self.applied = 0
        self.gaps = 0
        self.fetched = 0
        self.replayed = 0

    @property
    def position(self) -> EventId | None:
        """Place in the event log up to which all was looked at."""
        return self._position

    @property
    def courses(self) -> Mapping[Target, Course]:
        """How far each rank was followed."""
        return self._courses

    @property
    def warm(self) -> bool:
        """Whether at least half of the ranks are not being repaired: the index is worth asking."""
        if not self._repairs:
            return True
        awaited = sum(not self._courses[target].alone for target in self._repairs)
        return 2 * awaited <= len(self._courses)

    def add(self, target: Target) -> None:
        """Follow a rank from now on; its state is fetched first, unless it was `restored`."""
        course = self._courses.setdefault(target, Course())
        if not course.in_sync:
            self._repair(target)

    def restored(self, target: Target, course: Course) -> None:
        """Follow a rank from a state that the index has got; what is not whole is fetched."""
        repair = self._repairs.pop(target, None)
        if repair is not None:
            repair.cancel()
        before = self._courses.get(target, course)
        behind = before.epoch == course.epoch and before.event_id > course.event_id
        self._courses[target] = course
        if behind or not course.in_sync:
            self._repair(target)

    def remove(self, worker: str) -> None:
        """Follow a worker no more, and forget its blocks."""
        for target in [each for each in self._courses if each.worker == worker]:
            del self._courses[target]
            repair = self._repairs.pop(target, None)
            if repair is not None:
                repair.cancel()
        self._refused.discard(worker)
        self._index.remove_worker(worker)

    async def run(self, after: EventId | None = None) -> None:
        """Follow until it is cancelled.

        Args:
            after: Place in the log that the index includes; from now on where absent.

        Raises:
            PlaneError: The event plane is closed, or over for good.
        """
        self._position = self._events.last if after is None else after
        for target, course in self._courses.items():
            if not course.in_sync:
                self._repair(target)
        try:
            batches = self._events.read([KEYS], after=Start.NOW if after is None else after)
            async with aclosing(cast("Any", batches)):
                async for batch in batches:
                    self._take(batch)
        finally:
            repairs = [*self._repairs.values()]
            self._repairs.clear()
            for repair in repairs:
                repair.cancel()
            if repairs:
                await asyncio.wait(repairs)

    def _take(self, batch: Sequence[Event | Gap]) -> None:
        for each in batch:
            if isinstance(each, Gap):
                if each.ephemeral:
                    # KV events are durable.
                    continue
                _log.warning("KV events after %s are lost; all workers are asked", each.asked)
                self.gaps += 1
                for target in self._courses:
                    self._repair(target)
                continue
            event = _decoded(each)
            if event is not None:
                self.apply(event)
            self._position = each.id

    def apply(self, event: KvEvent | StoredBlocks) -> None:
        """Take an event in; one that was taken in before does nothing.

        Events of workers that are not followed are passed over. One that is not the next of its
        rank starts a repair.
        """
        target = Target(event.worker, event.dp_rank)
        course = self._courses.get(target)
        if course is None or not self._fits(event):
            return
        if target in self._repairs:
            self._keep(course, event)
        elif event.epoch == course.epoch and event.event_id <= course.event_id:
            return
        elif event.event_id == 1 and event.epoch != course.epoch:
            # It started anew, and so has an empty cache.
            self._index.clear(target)
            course.epoch, course.event_id, course.in_sync = event.epoch, 0, True
            self._change(target, course, event)
        elif event.epoch == course.epoch and event.event_id == course.event_id + 1:
            self._change(target, course, event)
        else:
            self.gaps += 1
            self._keep(course, event)
            self._repair(target)

    def _keep(self, course: Course, event: KvEvent | StoredBlocks) -> None:
        if len(course.pending) < _MAX_PENDING:
            course.pending[event.epoch, event.event_id] = event

    def _fits(self, event: KvEvent | StoredBlocks) -> bool:
        if event.block_size in (0, self._block_size):
            return True
        if event.worker not in self._refused:
            self._refused.add(event.worker)
            _log.error(
                "KV events of %s are refused: its blocks have %d tokens, and this router's %d",
                *(event.worker, event.block_size, self._block_size),
            )
        return False

    def _change(self, target: Target, course: Course, event: KvEvent | StoredBlocks) -> None:
        self.applied += 1
        course.event_id = event.event_id
        try:
            apply_event(self._index, target, event)
        except UnknownParentError:
            # The worker itself may not hold the parent: then nobody can use these, and asking again
            # and again would not help.
            lately = time.monotonic() - course.repaired_s < _ORPHANS_S
            if not (self._whole and course.in_sync) or lately:
                return
            if self._index.stats().evicted == 0:
                self._repair(target)
        except PlaneError as error:
            _log.warning("KV event %d of %s: %s", event.event_id, target.worker, error.message)

    def _repair(self, target: Target) -> None:
        if target not in self._repairs:
            self._courses[target].in_sync = False
            self._repairs[target] = asyncio.create_task(self._repaired(target))

    async def _repaired(self, target: Target) -> None:
        """Bring a rank back in sync: from the log, else from the worker itself."""
        course = self._courses[target]
        delay_s = 0.05
        while True:
            try:
                if await self._replay(target, course):
                    break
                state = await self._fetch(target)
                course.alone = state is None
                if state is None:
                    await self._go_on(target, course)
                    break
                if await self._replace(target, course, state):
                    break
            except (ProtoplaneError, OSError) as error:
                if isinstance(error, PlaneError) and error.code is Code.UNIMPLEMENTED:
                    await self._go_on(target, course)
                    break
                _log.warning("the state of %s (rank %d) cannot be had: %s", *target, error)
                # What is not known any more must not be believed.
                self._index.clear(target)
                course.epoch, course.event_id = "", 0
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, _MAX_RETRY_S)
        course.repaired_s = time.monotonic()
        del self._repairs[target]

    async def _replay(self, target: Target, course: Course) -> bool:
        """Find in the log what is missing; tells whether nothing is any more."""
        wanted = min((id_ for epoch, id_ in course.pending if epoch == course.epoch), default=0)
        if not (course.event_id and wanted > course.event_id):
            return False
        found = await self._logged(target, course.epoch, wanted)
        if any(number not in found for number in range(course.event_id + 1, wanted)):
            return False
        for number in range(course.event_id + 1, wanted):
            self.replayed += 1
            self._change_quietly(target, course, found[number])
        return self._catch_up(target, course)

    async def _replace(self, target: Target, course: Course, state: FetchedState) -> bool:
        orphans = await state.put_into(self._index, target)
        if orphans and self._whole:
            _log.info("%s holds %d blocks whose beginning it does not hold", target, orphans)
        self.fetched += 1
        course.epoch, course.event_id = state.epoch, state.event_id
        return self._catch_up(target, course)

    async def _go_on(self, target: Target, course: Course) -> None:
        """Do without the state: from the beginning of the log, or from nothing and what comes."""
        self._index.clear(target)
        course.epoch, course.event_id = "", 0
        if course.pending:
            course.epoch = [*course.pending][-1][0]
        found = await self._logged(target, course.epoch, None)
        if found:
            course.epoch = [*found.values()][-1].epoch
        for event in found.values():
            if event.epoch == course.epoch:
                course.pending.setdefault((event.epoch, event.event_id), event)
        if self._catch_up(target, course):
            return
        for (epoch, number), event in sorted(course.pending.items(), key=lambda each: each[0][1]):
            if epoch == course.epoch and number > course.event_id:
                self._change_quietly(target, course, event)
        course.pending = {}

    async def _logged(
        self, target: Target, epoch: str, until: int | None
    ) -> dict[int, KvEvent | StoredBlocks]:
        """Events of a rank from the log; without an end, those that it has by now."""
        key = f"router/kv-events/{target.worker}/{target.dp_rank}"
        found: dict[int, KvEvent | StoredBlocks] = {}
        newest = epoch
        patience_s = _IDLE_S if until is None else _REPLAY_S
        batches = self._events.read([key], after=Start.EARLIEST)
        try:
            async with aclosing(cast("Any", batches)), asyncio.timeout(patience_s) as limit:
                async for batch in cast("AsyncIterable[Sequence[Event | Gap]]", batches):
                    for each in batch:
                        event = None if isinstance(each, Gap) else _decoded(each)
                        if event is None or (epoch and event.epoch != epoch):
                            continue
                        if event.epoch != newest:
                            newest, found = event.epoch, {}
                        found[event.event_id] = event
                    if until is not None and found and max(found) >= until:
                        break
                    limit.reschedule(asyncio.get_running_loop().time() + patience_s)
        except TimeoutError:
            pass
        except PlaneError as error:
            _log.warning("KV events of %s cannot be read again: %s", target.worker, error.message)
        return found

    def _catch_up(self, target: Target, course: Course) -> bool:
        """Apply what came meanwhile; tells whether nothing is missing in it."""
        while (event := course.pending.pop((course.epoch, course.event_id + 1), None)) is not None:
            self._change_quietly(target, course, event)
        ahead = [id_ for epoch, id_ in course.pending if epoch == course.epoch]
        if any(id_ > course.event_id for id_ in ahead):
            return False
        newest = [*course.pending][-1][0] if course.pending else course.epoch
        course.pending = {}
        # Where the last to come is of another epoch, the worker may have started anew meanwhile.
        course.in_sync = newest == course.epoch
        return course.in_sync

    def _change_quietly(
        self, target: Target, course: Course, event: KvEvent | StoredBlocks
    ) -> None:
        course.event_id = event.event_id
        self.applied += 1
        try:
            apply_event(self._index, target, event)
        except PlaneError as error:
            _log.debug("KV event %d of %s: %s", event.event_id, target.worker, error.message)


def apply_event(index: KvIndex, target: Target, event: KvEvent | StoredBlocks) -> None:
    """Do what an event says to the index.

    Raises:
        UnknownParentError: The index lacks the block before those that were stored.
        PlaneError: INVALID_ARGUMENT; the event contradicts itself.
    """
    if isinstance(event, StoredBlocks):
        index.store(
            target,
            event.engine_hashes,
            event.hashes,
            parent=event.parent,
            tier=tier_of(event.tier),
        )
    elif event.stored is not None:
        index.store(
            target,
            event.stored.block_hashes,
            event.stored.tokens_hashes,
            parent=event.stored.parent_hash,
            tier=tier_of(event.tier),
        )
    elif event.removed is not None:
        index.remove(target, event.removed.block_hashes, tier=tier_of(event.tier))
    elif event.cleared is not None:
        index.clear(target)


def _decoded(event: Event) -> KvEvent | StoredBlocks | None:
    stored = read_stored(event.data)
    if stored is not None:
        return stored
    try:
        return KvEvent.from_bytes(event.data)
    except DecodeError as error:
        _log.warning("event %s under %s is no KV event: %s", event.id, event.key, error)
        return None
