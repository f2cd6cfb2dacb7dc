"""Consumer groups: the contract that every engine keeps.

The members of a group share its events: each event is with one member at a time, until one of them
acknowledges it. A group is made by its first member, and what it has done outlives them all.
"""

from __future__ import annotations

import math
import re
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Protocol

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.interface import Event, EventId, Gap, Start

DEAD_LETTERS = "dead-letter"
"""First segment of the keys of dead letters: ``dead-letter/<group>/<key of the event>``."""

MAX_VISIBILITY_S = 43_200.0
"""Longest visibility time, and longest delay of a redelivery: twelve hours."""

MAX_IN_FLIGHT = 2048
"""Most deliveries that one consumer may hold at a time."""

_NAME = re.compile(r"[A-Za-z0-9._-]{1,128}", re.ASCII)


@dataclass(frozen=True, slots=True)
class GroupSettings:
    """How a consumer takes part in a group.

    Attributes:
        visibility_s: Seconds for which an event is with the consumer; if it has not acknowledged it
            by then, another may get it.
        max_deliveries: How often an event is delivered; then it becomes a dead letter.
        start: Where a new group begins: at the oldest event that is kept, with what is published
            from now on, or after an id. One that is there goes on where it is.
        max_in_flight: Most deliveries that the consumer holds at a time, not yet acknowledged.
        ordered: Whether an event waits for the earlier ones of its key. Without it, events of one
            key are delivered side by side and out of order.

    Raises:
        PlaneError: INVALID_ARGUMENT; one of them is none.
    """

    visibility_s: float = 30.0
    max_deliveries: int = 5
    start: EventId | Start = Start.NOW
    max_in_flight: int = 256
    ordered: bool = True

    def __post_init__(self) -> None:
        check_seconds("visibility_s", self.visibility_s, least=0.001)
        if not 1 <= self.max_deliveries <= 1_000_000:
            raise PlaneError(
                Code.INVALID_ARGUMENT,
                f"max_deliveries is 1 to 1000000, not {self.max_deliveries}",
            )
        if not 1 <= self.max_in_flight <= MAX_IN_FLIGHT:
            raise PlaneError(
                Code.INVALID_ARGUMENT,
                f"max_in_flight is 1 to {MAX_IN_FLIGHT}, not {self.max_in_flight}; more consumers "
                "take more",
            )


@dataclass(frozen=True, slots=True)
class Delivery:
    """An event that is with a consumer.

    Attributes:
        event: The event.
        attempt: How often it was delivered, this time included: 1 for the first.
        token: Names this delivery to whoever acknowledges it, in any process of the engine.
    """

    event: Event
    attempt: int
    token: str


@dataclass(frozen=True, slots=True)
class GroupStatus:
    """How far a group has come.

    Attributes:
        name: Its name.
        expressions: Key expressions of its events.
        position: All its events up to this one are done.
        pending: How many deliveries are with consumers.
        waiting: How many events wait to be delivered once more.
        delivered: How many deliveries there were.
        acknowledged: How many of them were acknowledged.
        redelivered: How many of them were not the first of their event.
        dead_lettered: How many events became dead letters.
        lag: How many of its durable events come after ``position``, those that are pending or
            done out of order among them; ``None`` where the engine cannot count them.
    """

    name: str
    expressions: tuple[str, ...]
    position: EventId
    pending: int
    waiting: int
    delivered: int
    acknowledged: int
    redelivered: int
    dead_lettered: int
    lag: int | None


class ConsumerGroups(Protocol):
    """Delivers events to the members of groups, at least once.

    **Ordering.** Of one key, an event is delivered only once the earlier ones are done, so they are
    processed in order, whoever gets them; events of different keys overtake each other. A consumer
    that acknowledges late, after its time was up, may have processed an event beside another.
    Several expressions of a group that match one event make one delivery. Dead letters are read
    only by groups whose expressions begin with ``dead-letter``.

    **Durability.** What a group has done is kept where the engine keeps its state: an
    acknowledgement that returned is never forgotten, save in ``memory:``. Every durable event is
    delivered until it is acknowledged or becomes a dead letter, or the log's retention takes it:
    then consumers get a `Gap`. Ephemeral events are delivered where the engine holds them; they may
    be missed.

    **Redelivery.** An event is delivered again when its visibility time has passed, when a consumer
    gives it back, leaves without acknowledging it, or its process dies, which is seen as soon as
    discovery sees it. After ``max_deliveries`` it is published under
    ``dead-letter/<group>/<its key>`` as a `protoplane.v1.DeadLetter`, durable, and counts as done.

    **Away.** While the engine is away, consumers wait and go on by themselves, and the other calls
    raise UNAVAILABLE; nothing that was acknowledged before is delivered again for that reason.
    """

    def consume(
        self, group: str, expressions: Sequence[str], settings: GroupSettings | None = None
    ) -> AsyncGenerator[Sequence[Delivery | Gap], None]:
        """Take part in a group: get batches of the deliveries that are ready.

        Where events were lost, a `Gap` comes first, to every consumer of the process. Closing it,
        or cancelling who waits on it, gives back at once what was not acknowledged. The stream
        ends when the groups are closed.

        Args:
            group: Its name: 1 to 128 of ``A-Z a-z 0-9 . _ -``.
            expressions: Key expressions; the same for all members.
            settings: How to take part.

        Raises:
            PlaneError: INVALID_ARGUMENT for a bad name or key expression; in the first step
                FAILED_PRECONDITION where the group reads other key expressions.
        """
        ...

    async def acknowledge(self, tokens: Sequence[str]) -> None:
        """Say that deliveries are done; once more does nothing.

        All that can be acknowledged are. Cancelling may leave them acknowledged.

        Raises:
            PlaneError: INVALID_ARGUMENT for what is no token; FAILED_PRECONDITION where a delivery
                is no longer with its consumer: its time was up, so another has it; NOT_FOUND where
                the group was deleted; UNAVAILABLE where the engine is away.
        """
        ...

    async def negative_acknowledge(
        self, tokens: Sequence[str], *, delay_s: float = 0.0, reason: str = ""
    ) -> None:
        """Give deliveries back, to be delivered again, to whoever comes first.

        Args:
            tokens: The deliveries.
            delay_s: Seconds before they are.
            reason: Why, for the dead letter that they may become; 200 characters of it are kept.

        Raises:
            PlaneError: As `acknowledge`; INVALID_ARGUMENT for a bad delay.
        """
        ...

    async def extend(self, tokens: Sequence[str], visibility_s: float) -> None:
        """Keep deliveries for so many seconds from now.

        Raises:
            PlaneError: As `acknowledge`; INVALID_ARGUMENT for a bad time.
        """
        ...

    async def list(self) -> Sequence[GroupStatus]:
        """All groups, in the order of their names.

        Raises:
            PlaneError: UNAVAILABLE where the engine is away.
        """
        ...

    async def delete(self, group: str) -> bool:
        """Forget a group and what it has done; members that are there make it anew.

        Returns:
            Whether there was one.

        Raises:
            PlaneError: INVALID_ARGUMENT for a bad name, UNAVAILABLE where the engine is away.
        """
        ...

    async def reset(self, group: str, start: EventId | Start) -> None:
        """Let a group go on from another place; what is with consumers is no longer theirs.

        Raises:
            PlaneError: NOT_FOUND where there is no such group; otherwise as `delete`.
        """
        ...

    async def close(self) -> None:
        """Give back what consumers hold and end them; twice does nothing more."""
        ...


def check_group(name: str) -> None:
    """Make sure that a text is a group's name.

    Raises:
        PlaneError: INVALID_ARGUMENT with what is wrong.
    """
    if not _NAME.fullmatch(name):
        raise PlaneError(
            Code.INVALID_ARGUMENT,
            f"{name[:80]!r} is no name of a group: it is 1 to 128 of A-Z a-z 0-9 . _ -",
        )


def check_seconds(name: str, seconds: float, *, least: float = 0.0) -> None:
    """Make sure that a visibility time or delay is one.

    Raises:
        PlaneError: INVALID_ARGUMENT; it is not.
    """
    if not (math.isfinite(seconds) and least <= seconds <= MAX_VISIBILITY_S):
        raise PlaneError(
            Code.INVALID_ARGUMENT,
            f"{name} is {least:g} to {MAX_VISIBILITY_S:g} seconds, not {seconds:g}",
        )
