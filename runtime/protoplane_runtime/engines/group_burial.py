"""Events that a group could not take: published as dead letters, then counted as done."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from protoplane_base import PlaneError
from protoplane_runtime.engines.dead_letters import bury
from protoplane_runtime.engines.group_state import Flight, GroupState
from protoplane_runtime.engines.interface import Event, EventId, EventLog

_log = logging.getLogger("protoplane.groups")

BURIAL_S: Final = 30.0
"""For so long nobody else sees to an event that is on its way to be a dead letter."""

Dead = tuple[Event, Flight]
"""An event that was delivered too often, and its last delivery."""


class Burials:
    """Publishes the dead letters of one group.

    Args:
        log: Where to.
        group: Name of the group.
        ask: Has the state of the group changed, and returns once that is stored.
        ended: Called when a burial has ended, well or not.
    """

    def __init__(
        self,
        log: EventLog,
        group: str,
        ask: Callable[[Callable[[GroupState], None]], Awaitable[None]],
        ended: Callable[[], None],
    ) -> None:
        self._log = log
        self._group = group
        self._ask = ask
        self._ended = ended
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def busy(self) -> bool:
        """Whether dead letters are on their way."""
        return bool(self._tasks)

    def begin(self, generation: str, dead: Sequence[Dead]) -> None:
        """Publish dead letters, while others go on.

        Those that cannot be published are tried again by whoever finds them after `BURIAL_S`.

        Args:
            generation: That of the group's state; it is part of a letter's identity.
            dead: The events; their deliveries are nobody's by now.
        """
        if dead:
            task = asyncio.create_task(self._bury(generation, dead))
            self._tasks.add(task)
            task.add_done_callback(self._over)

    async def close(self) -> None:
        """Give up what is on its way."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._ended()

    async def _bury(self, generation: str, dead: Sequence[Dead]) -> None:
        for event, flight in dead:
            try:
                await bury(
                    self._log,
                    self._group,
                    event,
                    generation=generation,
                    deliveries=flight.attempt,
                    reason=flight.reason,
                )
                await self._ask(_finished(event.id))
            except PlaneError as error:
                _log.warning(
                    "the dead letter of event %s of group %s waits: %s",
                    event.id,
                    self._group,
                    error,
                )


def _finished(event_id: EventId) -> Callable[[GroupState], None]:
    def change(state: GroupState) -> None:
        if state.epoch == event_id.epoch and not state.is_done(event_id.sequence):
            state.dead_lettered += 1
            state.finish(event_id.sequence)

    return change
