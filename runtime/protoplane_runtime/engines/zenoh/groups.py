"""Consumer groups of the engine ``zenoh:``: each node gives out the durable events it published.

What a group has done is kept by the nodes, each for its own events, on its disk beside its log. A
consumer asks all nodes that are there, and gets the events of one that went once it is back.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Self

import msgspec

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.group_state import Token
from protoplane_runtime.engines.group_worker import closed_error, no_group
from protoplane_runtime.engines.groups import (
    Delivery,
    GroupSettings,
    GroupStatus,
    check_group,
    check_seconds,
)
from protoplane_runtime.engines.interface import EventId, Gap, Start
from protoplane_runtime.engines.keys import matcher
from protoplane_runtime.engines.local.state import LocalState
from protoplane_runtime.engines.zenoh.api import Declared, Query
from protoplane_runtime.engines.zenoh.group_desk import GroupDesk, epoch_of
from protoplane_runtime.engines.zenoh.group_member import GroupMember
from protoplane_runtime.engines.zenoh.group_wire import (
    Acknowledge,
    Answer,
    Birth,
    Delete,
    Extend,
    GiveBack,
    Hint,
    Leave,
    Look,
    Places,
    Request,
    Reset,
    Statuses,
    decode_answer,
    decode_hint,
    decode_request,
    encode,
)
from protoplane_runtime.engines.zenoh.inbox import Inbox
from protoplane_runtime.engines.zenoh.log import ZenohLog
from protoplane_runtime.engines.zenoh.session import Session

_log = logging.getLogger("protoplane.groups")

_ASK_TIMEOUT_S = 5.0
_LOOK_TIMEOUT_S = 2.0
_GOING_S = 0.02
_RETRY_S = 0.5


class ZenohGroups:
    """`ConsumerGroups` among the nodes of a Zenoh network; get one from `open`.

    The durable events of all nodes are delivered, never ephemeral ones, under the ids that they
    have in the log of the node that published them. Of one key, the events of one node are in
    order; nothing orders those of different nodes. Events that a node published, and deliveries of
    them, are that node's to give out: while it is away they wait, and acknowledging one raises
    UNAVAILABLE; its groups are on its disk, so it goes on where they were. Where it was killed, who
    holds deliveries of it may acknowledge them once it is back.

    A group that begins now, or where an event of a log is that came to a node, begins there at
    every node, also at one that joins later; for ``now``, the nodes' clocks say what that is. One
    that is deleted or reset is so at the nodes that are there. `GroupStatus` adds up what these
    have; its position is that among the events of the node that is asked.

    Use it from the event loop on which it was opened.
    """

    def __init__(self, session: Session, log: ZenohLog, state: LocalState) -> None:
        self._session = session
        self._prefix = f"{session.prefix}/groups"
        self._log = log
        self._state = state
        self._desk = GroupDesk(log, state, self._tell)
        self._there: dict[int, str] = {epoch_of(log.origin): log.origin}
        self._members: dict[str, GroupMember] = {}
        self._inbox: Inbox[bytes | Query | tuple[str, bool]] = Inbox()
        self._tokens: list[Declared] = []
        self._held: list[Declared] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._receiving: asyncio.Task[None] | None = None
        self._closed = False

    @classmethod
    async def open(cls, session: Session, log: ZenohLog) -> Self:
        """Open the groups of a node.

        Args:
            session: The session; held until the groups are closed.
            log: The node's log, which is closed after them.

        Raises:
            PlaneError: What is wrong with the node's folder.
        """
        state = await LocalState.open(log.folder)
        self = cls(session, log, state)
        session.hold()
        try:
            await self._begin()
        except BaseException:
            await self.close()
            raise
        return self

    def consume(
        self, group: str, expressions: Sequence[str], settings: GroupSettings | None = None
    ) -> AsyncGenerator[Sequence[Delivery | Gap], None]:
        """Take part in a group; see `ConsumerGroups.consume`.

        Raises:
            PlaneError: INVALID_ARGUMENT for a bad name or key expression; in the first step as
                `reset` for an event that no log of a node has that is there.
        """
        check_group(group)
        return self._consume(group, matcher(expressions).expressions, settings or GroupSettings())

    async def acknowledge(self, tokens: Sequence[str]) -> None:
        """Say that deliveries are done; see `ConsumerGroups.acknowledge`.

        Raises:
            PlaneError: As there; UNAVAILABLE where the node is away that published the event.
        """
        await self._settle(Acknowledge(tuple(tokens)))

    async def negative_acknowledge(
        self, tokens: Sequence[str], *, delay_s: float = 0.0, reason: str = ""
    ) -> None:
        """Give deliveries back; see `ConsumerGroups.negative_acknowledge`."""
        check_seconds("delay_s", delay_s)
        await self._settle(GiveBack(tuple(tokens), delay_s, reason))

    async def extend(self, tokens: Sequence[str], visibility_s: float) -> None:
        """Keep deliveries; see `ConsumerGroups.extend`."""
        check_seconds("visibility_s", visibility_s, least=0.001)
        await self._settle(Extend(tuple(tokens), visibility_s))

    async def list(self) -> Sequence[GroupStatus]:
        """All groups of the nodes that are there; see `ConsumerGroups.list`."""
        found: dict[str, GroupStatus] = {}
        for origin, answer in (await self._ask_all(Statuses())).items():
            for each in answer.statuses:
                own = origin == self._log.origin
                position = each.position if own else EventId(self._log.last.epoch, 0)
                status = replace(each, position=position)
                before = found.get(each.name)
                found[each.name] = status if before is None else _sum(before, status)
        return [found[name] for name in sorted(found)]

    async def delete(self, group: str) -> bool:
        """Forget a group at all nodes that are there; see `ConsumerGroups.delete`."""
        check_group(group)
        answers = await self._ask_all(Delete(group))
        return any(answer.done for answer in answers.values())

    async def reset(self, group: str, start: EventId | Start) -> None:
        """Let a group go on from another place, at all nodes that are there.

        Args:
            group: Its name.
            start: Where; after an event of a node, it is after all that had come to that node by
                then.

        Raises:
            PlaneError: As `ConsumerGroups.reset`; FAILED_PRECONDITION where no node has the event's
                log that is there.
        """
        check_group(group)
        request = Reset(group, await self._birth((), start))
        answers = await self._ask_all(request, missing=Code.NOT_FOUND)
        if not answers:
            raise no_group(group)

    async def close(self) -> None:
        """Give back what consumers hold here and end them; twice does nothing more."""
        if self._closed:
            return
        self._closed = True
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._session.release)
            stack.push_async_callback(self._state.close)
            stack.push_async_callback(self._stop)
            stack.push_async_callback(self._desk.close)
            await asyncio.gather(*(member.leave() for member in tuple(self._members.values())))
            await self._session.withdraw(*self._tokens)

    async def _begin(self) -> None:
        session, prefix, origin = self._session, self._prefix, self._log.origin
        self._held.append(await session.subscribe(f"{prefix}/hint/{origin}", self._inbox.put))
        self._held.append(await session.queries(f"{prefix}/at/{origin}", self._inbox.put))
        self._held.append(
            await session.follow(f"{prefix}/node/*", lambda key, is_: self._inbox.put((key, is_)))
        )
        await session.settled()
        for key in await session.tokens(f"{prefix}/node/*", timeout_s=_LOOK_TIMEOUT_S):
            self._comes(key.rpartition("/")[2])
        self._receiving = asyncio.create_task(self._receive(), name="consumer groups")
        await session.token(f"{prefix}/node/{origin}", self._tokens)
        await session.settled()

    async def _stop(self) -> None:
        self._inbox.close()
        await self._session.withdraw(*self._held)
        tasks = [*self._tasks, *([] if self._receiving is None else [self._receiving])]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _consume(
        self, group: str, expressions: tuple[str, ...], settings: GroupSettings
    ) -> AsyncGenerator[Sequence[Delivery | Gap], None]:
        birth = await self._until_born(group, expressions, settings.start)
        if birth is None or self._closed:
            return
        member = GroupMember(
            self._ask,
            self._log.origin,
            group,
            birth=birth,
            settings=settings,
            there=self._there.values(),
        )
        self._members[member.id] = member
        try:
            while (batch := await member.next()) is not None:
                yield batch
        finally:
            try:
                await member.leave()
            finally:
                del self._members[member.id]

    async def _until_born(
        self, group: str, expressions: tuple[str, ...], start: EventId | Start
    ) -> Birth | None:
        while not self._closed:
            try:
                return await self._born(group, expressions, start)
            except PlaneError as error:
                if error.code is not Code.UNAVAILABLE:
                    raise
                _log.warning("group %s waits for its engine: %s", group, error)
            await asyncio.sleep(_RETRY_S)
        return None

    async def _born(
        self, group: str, expressions: tuple[str, ...], start: EventId | Start
    ) -> Birth:
        """How a group began, or begins now."""
        answers = (await self._ask_all(Look(group))).values()
        births = [answer.birth for answer in answers if answer.birth is not None]
        if not births:
            return await self._birth(expressions, start)
        # An older one with other expressions was deleted while its node was away.
        newest = max(births, key=lambda birth: birth.born_ns)
        if newest.expressions != expressions:
            raise PlaneError(
                Code.FAILED_PRECONDITION,
                f"group {group} reads {', '.join(newest.expressions)}, not "
                f"{', '.join(expressions)}; name another group, or delete this one",
            )
        same = (birth for birth in births if birth.expressions == expressions)
        return min(same, key=lambda birth: birth.born_ns)

    async def _birth(self, expressions: tuple[str, ...], start: EventId | Start) -> Birth:
        now_ns = time.time_ns()
        if not isinstance(start, EventId):
            return Birth(expressions, now_ns, start is Start.EARLIEST)
        origin = self._there.get(start.epoch)
        if origin is None:
            raise PlaneError(
                Code.FAILED_PRECONDITION,
                f"no node that is there has the log of event {start}; begin at another event, at "
                "the earliest, or now",
            )
        found = (await self._ask(origin, Places(start.sequence))).places or {}
        return Birth(expressions, now_ns, places={**found, start.epoch: start.sequence})

    async def _settle(self, request: Acknowledge | GiveBack | Extend) -> None:
        by_epoch: dict[int, list[str]] = {}
        for text in request.tokens:
            by_epoch.setdefault(Token.parse(text).id.epoch, []).append(text)
        results = await asyncio.gather(
            *(
                self._ask_log(epoch, msgspec.structs.replace(request, tokens=tuple(texts)))
                for epoch, texts in by_epoch.items()
            ),
            return_exceptions=True,
        )
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def _ask_log(self, epoch: int, request: Request) -> Answer:
        origin = self._there.get(epoch)
        if origin is None:
            raise PlaneError(
                Code.UNAVAILABLE,
                "the node that published the event is away; it is delivered again once that is "
                "back and the visibility time has passed",
            )
        return await self._ask(origin, request)

    async def _ask_all(self, request: Request, *, missing: Code | None = None) -> dict[str, Answer]:
        """Ask all nodes that are there; who answers with ``missing`` is left out."""
        origins = tuple(self._there.values())
        results = await asyncio.gather(
            *(self._ask_while_there(origin, request) for origin in origins),
            return_exceptions=True,
        )
        answers: dict[str, Answer] = {}
        for origin, result in zip(origins, results, strict=True):
            if isinstance(result, Answer):
                answers[origin] = result
            elif isinstance(result, PlaneError) and result.code is missing:
                continue
            elif result is not None:
                raise result
        return answers

    async def _ask_while_there(self, origin: str, request: Request) -> Answer | None:
        """What a node answers; ``None`` where it goes."""
        until_s = time.monotonic() + _ASK_TIMEOUT_S
        while True:
            try:
                return await self._ask(origin, request)
            except PlaneError as error:
                if error.code is not Code.UNAVAILABLE or time.monotonic() > until_s:
                    raise
            # One that was killed does not answer, and a moment later it is known to be gone.
            await asyncio.sleep(_GOING_S)
            if epoch_of(origin) not in self._there:
                return None

    async def _ask(self, origin: str, request: Request) -> Answer:
        if origin == self._log.origin:
            return (await self._desk.do(request)).ok()
        if self._closed and not isinstance(request, Leave):
            raise closed_error()
        answers = await self._session.ask(
            f"{self._prefix}/at/{origin}", encode(request), timeout_s=_ASK_TIMEOUT_S
        )
        if not answers:
            raise PlaneError(
                Code.UNAVAILABLE, f"node {origin} of the network did not answer; try again"
            )
        try:
            answer = decode_answer(answers[0][1])
        except ValueError as error:
            raise PlaneError(
                Code.UNAVAILABLE, f"node {origin} was not understood: {error}"
            ) from None
        return answer.ok()

    async def _receive(self) -> None:
        while batch := await self._inbox.take():
            for item in batch:
                if isinstance(item, bytes):
                    self._hear(item)
                elif isinstance(item, tuple):
                    origin = item[0].rpartition("/")[2]
                    if item[1]:
                        self._comes(origin)
                    else:
                        await self._goes(origin)
                else:
                    self._start(self._serve(item))

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, query: Query) -> None:
        payload = query.payload
        try:
            request = decode_request(payload.to_bytes() if payload is not None else b"")
            answer = await self._desk.do(request)
        except ValueError as error:
            answer = Answer.failed(PlaneError(Code.INVALID_ARGUMENT, str(error)))
        self._session.reply(query, encode(answer))

    def _comes(self, origin: str) -> None:
        epoch = epoch_of(origin)
        if origin != self._log.origin and epoch not in self._there:
            self._there[epoch] = origin
            for member in self._members.values():
                member.comes(origin)

    async def _goes(self, origin: str) -> None:
        if origin == self._log.origin:
            return
        self._there.pop(epoch_of(origin), None)
        for member in self._members.values():
            member.goes(origin)
        await self._desk.drop(origin)

    def _tell(self, member: str, hint: Hint) -> None:
        if member == self._log.origin:
            self._bring(hint)
        else:
            self._session.send(f"{self._prefix}/hint/{member}", encode(hint))

    def _hear(self, message: bytes) -> None:
        try:
            self._bring(decode_hint(message))
        except ValueError as error:
            _log.warning("zenoh: a hint of a consumer group was left out: %s", error)

    def _bring(self, hint: Hint) -> None:
        member = self._members.get(hint.consumer)
        if member is not None:
            member.hear(hint)
        elif hint.origin in self._there.values() and not self._closed:
            # It left, and could not say so.
            self._start(self._leave_late(hint))

    async def _leave_late(self, hint: Hint) -> None:
        try:
            await self._ask(hint.origin, Leave(self._log.origin, hint.consumer, 0))
        except PlaneError as error:
            _log.info("zenoh: a consumer could not leave yet: %s", error)


def _sum(one: GroupStatus, other: GroupStatus) -> GroupStatus:
    return replace(
        one,
        position=max(one.position, other.position),
        pending=one.pending + other.pending,
        waiting=one.waiting + other.waiting,
        delivered=one.delivered + other.delivered,
        acknowledged=one.acknowledged + other.acknowledged,
        redelivered=one.redelivered + other.redelivered,
        dead_lettered=one.dead_lettered + other.dead_lettered,
        lag=None if one.lag is None or other.lag is None else one.lag + other.lag,
    )
