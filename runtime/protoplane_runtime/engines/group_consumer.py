"""One consumer of a group, in its own process: what it was given, and what is ready for it."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from protoplane_base import PlaneError
from protoplane_runtime.engines.group_state import GroupState
from protoplane_runtime.engines.groups import Delivery, GroupSettings
from protoplane_runtime.engines.interface import Gap


@dataclass(slots=True)
class Held:
    """A delivery that has not ended, as far as this process knows.

    Attributes:
        attempt: Which one of its event.
        due_ns: Until when the event is the consumer's, in nanoseconds since 1970.
        seen: Whether the consumer has taken it.
    """

    attempt: int
    due_ns: int
    seen: bool = False


class Consumer:
    """Takes part in a group.

    Args:
        settings: How.

    Attributes:
        settings: How.
        held: What it holds, by the event's sequence.
        ended: Whether it is given nothing more.
        curious: Whether it wants to know in `look` of events that nobody had room for.
    """

    curious = False

    def __init__(self, settings: GroupSettings) -> None:
        self.settings = settings
        self.held: dict[int, Held] = {}
        self._ready: deque[Delivery | Gap] = deque()
        self._changed = asyncio.Event()
        self._error: PlaneError | None = None
        self.ended = False

    @property
    def waits(self) -> bool:
        """Whether something is ready for it."""
        return bool(self._ready)

    def room(self, busy: int) -> int:
        """How many more deliveries it takes in this turn.

        Args:
            busy: How many it holds whose time is not up.
        """
        return 0 if self.ended else self.settings.max_in_flight - busy

    def look(self, more: bool) -> None:
        """Take note that a turn has ended.

        Args:
            more: Whether events are left that nobody had room for; not told where nobody is
                `curious`.
        """

    def offer(self, item: Delivery | Gap) -> None:
        """Give it something."""
        self._ready.append(item)
        self._changed.set()

    def reconcile(self, state: GroupState, member: str) -> None:
        """Let go of what is no longer its own."""
        for sequence, held in tuple(self.held.items()):
            flight = state.flights.get(sequence)
            if flight is None or (flight.member, flight.attempt) != (member, held.attempt):
                del self.held[sequence]
            else:
                held.due_ns = flight.due_ns

    def end(self, error: PlaneError | None = None) -> None:
        """Let it end."""
        self.ended = True
        self._error = self._error or error
        self._changed.set()

    async def next(self) -> Sequence[Delivery | Gap] | None:
        """All that is ready; ``None`` at the end. Cancelling it takes nothing.

        Raises:
            PlaneError: The group cannot be consumed.
        """
        while True:
            batch = self.take()
            if self.ended:
                return None
            if batch:
                return batch
            self._changed.clear()
            await self._changed.wait()

    def take(self) -> Sequence[Delivery | Gap]:
        """All that is ready now; from here on, it has seen that.

        Raises:
            PlaneError: The group cannot be consumed.
        """
        if self._error is not None:
            raise self._error
        if self.ended:
            return ()
        now_ns = time.time_ns()
        batch: list[Delivery | Gap] = []
        while self._ready:
            item = self._ready.popleft()
            if isinstance(item, Delivery):
                held = self.held.get(item.event.id.sequence)
                # What waited here for too long is another's, or comes again; it may be here twice.
                if held is None or held.seen or held.attempt != item.attempt:
                    continue
                if held.due_ns <= now_ns:
                    continue
                held.seen = True
            batch.append(item)
        return tuple(batch)
