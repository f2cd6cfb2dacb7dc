"""Consumer groups of any engine: they stand on its event log, its state store and its discovery.

What a group has done is one entry of the state store, under ``protoplane/groups/<name>``. A process
that consumes tells discovery of itself, in a namespace of its own, so that others see it die.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, aclosing
from secrets import token_hex

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.discovery import Discovery, Instance, Left
from protoplane_runtime.engines.group_consumer import Consumer
from protoplane_runtime.engines.group_state import GroupState, Token
from protoplane_runtime.engines.group_worker import (
    Asked,
    Change,
    GroupParts,
    GroupWorker,
    Members,
    begun,
    closed_error,
    no_group,
)
from protoplane_runtime.engines.groups import (
    Delivery,
    GroupSettings,
    GroupStatus,
    check_group,
    check_seconds,
)
from protoplane_runtime.engines.interface import EventId, EventLog, Gap, Start
from protoplane_runtime.engines.keys import matcher
from protoplane_runtime.engines.state import StateStore

_log = logging.getLogger("protoplane.groups")

PREFIX = "protoplane/groups"
"""Under this the state store has the groups."""

NAMESPACE = "protoplane.groups"
"""Discovery's namespace of the processes that consume."""

_MEMBERS = "consumer-group-members"
_ATTEMPTS = 100
_FIRST_RETRY_S = 0.1
_RETRY_S = 2.0


class LogGroups:
    """`ConsumerGroups` over the other parts of an engine, which it does not close.

    Use it from one event loop. It holds a task for each group that is consumed, and what that reads
    ahead; nothing as long as nobody consumes.

    Args:
        log: The engine's event log.
        state: Its state store.
        discovery: Where members see each other; without it, only the visibility time tells that one
            died.
        newest: Finds the id of the newest event, where ``log.last`` may lag behind.
        durable: Tells by its id whether an event is delivered at all; by default all are. For
            engines whose ephemeral events have other ids in each process.
    """

    def __init__(
        self,
        log: EventLog,
        state: StateStore,
        discovery: Discovery | None = None,
        *,
        newest: Callable[[], Awaitable[EventId]] | None = None,
        durable: Callable[[EventId], bool] | None = None,
    ) -> None:
        async def last() -> EventId:
            return log.last

        self._parts = GroupParts(log, state, newest or last, durable or (lambda _: True))
        self._discovery = discovery
        self._workers: dict[str, GroupWorker] = {}
        self._members = Members()
        self._joining: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._registration = AsyncExitStack()
        self._closed = False

    def consume(
        self, group: str, expressions: Sequence[str], settings: GroupSettings | None = None
    ) -> AsyncGenerator[Sequence[Delivery | Gap], None]:
        """Take part in a group; see `ConsumerGroups.consume`.

        Raises:
            PlaneError: INVALID_ARGUMENT for a bad name or key expression.
        """
        check_group(group)
        return self._consume(group, matcher(expressions).expressions, settings or GroupSettings())

    async def acknowledge(self, tokens: Sequence[str]) -> None:
        """Say that deliveries are done; see `ConsumerGroups.acknowledge`."""
        await self._for_tokens(tokens, lambda state, token: state.acknowledge(token))

    async def negative_acknowledge(
        self, tokens: Sequence[str], *, delay_s: float = 0.0, reason: str = ""
    ) -> None:
        """Give deliveries back; see `ConsumerGroups.negative_acknowledge`."""
        check_seconds("delay_s", delay_s)
        due_ns = _in(delay_s) if delay_s else 0
        why = " ".join(reason.split()) or "its consumer gave it back"
        await self._for_tokens(tokens, lambda state, token: state.give_back(token, due_ns, why))

    async def extend(self, tokens: Sequence[str], visibility_s: float) -> None:
        """Keep deliveries; see `ConsumerGroups.extend`."""
        check_seconds("visibility_s", visibility_s, least=0.001)
        due_ns = _in(visibility_s)
        await self._for_tokens(tokens, lambda state, token: state.extend(token, due_ns))

    async def list(self) -> Sequence[GroupStatus]:
        """All groups; see `ConsumerGroups.list`."""
        found: list[GroupStatus] = []
        for entry in await self._parts.state.list(f"{PREFIX}/*"):
            name = entry.key.rpartition("/")[2]
            found.append(await self._status(name, GroupState.decode(name, entry.value)))
        return found

    async def delete(self, group: str) -> bool:
        """Forget a group; see `ConsumerGroups.delete`."""
        check_group(group)
        return await self._parts.state.delete(_key(group))

    async def reset(self, group: str, start: EventId | Start) -> None:
        """Let a group go on from another place; see `ConsumerGroups.reset`."""
        check_group(group)
        for _ in range(_ATTEMPTS):
            entry = await self._parts.state.get(_key(group))
            if entry is None:
                raise no_group(group)
            old = GroupState.decode(group, entry.value)
            state = await begun(self._parts, old.expressions, start)
            state.delivered, state.acknowledged = old.delivered, old.acknowledged
            state.redelivered, state.dead_lettered = old.redelivered, old.dead_lettered
            if await self._put(group, state, entry.revision):
                return
        raise _contended(group)

    async def close(self) -> None:
        """Give back what consumers hold and end them; twice does nothing more."""
        if self._closed:
            return
        self._closed = True
        if self._joining is not None:
            self._joining.cancel()
            await asyncio.wait([self._joining])
        await asyncio.gather(*(worker.close() for worker in self._workers.values()))
        self._workers.clear()
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait([self._watching])
        await self._registration.aclose()

    async def _consume(
        self, group: str, expressions: tuple[str, ...], settings: GroupSettings
    ) -> AsyncGenerator[Sequence[Delivery | Gap], None]:
        consumer = Consumer(settings)
        if not await self.join(group, expressions, consumer):
            return
        try:
            while (batch := await consumer.next()) is not None:
                yield batch
        finally:
            await self.leave(group, consumer)

    async def join(self, group: str, expressions: tuple[str, ...], consumer: Consumer) -> bool:
        """Let a consumer take part in a group until it leaves.

        Args:
            group: Name of the group.
            expressions: Its key expressions, canonical and in order.
            consumer: The consumer.

        Returns:
            Whether it does; not where the groups are closed.

        Raises:
            PlaneError: FAILED_PRECONDITION; the group reads other key expressions.
        """
        await self._join()
        while (worker := self._workers.get(group)) is not None and worker.ending:
            # What its last consumer gives back is not to be taken for lost.
            await worker.ended()
            if self._workers.get(group) is worker:
                del self._workers[group]
        if self._closed:
            return False
        if worker is None:
            worker = self._workers[group] = GroupWorker(
                self._parts, group, _key(group), expressions, self._members
            )
        elif worker.expressions != expressions:
            raise PlaneError(
                Code.FAILED_PRECONDITION,
                f"group {group} reads {', '.join(worker.expressions)}, not "
                f"{', '.join(expressions)}; name another group",
            )
        worker.join(consumer)
        return True

    async def leave(self, group: str, consumer: Consumer) -> None:
        """Give back what a consumer holds, and give it nothing more.

        Cancelling it leaves that to be done by itself.
        """
        worker = self._workers.get(group)
        if worker is None:
            return
        await worker.leave(consumer)
        if worker.ending and self._workers.get(group) is worker:
            del self._workers[group]

    async def turn(self, group: str, begins: Callable[[], None]) -> None:
        """Have the events of a group given out that consumers of this process have room for.

        Args:
            group: Name of the group.
            begins: Called in the turn, before it looks who has room.

        Raises:
            PlaneError: NOT_FOUND where nobody consumes it here, UNAVAILABLE where the engine is
                away.
        """
        worker = self._workers.get(group)
        if worker is None:
            raise no_group(group)
        await asyncio.shield(worker.ask(lambda _: begins()))

    async def _join(self) -> None:
        """Have a name among the members, and see who else is there."""
        if self._joining is None:
            self._joining = asyncio.create_task(self._tell_discovery())
        # Others wait for it as well, and `close` may end it.
        await asyncio.wait([self._joining])
        if not self._joining.cancelled():
            self._joining.result()

    async def _tell_discovery(self) -> None:
        self._members.own = f"u{token_hex(4)}"
        if self._discovery is None:
            return
        name = f"m{token_hex(4)}"
        instance = Instance(f"{_MEMBERS}/{name}", namespace=NAMESPACE)
        if await self._register(self._discovery, instance):
            self._members.own = name
        self._watching = asyncio.create_task(self._watch(self._discovery))

    async def _register(self, discovery: Discovery, instance: Instance) -> bool:
        """Whether discovery was told of this process; waits for an engine that is away."""
        delay_s = _FIRST_RETRY_S
        while True:
            try:
                await self._registration.enter_async_context(discovery.register(instance))
            except PlaneError as error:
                if error.code is not Code.UNAVAILABLE:
                    _log.warning("others will not see at once when this process ends: %s", error)
                    return False
                _log.warning("consumer groups wait for their engine: %s", error)
            else:
                return True
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, _RETRY_S)

    async def _watch(self, discovery: Discovery) -> None:
        members = self._members
        while True:
            try:
                async with aclosing(discovery.watch(_MEMBERS, namespace=NAMESPACE)) as batches:
                    async for changes in batches:
                        alive = members.alive = members.alive or set()
                        for change in changes:
                            name = change.instance.name.rpartition("/")[2]
                            if isinstance(change, Left):
                                alive.discard(name)
                                members.left.add(name)
                            else:
                                alive.add(name)
                                members.left.discard(name)
                        for worker in self._workers.values():
                            worker.look()
            except PlaneError as error:
                _log.warning("members of consumer groups cannot be watched: %s", error)
            members.alive = None
            await asyncio.sleep(_RETRY_S)

    async def _for_tokens(
        self, tokens: Sequence[str], act: Callable[[GroupState, Token], object]
    ) -> None:
        by_group: dict[str, list[Token]] = {}
        for text in tokens:
            token = Token.parse(text)
            by_group.setdefault(token.group, []).append(token)
        if self._closed:
            raise closed_error()

        def change_of(these: Sequence[Token]) -> Change:
            def change(state: GroupState) -> None:
                first: PlaneError | None = None
                for token in these:
                    try:
                        act(state, token)
                    except PlaneError as error:
                        first = first or error
                if first is not None:
                    raise first

            return change

        results = await asyncio.gather(
            *(self._change(group, change_of(these)) for group, these in by_group.items()),
            return_exceptions=True,
        )
        for result in results:
            if result is not None:
                raise result

    async def _change(self, group: str, change: Change) -> None:
        """Change a group's state: with its worker where there is one, else at once."""
        worker = self._workers.get(group)
        if worker is not None and not worker.ending:
            await asyncio.shield(worker.ask(change))
            return
        for _ in range(_ATTEMPTS):
            entry = await self._parts.state.get(_key(group))
            if entry is None:
                raise no_group(group)
            state = GroupState.decode(group, entry.value)
            asked = Asked(change, asyncio.get_running_loop().create_future())
            asked.apply(state)
            if await self._put(group, state, entry.revision):
                asked.settle()
                await asked.done
                return
        raise _contended(group)

    async def _put(self, group: str, state: GroupState, expected: int) -> bool:
        try:
            await self._parts.state.put(_key(group), state.encode(), expected=expected)
        except PlaneError as error:
            if error.code is not Code.ABORTED:
                raise
            return False
        return True

    async def _status(self, name: str, state: GroupState) -> GroupStatus:
        position = EventId(state.epoch, state.position)
        lag: int | None = None
        try:
            lag = (await self._parts.log.stats(state.expressions, after=position)).events
        except PlaneError as error:
            if error.code is not Code.UNIMPLEMENTED:
                raise
        now_ns = time.time_ns()
        pending = sum(
            bool(flight.member) and flight.due_ns > now_ns for flight in state.flights.values()
        )
        return GroupStatus(
            name,
            state.expressions,
            position,
            pending,
            len(state.flights) - pending,
            state.delivered,
            state.acknowledged,
            state.redelivered,
            state.dead_lettered,
            lag,
        )


def _key(group: str) -> str:
    return f"{PREFIX}/{group}"


def _in(seconds: float) -> int:
    return time.time_ns() + int(seconds * 1e9)


def _contended(group: str) -> PlaneError:
    return PlaneError(
        Code.UNAVAILABLE, f"others change group {group} all the time; try again later"
    )
