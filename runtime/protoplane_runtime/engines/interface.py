"""What stands behind the event plane: the contract that every engine keeps.

A key is a path such as ``forge/captions/42``. A key expression may hold ``*`` (exactly one segment)
and ``**`` (any number of segments, also none); neither stands for a segment that begins with ``@``,
as those of the framework's own keys do. An event's id is its place in the engine's log,
``<epoch>-<sequence>``: the sequence orders the log, the epoch changes when storage was lost.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol, Self

from msgspec import Struct

from protoplane_base import Code, PlaneError


# Structs, not dataclasses: a pair of these is made for every event that is published or read. They
# take a tenth of the time to make, and Python's collector of cycles, which would walk each of a
# log's events, does not see them: they hold nothing that could lead back to them.
class EventId(Struct, frozen=True, order=True, gc=False):
    """Place of an event in a log; ids of one log are in order."""

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


class Event(Struct, frozen=True, gc=False):
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
        ephemeral: Only ephemeral events may be missing; every durable one follows.
    """

    asked: EventId
    oldest: EventId | None
    next: EventId
    ephemeral: bool = False


class Start(Enum):
    """Where to begin reading, if not after an id."""

    EARLIEST = "earliest"
    NOW = "now"


@dataclass(frozen=True, slots=True)
class Since:
    """Begin with the first event that was accepted at some time or later.

    It asks for what is kept since then, so it makes no `Gap`.

    Attributes:
        time_ns: The time, in nanoseconds since 1970.
    """

    time_ns: int


@dataclass(frozen=True, slots=True)
class Publication:
    """Names one publication, so that publishing it again does not append it again.

    Attributes:
        publisher: Who publishes; the same after a restart.
        number: Number of the publication, different for each of this publisher's.
    """

    publisher: str
    number: int

    def __post_init__(self) -> None:
        if not self.publisher or not 0 <= self.number < 1 << 63:
            raise ValueError("a publication has a publisher, and a number from 0 to 2**63 - 1")

    @classmethod
    def of(cls, publisher: str | None, number: int | None) -> Publication | None:
        """The publication of a publisher and a number; ``None`` where neither is given.

        Raises:
            PlaneError: INVALID_ARGUMENT; one of them is missing, or cannot be.
        """
        if publisher is None and number is None:
            return None
        if publisher is None or number is None:
            there, lacking = (
                ("number", "publisher") if publisher is None else ("publisher", "number")
            )
            raise PlaneError(
                Code.INVALID_ARGUMENT,
                f"a publication has a publisher and a number, and here is a {there} alone; "
                f"give the {lacking} too, or neither",
            )
        try:
            return cls(publisher, number)
        except ValueError as error:
            raise PlaneError(
                Code.INVALID_ARGUMENT, f"publisher {publisher[:80]!r}, number {number}: {error}"
            ) from None


@dataclass(frozen=True, slots=True)
class KeyStats:
    """What a log keeps under one key.

    Attributes:
        key: The key.
        events: How many durable events.
        bytes: Bytes that they take, roughly; ``None`` where the engine does not tell.
    """

    key: str
    events: int
    bytes: int | None


@dataclass(frozen=True, slots=True)
class LogStats:
    """What a log keeps under some key expressions.

    Attributes:
        events: How many durable events.
        bytes: Bytes that they take, roughly; ``None`` where the engine does not tell.
        oldest: Id of the oldest of them; ``None`` where there is none.
        newest: Id of the newest of them; ``None`` where there is none.
        oldest_ns: When the oldest was accepted, in nanoseconds since 1970; ``None`` where there is
            none.
        newest_ns: The same of the newest.
        keys: What is under each key, in the order of the keys; some engines leave it out where they
            count after an id.
    """

    events: int
    bytes: int | None
    oldest: EventId | None
    newest: EventId | None
    oldest_ns: int | None
    newest_ns: int | None
    keys: Sequence[KeyStats]


class EventLog(Protocol):
    """Publishes events and reads them in order.

    Publishing is safe from any number of tasks. All readers see the events of one log in the order
    of their ids.
    """

    async def publish(
        self,
        key: str,
        type_: str,
        data: bytes,
        json: str,
        *,
        durable: bool = False,
        publication: Publication | None = None,
    ) -> EventId:
        """Append an event.

        Returns only once the event is accepted: in memory for an ephemeral one, in the log's
        storage for a durable one. Cancelling may leave it published.

        With a ``publication``, a durable event that was accepted under it before, and is still
        kept, is not appended again: the id is that of the first. Ephemeral events are never told
        apart this way. ``nats:`` knows it again for some time only, see its settings, and
        ``zenoh:`` at the node at which it was published.

        Raises:
            PlaneError: INVALID_ARGUMENT for a bad key, RESOURCE_EXHAUSTED where the log is full,
                UNAVAILABLE where the engine is away.
        """
        ...

    def read(
        self,
        expressions: Sequence[str],
        *,
        after: EventId | Start | Since = Start.NOW,
        latest: bool = False,
    ) -> AsyncIterator[Sequence[Event | Gap]]:
        """Read what any of the key expressions matches, in batches of all that is ready.

        With ``latest``, a batch holds no more than the newest event of each key: what a reader
        finds replaced by the time it takes it, it does not see.

        The stream ends when the log is closed. Leaving it, or cancelling the task that waits on
        it, gives back all that it holds. A slow reader holds nothing in memory: it keeps a place,
        and gets a `Gap` when that place is gone.

        While the engine's server, or another of its nodes, is away, no error ends the stream: the
        reader waits, and goes on where it was once it is back. It gets a `Gap` where durable
        events that it had yet to see are no longer kept by then, or the log has a new epoch, and
        one with ``ephemeral`` where only ephemeral ones may have passed.

        Raises:
            PlaneError: INVALID_ARGUMENT for a bad key expression; while reading, where the log is
                on a disk of this machine that cannot be read: UNAVAILABLE, PERMISSION_DENIED or
                DATA_LOSS.
        """
        ...

    async def stats(
        self, expressions: Sequence[str] = ("**",), *, after: EventId | None = None
    ) -> LogStats:
        """What the log keeps under some key expressions, as of one moment.

        It looks at all that they match, so it is for people and not for every second. ``memory:``
        counts its ephemeral events too.

        Args:
            expressions: Key expressions.
            after: Count only what comes after this id.

        Raises:
            PlaneError: INVALID_ARGUMENT for a bad key expression, UNIMPLEMENTED where the engine
                cannot count, or cannot after an id, UNAVAILABLE where it is away.
        """
        ...

    async def purge(
        self, expressions: Sequence[str], *, before: EventId | Since | None = None
    ) -> int:
        """Delete the events that some key expressions match, now and for good.

        A reader that has not come as far does not see them; it gets a `Gap` where the log cannot
        tell them from what was lost. One that follows the newest events may still see those that
        its process holds ready. Cancelling may leave some deleted, the oldest first.

        Args:
            expressions: Key expressions.
            before: Delete what lies before this id, or was accepted before this time; all that is
                there by now where absent.

        Returns:
            How many were deleted.

        Raises:
            PlaneError: INVALID_ARGUMENT for a bad key expression, UNIMPLEMENTED where the engine
                cannot, UNAVAILABLE where it is away or closed.
        """
        ...

    @property
    def last(self) -> EventId:
        """Id of the newest event; sequence 0 where there is none."""
        ...

    async def close(self) -> None:
        """End all readers and give back all resources; closing twice does nothing."""
        ...
