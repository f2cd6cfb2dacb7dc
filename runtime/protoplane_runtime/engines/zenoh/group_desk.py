"""What a node does for the consumer groups of its own events, whoever the members are.

The groups are those of any log: what they have done is in the node's own state store, which is on
its disk. A consumer at another node has one here that stands for it, and is given events as it asks
for them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import msgspec

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.group_consumer import Consumer
from protoplane_runtime.engines.group_state import Token
from protoplane_runtime.engines.group_worker import closed_error
from protoplane_runtime.engines.groups import Delivery, GroupSettings, check_group
from protoplane_runtime.engines.interface import EventId, Gap, Start
from protoplane_runtime.engines.log_groups import LogGroups
from protoplane_runtime.engines.state import StateStore
from protoplane_runtime.engines.zenoh.group_wire import (
    Acknowledge,
    Answer,
    Birth,
    Claim,
    Claimed,
    Delete,
    Extend,
    GiveBack,
    Hint,
    Join,
    Leave,
    Look,
    Places,
    Request,
    Reset,
    Statuses,
)
from protoplane_runtime.engines.zenoh.log import ZenohLog

_BIRTHS = "protoplane/group-births"
"""Under this the state store has how groups began."""

Place = tuple[str, str]
"""A member and which one of its consumers."""


class Deputy(Consumer):
    """Stands for a consumer that is elsewhere, and takes no more than that asks for.

    Args:
        settings: How it takes part.
        changed: Called where what `claimed` says has changed by itself.

    Attributes:
        most: How many deliveries it may hold by the end of this turn.
        claiming: Whether what it is given is about to be asked for.
    """

    curious = True

    def __init__(self, settings: GroupSettings, changed: Callable[[], None]) -> None:
        super().__init__(settings)
        self.most = 0
        self.claiming = False
        self._changed_by_itself = changed
        self._more = False
        self._told = (0, False)
        self._stamp = 0

    def room(self, busy: int) -> int:
        """How many more deliveries it takes in this turn."""
        return min(super().room(busy), self.most - busy)

    def look(self, more: bool) -> None:
        """Take note that a turn has ended."""
        self._more = more
        self.most = 0
        if not self.claiming and self._state() != self._told:
            self._changed_by_itself()

    def end(self, error: PlaneError | None = None) -> None:
        """Let it end."""
        ended, self.ended = self.ended, True
        super().end(error)
        if not ended:
            self._changed_by_itself()

    def claimed(self, *, take: bool) -> Claimed:
        """What there is for it.

        Raises:
            PlaneError: The group cannot be consumed.
        """
        items = self.take() if take else ()
        self._stamp += 1
        held, more = self._told = self._state()
        return Claimed(
            self._stamp,
            held,
            more,
            tuple(item for item in items if isinstance(item, Delivery)),
            tuple(item for item in items if isinstance(item, Gap)),
        )

    def _state(self) -> tuple[int, bool]:
        now_ns = time.time_ns()
        held = sum(each.due_ns > now_ns for each in self.held.values())
        return held, self._more or self.waits or self.ended


@dataclass(slots=True)
class _Seat:
    """A consumer's place at this desk."""

    group: str
    birth: Birth
    deputy: Deputy
    number: int = 0
    answer: Answer = field(default_factory=Answer)
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


class GroupDesk:
    """Answers what members ask about the groups of a node's own events.

    Args:
        log: The node's log.
        state: Where its groups keep what they have done; not closed here.
        tell: Brings a hint to a member.
    """

    def __init__(self, log: ZenohLog, state: StateStore, tell: Callable[[str, Hint], None]) -> None:
        self._log = log
        self._state = state
        self._tell = tell
        self._groups = LogGroups(log.own, state)
        self._seats: dict[Place, _Seat] = {}
        self._closed = False

    async def do(self, request: Request) -> Answer:
        """Do what is asked; what goes wrong is in the answer. Cancelling may leave it done."""
        try:
            return await self._do(request)
        except PlaneError as error:
            return Answer.failed(error)

    async def drop(self, member: str) -> None:
        """Give back what the consumers of a member hold that is gone."""
        places = [place for place in self._seats if place[0] == member]
        await asyncio.gather(*(self._leave(place) for place in places))

    async def close(self) -> None:
        """Give back what all consumers hold."""
        self._closed = True
        await self._groups.close()
        self._seats.clear()

    async def _do(self, request: Request) -> Answer:
        if self._closed:
            raise closed_error()
        match request:
            case Claim():
                return await self._claim(request)
            case Acknowledge(tokens):
                await self._groups.acknowledge(tokens)
            case GiveBack(tokens, delay_s, reason):
                await self._groups.negative_acknowledge(tokens, delay_s=delay_s, reason=reason)
            case Extend(tokens, visibility_s):
                await self._groups.extend(tokens, visibility_s)
            case Look(group):
                return Answer(birth=await self._birth(group))
            case Join():
                await self._join(request)
            case Leave(member, consumer):
                return Answer(done=await self._leave((member, consumer), request))
            case Statuses():
                return Answer(statuses=tuple(await self._groups.list()))
            case Delete(group):
                found = await self._groups.delete(group)
                return Answer(done=await self._state.delete(f"{_BIRTHS}/{group}") or found)
            case Reset(group, birth):
                await self._groups.reset(group, await self._start(birth))
            case Places(sequence):
                run = self._log.journal.places
                places = await asyncio.to_thread(run, sequence)
                return Answer(places={epoch_of(each): at for each, at in places.items()})
        return Answer(done=True)

    async def _birth(self, group: str) -> Birth | None:
        check_group(group)
        entry = await self._state.get(f"{_BIRTHS}/{group}")
        if entry is None:
            return None
        try:
            return msgspec.json.decode(entry.value, type=Birth)
        except msgspec.DecodeError:
            raise PlaneError(
                Code.DATA_LOSS,
                f"what is stored of group {group} is damaged; forget it by: protoplane events "
                f"group delete {group}",
            ) from None

    async def _join(self, request: Join) -> None:
        group, birth = request.group, request.birth
        known = await self._birth(group)
        if known is None or (
            # It was deleted and made anew while this node was away.
            known.expressions != birth.expressions and known.born_ns < birth.born_ns
        ):
            if known is not None:
                await self._groups.delete(group)
            await self._state.put(f"{_BIRTHS}/{group}", msgspec.json.encode(birth))
        settings = GroupSettings(
            request.visibility_s,
            request.max_deliveries,
            await self._start(birth),
            request.max_in_flight,
            request.ordered,
        )
        place = request.member, request.consumer
        await self._leave(place)
        deputy = Deputy(settings, lambda: self._changed(place))
        seat = self._seats[place] = _Seat(group, birth, deputy)
        try:
            if not await self._groups.join(group, birth.expressions, deputy):
                deputy.end()
        except BaseException:
            if self._seats.get(place) is seat:
                del self._seats[place]
            raise

    async def _start(self, birth: Birth) -> EventId | Start:
        if birth.earliest:
            return Start.EARLIEST
        epoch = self._log.last.epoch
        if birth.places is not None:
            return EventId(epoch, birth.places.get(epoch, 0))
        place = await asyncio.to_thread(self._log.journal.last_before, birth.born_ns)
        return EventId(epoch, place)

    async def _claim(self, request: Claim) -> Answer:
        place = request.member, request.consumer
        seat = self._seats.get(place)
        if seat is None:
            return Answer(unknown=True)
        async with seat.turn:
            if request.number == seat.number:
                return seat.answer
            deputy = seat.deputy

            def begins() -> None:
                deputy.most = request.most

            deputy.claiming = True
            try:
                if not deputy.ended:
                    await self._groups.turn(seat.group, begins)
            finally:
                deputy.claiming = False
            claimed = deputy.claimed(take=True)
            if seat.birth.places is None and not seat.birth.earliest:
                # It is there; should it be deleted, it begins anew with what comes then.
                deputy.settings = replace(deputy.settings, start=Start.NOW)
            if deputy.ended:
                if self._seats.get(place) is seat:
                    del self._seats[place]
                return Answer(unknown=True)
            seat.number, seat.answer = request.number, Answer(claimed=claimed)
            return seat.answer

    async def _leave(self, place: Place, request: Leave | None = None) -> bool:
        seat = self._seats.pop(place, None)
        if seat is None:
            return False
        if request is not None:
            unseen = list(request.unseen)
            if seat.number > request.number and seat.answer.claimed is not None:
                unseen += [each.token for each in seat.answer.claimed.deliveries]
            for text in unseen:
                token = Token.parse(text)
                held = seat.deputy.held.get(token.id.sequence)
                if held is not None and held.attempt == token.attempt:
                    held.seen = False
        await self._groups.leave(seat.group, seat.deputy)
        return True

    def _changed(self, place: Place) -> None:
        seat = self._seats.get(place)
        if seat is not None:
            said = seat.deputy.claimed(take=False)
            hint = Hint(self._log.origin, place[1], said.stamp, said.held, said.more)
            self._tell(place[0], hint)


def epoch_of(origin: str) -> int:
    """The epoch of a log; it is part of the ids of its events."""
    return int(origin.rpartition("-")[2])
