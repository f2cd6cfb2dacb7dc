"""A process's part in one consumer group: it claims events and hands them to its consumers.

All members of a group keep what they have done in one value of the state store. A turn applies all
that was asked for meanwhile, claims events for who has room, and writes the value back if nobody
else did; so one write serves many acknowledgements. Members see each other's turns by watching it.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.group_burial import BURIAL_S, Burials, Dead
from protoplane_runtime.engines.group_consumer import Consumer, Held
from protoplane_runtime.engines.group_reader import GroupReader
from protoplane_runtime.engines.group_state import MAX_FLIGHTS, Flight, GroupState, Token
from protoplane_runtime.engines.groups import Delivery
from protoplane_runtime.engines.interface import Event, EventId, EventLog, Start
from protoplane_runtime.engines.state import Deleted, Entry, Snapshot, StateStore

_log = logging.getLogger("protoplane.groups")

_MISSING_S = 2.0
_FIRST_RETRY_S = 0.1
_LAST_RETRY_S = 2.0
_MAX_PAUSE_S = 0.05
_TIMED_OUT = "its visibility time passed"
_DIED = "the process of its consumer ended"

Change = Callable[[GroupState], None]
"""Changes the state of a group; it may be called several times, each time with another state.

What it raises goes to who asked, and what it changed before that counts.
"""


@dataclass(frozen=True, slots=True)
class GroupParts:
    """What the groups of an engine stand on.

    Attributes:
        log: Their events.
        state: Where they keep what they have done.
        newest: Finds the id of the newest event.
        durable: Tells by its id whether an event is delivered at all.
    """

    log: EventLog
    state: StateStore
    newest: Callable[[], Awaitable[EventId]]
    durable: Callable[[EventId], bool]


@dataclass(slots=True, eq=False)
class Members:
    """Which processes take part in groups, as far as discovery tells.

    Attributes:
        own: This one.
        alive: Those that are there; ``None`` as long as that is not known.
        left: Those that were there.
    """

    own: str = ""
    alive: set[str] | None = None
    left: set[str] = field(default_factory=set[str])


@dataclass(slots=True)
class Asked:
    """A change that somebody waits for.

    Attributes:
        change: The change.
        done: Set once it is stored.
        error: What it raised.
    """

    change: Change
    done: asyncio.Future[None]
    error: PlaneError | None = None

    def apply(self, state: GroupState) -> None:
        """Change a state."""
        self.error = None
        try:
            self.change(state)
        except PlaneError as error:
            self.error = error

    def settle(self, error: PlaneError | None = None) -> None:
        """Say that it is stored, or why not."""
        error = error or self.error
        if self.done.done():
            return
        if error is None:
            self.done.set_result(None)
        else:
            self.done.set_exception(error)
            self.done.exception()  # Seen, also where nobody waits any more.


class GroupWorker:
    """A process's part in one group, from its first consumer to its last.

    Args:
        parts: What the group stands on.
        group: Its name.
        key: Key of its state.
        expressions: Its key expressions, canonical and in order.
        members: Who else there is.

    Attributes:
        expressions: Its key expressions.
        ending: Whether it takes no more consumers.
    """

    def __init__(
        self,
        parts: GroupParts,
        group: str,
        key: str,
        expressions: tuple[str, ...],
        members: Members,
    ) -> None:
        self.expressions = expressions
        self.ending = False
        self._parts = parts
        self._group = group
        self._key = key
        self._members = members
        self._consumers: list[Consumer] = []
        self._next = 0
        self._asked: list[Asked] = []
        self._wake = asyncio.Event()
        self._entry: Entry | None = None
        self._generation = ""
        self._missing: dict[str, float] = {}
        self._reader = GroupReader(parts.log, expressions, parts.durable, self._wake.set, self._end)
        self._burials = Burials(parts.log, group, self.ask, self._wake.set)
        self._watching = asyncio.create_task(self._watch(), name=f"watch of group {group}")
        self._working = asyncio.create_task(self._work(), name=f"group {group}")

    def join(self, consumer: Consumer) -> None:
        """Take a consumer in."""
        self._consumers.append(consumer)
        self._wake.set()

    async def leave(self, consumer: Consumer) -> None:
        """Give back what a consumer holds; the last one to leave ends the worker.

        Cancelling it leaves that to be done by itself.
        """
        consumer.end()
        if consumer not in self._consumers:
            return
        held = tuple(consumer.held.items())
        member = self._members.own

        def release(state: GroupState) -> None:
            for sequence, each in held:
                state.release(member, sequence, each.attempt, seen=each.seen)

        self.ending = all(each.ended for each in self._consumers)
        released = self.ask(release)
        # It stays among them as long as what it holds might seem to be nobody's.
        released.add_done_callback(lambda _: self._remove(consumer))
        with suppress(PlaneError):
            await asyncio.shield(released)
        if self.ending:
            await asyncio.shield(self._working)

    def ask(self, change: Change) -> asyncio.Future[None]:
        """Have the state changed in the next turn; the future is done once that is stored."""
        asked = Asked(change, asyncio.get_running_loop().create_future())
        if self._working.done():
            asked.settle(closed_error())
        else:
            self._asked.append(asked)
            self._wake.set()
        return asked.done

    def look(self) -> None:
        """Look again at who is there."""
        self._wake.set()

    async def ended(self) -> None:
        """Wait until it has done all that it was asked for; it has to be ending."""
        await asyncio.wait([self._working])

    async def close(self) -> None:
        """End all consumers, and give back what they hold."""
        for consumer in tuple(self._consumers):
            await self.leave(consumer)
        self.ending = True
        self._wake.set()
        await asyncio.shield(self._working)

    def _remove(self, consumer: Consumer) -> None:
        if consumer in self._consumers:
            self._consumers.remove(consumer)

    async def _work(self) -> None:
        delay_s = _FIRST_RETRY_S
        try:
            # A dead letter on its way is waited for: nobody else sees to it for a while.
            while not self.ending or self._asked or self._burials.busy:
                self._wake.clear()
                asked, self._asked = self._asked, []
                try:
                    wait_s = await self._take_turn(asked)
                    delay_s = _FIRST_RETRY_S
                except PlaneError as error:
                    for each in asked:
                        each.settle(error)
                    if error.code in (Code.FAILED_PRECONDITION, Code.DATA_LOSS):
                        self._end(error)
                        return
                    _log.warning("group %s waits for its engine: %s", self._group, error)
                    wait_s = delay_s
                    delay_s = min(2 * delay_s, _LAST_RETRY_S)
                if not self.ending or (self._burials.busy and not self._asked):
                    with suppress(TimeoutError):
                        async with asyncio.timeout(wait_s):
                            await self._wake.wait()
        finally:
            self.ending = True
            for each in self._asked:
                each.settle(closed_error())
            await self._reader.stop()
            self._watching.cancel()
            await asyncio.wait([self._watching])
            await self._burials.close()

    def _end(self, error: PlaneError | None = None) -> None:
        consumers, self._consumers = self._consumers, []
        self.ending = True
        for consumer in consumers:
            consumer.end(error)
        self._wake.set()

    async def _take_turn(self, asked: Sequence[Asked]) -> float | None:
        """Do what is to be done, and say in how many seconds to look again."""
        pause_s = 0.001
        while True:
            entry = self._entry or await self._parts.state.get(self._key)
            state = await self._state(entry)
            if state is None:
                for each in asked:
                    each.settle(no_group(self._group))
                return None
            gaps = tuple(self._reader.gaps)
            for gap in gaps:
                state.skip_to(gap.next.epoch, gap.next.sequence - 1)
            for each in asked:
                each.apply(state)
            for member in self._dead_members(state):
                state.release_all(member, _DIED)
            claimed, dead, more = self._claim(state)
            value = state.encode()
            if entry is None or value != entry.value:
                try:
                    revision = await self._parts.state.put(
                        self._key, value, expected=0 if entry is None else entry.revision
                    )
                except PlaneError as error:
                    self._entry = None
                    if error.code is not Code.ABORTED:
                        raise
                    # Others are at it as well; not all at the same time again.
                    await asyncio.sleep(random.uniform(0, pause_s))  # noqa: S311
                    pause_s = min(2 * pause_s, _MAX_PAUSE_S)
                    continue
                self._see(Entry(self._key, value, revision))
                if entry is None:
                    self._wake.set()  # It is there now, so its events can be read.
            for each in asked:
                each.settle()
            self._reader.prune(state)
            del self._reader.gaps[: len(gaps)]
            for consumer in self._consumers:
                consumer.reconcile(state, self._members.own)
                for gap in gaps:
                    consumer.offer(gap)
            self._hand_out(state, claimed)
            for consumer in self._consumers:
                consumer.look(more)
            self._burials.begin(state.generation, dead)
            return self._next_look(state)

    async def _state(self, entry: Entry | None) -> GroupState | None:
        if entry is not None:
            state = GroupState.decode(self._group, entry.value)
        elif self._consumers:
            start = self._consumers[0].settings.start
            state = await begun(self._parts, self.expressions, start)
        else:
            return None
        if self._consumers:
            if state.expressions != self.expressions:
                raise PlaneError(
                    Code.FAILED_PRECONDITION,
                    f"group {self._group} reads {', '.join(state.expressions)}, not "
                    f"{', '.join(self.expressions)}; name another group, or delete this one",
                )
            if state.generation != self._generation and entry is not None:
                self._generation = state.generation
                await self._reader.start(state)
        return state

    def _dead_members(self, state: GroupState) -> Sequence[str]:
        members = self._members
        if members.alive is None:
            return ()
        missing = {
            flight.member
            for flight in state.flights.values()
            if is_registered(flight.member)
            and flight.member != members.own
            and flight.member not in members.alive
        }
        now = time.monotonic()
        self._missing = {each: self._missing.get(each, now) for each in missing}
        return [
            each
            for each, since in self._missing.items()
            if each in members.left or now - since >= _MISSING_S
        ]

    def _claim(self, state: GroupState) -> tuple[list[tuple[Consumer, Event]], list[Dead], bool]:
        """Give events that may be delivered to consumers that have room, and find the dead.

        Returns:
            Who gets what; what is dead; whether something is left that nobody had room for.
        """
        claimed: list[tuple[Consumer, Event]] = []
        dead: list[Dead] = []
        undone = self._reader.undone(state)
        own, flights, now_ns = self._members.own, state.flights, time.time_ns()
        known: dict[int, Held] = {}
        rooms: dict[Consumer, int] = {}
        for consumer in self._consumers:
            # Of what was acknowledged in this turn, it still knows nothing.
            consumer_held = {
                sequence: held
                for sequence, held in consumer.held.items()
                if sequence in flights and flights[sequence].member == own
            }
            known |= consumer_held
            busy = sum(flights[sequence].due_ns > now_ns for sequence in consumer_held)
            rooms[consumer] = consumer.room(busy)
        able = [consumer for consumer, room in rooms.items() if room > 0]
        ordered = any(consumer.settings.ordered for consumer in self._consumers)
        blocked: set[str] = set()
        attending = [consumer for consumer in rooms if not consumer.ended]
        curious = any(consumer.curious for consumer in attending)
        more = False
        for event in undone:
            if not able and not curious:
                break
            if event.key in blocked:
                continue
            sequence = event.id.sequence
            if ordered:
                blocked.add(event.key)
            flight, held = flights.get(sequence), known.get(sequence)
            attempt = 1 if flight is None else flight.attempt + 1
            if flight is None:
                if len(flights) >= MAX_FLIGHTS:
                    continue
            elif flight.member == own and (held is None or not held.seen):
                # Claimed and never handed out: the answer of the store was lost, or it took long.
                if held is not None and flight.due_ns > now_ns:
                    continue
                attempt = flight.attempt
            elif flight.due_ns > now_ns:
                continue
            self._next += 1
            candidates = able or attending
            consumer = candidates[self._next % len(candidates)]
            settings = consumer.settings
            if flight is not None and attempt > settings.max_deliveries:
                flight.reason = _TIMED_OUT if flight.member else flight.reason or _TIMED_OUT
                flight.member, flight.due_ns = "", now_ns + int(BURIAL_S * 1e9)
                dead.append((event, flight))
                continue
            if not able:
                more = True
                break
            if flight is None or attempt != flight.attempt:
                state.delivered += 1
                state.redelivered += attempt > 1
            due_ns = now_ns + int(settings.visibility_s * 1e9)
            flights[sequence] = Flight(own, attempt, due_ns)
            claimed.append((consumer, event))
            rooms[consumer] -= 1
            if rooms[consumer] <= 0:
                able.remove(consumer)
        return claimed, dead, more

    def _hand_out(self, state: GroupState, claimed: Sequence[tuple[Consumer, Event]]) -> None:
        own = self._members.own
        lost: list[tuple[int, int]] = []
        for consumer, event in claimed:
            sequence = event.id.sequence
            flight = state.flights[sequence]
            for other in self._consumers:
                other.held.pop(sequence, None)
            if consumer.ended:
                lost.append((sequence, flight.attempt))
                continue
            consumer.held[sequence] = Held(flight.attempt, flight.due_ns)
            token = Token(self._group, event.id, flight.attempt, own)
            consumer.offer(Delivery(event, flight.attempt, str(token)))
        if lost:
            # Their consumer left while they were being claimed.
            def release(changed: GroupState) -> None:
                for sequence, attempt in lost:
                    changed.release(own, sequence, attempt, seen=False)

            self._asked.append(Asked(release, asyncio.get_running_loop().create_future()))
            self._wake.set()

    def _next_look(self, state: GroupState) -> float | None:
        now_ns = time.time_ns()
        due = [flight.due_ns for flight in state.flights.values() if flight.due_ns > now_ns]
        waits = [(min(due) - now_ns) / 1e9] if due else []
        if self._missing:
            waits.append(_MISSING_S)
        return min(waits, default=None)

    def _see(self, entry: Entry) -> None:
        if self._entry is None or entry.revision > self._entry.revision:
            self._entry = entry

    async def _watch(self) -> None:
        while True:
            try:
                async with aclosing(self._parts.state.watch(self._key)) as changes:
                    async for change in changes:
                        if isinstance(change, Deleted):
                            self._entry = None
                        elif isinstance(change, Snapshot):
                            self._entry = next(iter(change.entries), None)
                        else:
                            self._see(change)
                        self._wake.set()
            except PlaneError as error:
                _log.warning("group %s cannot be watched: %s", self._group, error)
            else:
                return
            await asyncio.sleep(_LAST_RETRY_S)


async def begun(
    parts: GroupParts, expressions: tuple[str, ...], start: EventId | Start
) -> GroupState:
    """The state of a group that begins.

    Raises:
        PlaneError: UNAVAILABLE where the engine is away.
    """
    if isinstance(start, EventId):
        return GroupState(expressions, start.epoch, start.sequence)
    newest = await parts.newest()
    return GroupState(expressions, newest.epoch, newest.sequence if start is Start.NOW else 0)


def is_registered(member: str) -> bool:
    """Whether discovery was told of a member."""
    return member.startswith("m")


def no_group(group: str) -> PlaneError:
    """The error of who names a group that is not there."""
    return PlaneError(Code.NOT_FOUND, f"there is no group {group}; its first consumer makes it")


def closed_error() -> PlaneError:
    """The error of who asks after the end."""
    return PlaneError(Code.UNAVAILABLE, "the consumer groups are closed")
