"""What stands behind the event plane: the contract that every engine keeps.

A key is a path such as ``forge/captions/42``. A key expression may hold ``*`` (exactly one segment)
and ``**`` (any number of segments, also none). An event's id is its place in the engine's log,
``<epoch>-<sequence>``: the sequence orders the log, the epoch changes when storage was lost.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol, Self


@dataclass(frozen=True, slots=True, order=True)
class EventId:
    """Place of an event in a log."""

    epoch: int
    sequence: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``<epoch>-<sequence>``.

        Raises:
            ValueError: The text has another form.
        """
        epoch, dash, sequence = text.partition("-")
        if not (dash and text.isascii() and epoch.isdigit() and sequence.isdigit()):
            raise ValueError(f"{text!r} is no event id; one looks like 1-42")
        return cls(int(epoch), int(sequence))

    def __str__(self) -> str:
        return f"{self.epoch}-{self.sequence}"


@dataclass(frozen=True, slots=True)
class Event:
    """One event as the log holds it.

    Attributes:
        id: Place in the log.
        key: Key that it is filed under.
        type: Full name of its message, for example ``forge.captioner.v1.CaptionFinished``.
        data: The message in the protobuf wire format; JSON text where the type is not known here.
        json: The message as ProtoJSON, on one line.
        time_ns: When it was accepted, in nanoseconds since 1970.
    """

    id: EventId
    key: str
    type: str
    data: bytes
    json: str
    time_ns: int


@dataclass(frozen=True, slots=True)
class Gap:
    """What a reader gets first when the place it asked for is no longer kept.

    Attributes:
        asked: Id after which it wanted to read.
        oldest: Oldest event that is still kept; ``None`` where there is none.
        next: Id of the next event that it will see, or would be given to the next one published.
    """

    asked: EventId
    oldest: EventId | None
    next: EventId


class Start(Enum):
    """Where to begin reading, if not after an id."""

    EARLIEST = "earliest"
    NOW = "now"


class EventLog(Protocol):
    """Publishes events and reads them in order.

    Publishing is safe from any number of tasks. All readers see the events of one log in the order
    of their ids.
    """

    async def publish(
        self, key: str, type_: str, data: bytes, json: str, *, durable: bool = False
    ) -> EventId:
        """Append an event.

        Returns only once the event is accepted: in memory for an ephemeral one, in the log's
        storage for a durable one. Cancelling may leave it published.

        Raises:
            PlaneError: INVALID_ARGUMENT for a bad key, RESOURCE_EXHAUSTED where the log is full,
                UNAVAILABLE where the engine is away.
        """
        ...

    def read(
        self, expressions: Sequence[str], *, after: EventId | Start = Start.NOW
    ) -> AsyncIterator[Sequence[Event | Gap]]:
        """Read what any of the key expressions matches, in batches of all that is ready.

        The stream ends when the log is closed. Leaving it, or cancelling the task that waits on
        it, gives back all that it holds. A slow reader holds nothing in memory: it keeps a place,
        and gets a `Gap` when that place is gone.

        Raises:
            PlaneError: INVALID_ARGUMENT for a bad key expression.
        """
        ...

    @property
    def last(self) -> EventId:
        """Id of the newest event; sequence 0 where there is none."""
        ...

    async def close(self) -> None:
        """End all readers and give back all resources; closing twice does nothing."""
        ...
