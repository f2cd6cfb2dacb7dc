"""One consumer of a group, at its own node: it asks all nodes for their events.

Each node tells how many of its events the consumer holds and whether there are more, so that it
never holds more than it may of all together.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from secrets import token_hex

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.groups import Delivery, GroupSettings
from protoplane_runtime.engines.interface import Gap
from protoplane_runtime.engines.zenoh.group_wire import (
    Answer,
    Birth,
    Claim,
    Claimed,
    Hint,
    Join,
    Leave,
    Request,
)

_RETRY_S = 0.5
_LOOK_INTERVAL_S = 5.0

Ask = Callable[[str, Request], Awaitable[Answer]]
"""Asks the node of a log; raises UNAVAILABLE where that is gone, or what it answers."""


@dataclass(slots=True)
class _Source:
    """A node, as this consumer knows it.

    Attributes:
        joined: Whether it knows of the consumer.
        number: Number of the newest claim that it answered.
        stamp: That of what it said last.
        held: How many of its events are with the consumer.
        more: Whether there may be more.
        pause_until: When to ask it again, on the event loop's clock.
    """

    joined: bool = False
    number: int = 0
    stamp: int = 0
    held: int = 0
    more: bool = True
    pause_until: float = 0.0


class GroupMember:
    """A consumer that takes its events from many nodes.

    Args:
        ask: Asks a node.
        origin: Log of its own node.
        group: Name of the group.
        birth: How the group began.
        settings: How to take part.
        there: Logs of the nodes that are there.

    Attributes:
        id: Which one of its node's consumers it is.
    """

    def __init__(
        self,
        ask: Ask,
        origin: str,
        group: str,
        *,
        birth: Birth,
        settings: GroupSettings,
        there: Iterable[str],
    ) -> None:
        self.id = token_hex(6)
        self._ask = ask
        self._origin = origin
        self._group = group
        self._birth = birth
        self._settings = settings
        self._sources: dict[str, _Source] = {each: _Source() for each in there}
        self._ready: deque[tuple[int, Delivery | Gap]] = deque()
        self._changed = asyncio.Event()
        self._round: asyncio.Task[None] | None = None
        self._ended = False

    def comes(self, origin: str) -> None:
        """Take a node's events from now on."""
        self._sources[origin] = _Source()
        self._changed.set()

    def goes(self, origin: str) -> None:
        """Wait for a node until it comes again."""
        self._sources.pop(origin, None)
        self._changed.set()

    def hear(self, hint: Hint) -> None:
        """Take note of what a node told."""
        source = self._sources.get(hint.origin)
        if source is not None and source.joined and hint.stamp > source.stamp:
            source.stamp, source.held, source.more = hint.stamp, hint.held, hint.more
            self._changed.set()

    def end(self) -> None:
        """Let it end."""
        self._ended = True
        self._changed.set()

    async def next(self) -> Sequence[Delivery | Gap] | None:
        """All that is ready; ``None`` at the end. Cancelling it takes nothing.

        Raises:
            PlaneError: The group cannot be consumed.
        """
        while not self._ended:
            if batch := self._take():
                return batch
            if self._round is None:
                self._changed.clear()
                self._round = asyncio.create_task(self._go_round())
            # A cancelled one goes on: what it is given then is here for the next.
            await asyncio.wait([self._round])
            done, self._round = self._round, None
            done.result()
            if not self._ready:
                await self._wait()
        return None

    async def leave(self) -> None:
        """Give back what it holds; cancelling it leaves that to be done by itself."""
        self.end()
        await asyncio.shield(asyncio.create_task(self._leave()))

    def _take(self) -> Sequence[Delivery | Gap]:
        now_ns = time.monotonic_ns()
        batch = [item for until_ns, item in self._ready if until_ns > now_ns]
        self._ready.clear()
        return tuple(batch)

    async def _go_round(self) -> None:
        """Ask those who may have something, until one has."""
        # Who was asked first comes last the next time.
        for origin in tuple(self._sources):
            source = self._sources.get(origin)
            if source is None or self._ended:
                continue
            if source.pause_until > asyncio.get_running_loop().time():
                continue
            try:
                if not source.joined:
                    await self._join(origin, source)
                if await self._claim(origin, source):
                    if self._sources.get(origin) is source:
                        del self._sources[origin]
                        self._sources[origin] = source
                    return
            except PlaneError as error:
                if error.code is not Code.UNAVAILABLE:
                    raise
                source.pause_until = asyncio.get_running_loop().time() + _RETRY_S

    async def _join(self, origin: str, source: _Source) -> None:
        settings = self._settings
        await self._ask(
            origin,
            Join(
                self._group,
                self._origin,
                self.id,
                self._birth,
                settings.visibility_s,
                settings.max_deliveries,
                settings.max_in_flight,
                settings.ordered,
            ),
        )
        source.joined = True
        source.number = source.stamp = source.held = 0
        source.more = True

    async def _claim(self, origin: str, source: _Source) -> bool:
        others = sum(each.held for each in self._sources.values() if each is not source)
        most = self._settings.max_in_flight - others
        while source.more and source.held < most and not self._ended:
            # There may be more just since the node looked, so it is asked until there is not.
            if await self._claim_once(origin, source, most):
                return True
        return False

    async def _claim_once(self, origin: str, source: _Source, most: int) -> bool:
        asked_ns = time.monotonic_ns()
        answer = await self._ask(origin, Claim(self._origin, self.id, source.number + 1, most))
        claimed = answer.claimed
        if answer.unknown or claimed is None:
            source.joined = False
            raise PlaneError(Code.UNAVAILABLE, f"node {origin} no longer knows of this consumer")
        source.number += 1
        self._note(source, claimed)
        # By then, another may have it.
        until_ns = asked_ns + int(self._settings.visibility_s * 1e9)
        self._ready += ((until_ns, item) for item in claimed.deliveries)
        self._ready.extendleft((1 << 63, item) for item in claimed.gaps)
        return bool(claimed.deliveries or claimed.gaps)

    def _note(self, source: _Source, said: Claimed) -> None:
        if said.stamp > source.stamp:
            source.stamp, source.held, source.more = said.stamp, said.held, said.more

    async def _wait(self) -> None:
        loop = asyncio.get_running_loop()
        pauses = [
            each.pause_until - loop.time()
            for each in self._sources.values()
            if each.pause_until > loop.time()
        ]
        try:
            async with asyncio.timeout(min(pauses, default=_LOOK_INTERVAL_S)):
                await self._changed.wait()
        except TimeoutError:
            if not pauses:
                # A hint may have been lost.
                for source in self._sources.values():
                    source.more = True

    async def _leave(self) -> None:
        if self._round is not None:
            await asyncio.wait([self._round])
            if not self._round.cancelled():
                self._round.exception()  # Nobody waits for it any more.
        unseen = tuple(item.token for _, item in self._ready if isinstance(item, Delivery))
        self._ready.clear()

        async def tell(origin: str, number: int) -> None:
            # A node that is gone has nothing to take back; one that hears nothing hears it again
            # when it next hints at something.
            with suppress(PlaneError):
                await self._ask(origin, Leave(self._origin, self.id, number, unseen))

        await asyncio.gather(
            *(tell(origin, source.number) for origin, source in self._sources.items())
        )
