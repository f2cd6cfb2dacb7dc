"""What a consumer group has done, as its members keep it in the engine's state store.

It is one value that members read, change and write back if nobody else did meanwhile. Nothing here
waits or touches the store.
"""

from __future__ import annotations

import json
import secrets
from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.groups import check_group
from protoplane_runtime.engines.interface import EventId

MAX_FLIGHTS = 4096
"""Most deliveries of a group that are under way or wait to be repeated, of all its members."""

_VERSION = 1
_MAX_REASON = 200
_LEFT = "its consumer left"


@dataclass(frozen=True, slots=True)
class Token:
    """Names a delivery.

    Attributes:
        group: Whose it is.
        id: The event's id.
        attempt: Which delivery of the event.
        member: Who got it.
    """

    group: str
    id: EventId
    attempt: int
    member: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what `str` wrote.

        Raises:
            PlaneError: INVALID_ARGUMENT; it is no token.
        """
        parts = text.split("/")
        try:
            group, id_, attempt, member = parts
            check_group(group)
            if not (attempt.isascii() and attempt.isdigit() and member):
                raise ValueError(text)
            return cls(group, EventId.parse(id_), int(attempt), member)
        except (ValueError, PlaneError):
            raise PlaneError(
                Code.INVALID_ARGUMENT,
                f"{text[:80]!r} is no token of a delivery; take that of the delivery itself",
            ) from None

    def __str__(self) -> str:
        return f"{self.group}/{self.id}/{self.attempt}/{self.member}"


@dataclass(slots=True)
class Flight:
    """An event that was delivered, or is to be again.

    Attributes:
        member: Who has it; "" for nobody.
        attempt: How often it was delivered.
        due_ns: When it may be delivered again, in nanoseconds since 1970.
        reason: Why the last delivery came to nothing.
    """

    member: str
    attempt: int
    due_ns: int
    reason: str = ""


@dataclass(slots=True)
class GroupState:
    """How far a group has come; sequences are those of its log.

    Attributes:
        expressions: Key expressions of its events, in order.
        epoch: Epoch of the log that the sequences are of.
        position: All its events up to here are done.
        generation: Another one after a reset.
        done: What is done after ``position``: the first and the last of events in a row.
        flights: Deliveries that are not done, by the event's sequence.
        delivered: How many deliveries there were.
        acknowledged: How many of them were acknowledged.
        redelivered: How many were not the first of their event.
        dead_lettered: How many events became dead letters.
    """

    expressions: tuple[str, ...]
    epoch: int
    position: int
    generation: str = field(default_factory=lambda: secrets.token_hex(4))
    done: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    flights: dict[int, Flight] = field(default_factory=dict[int, Flight])
    delivered: int = 0
    acknowledged: int = 0
    redelivered: int = 0
    dead_lettered: int = 0

    def is_done(self, sequence: int) -> bool:
        """Whether an event is done, or lies before all that is not."""
        if sequence <= self.position:
            return True
        at = bisect_right(self.done, (sequence, 1 << 70)) - 1
        return at >= 0 and self.done[at][1] >= sequence

    def finish(self, sequence: int) -> None:
        """Note that an event is done."""
        self.flights.pop(sequence, None)
        if not self.is_done(sequence):
            insort(self.done, (sequence, sequence))

    def held(self, token: Token) -> Flight | None:
        """The delivery that a token names; ``None`` where its event is done already.

        Raises:
            PlaneError: FAILED_PRECONDITION; it is no longer with its consumer.
        """
        if token.id.epoch == self.epoch:
            flight = self.flights.get(token.id.sequence)
            if flight is not None and (flight.member, flight.attempt) == (
                token.member,
                token.attempt,
            ):
                return flight
            if flight is None and self.is_done(token.id.sequence):
                return None
        raise PlaneError(
            Code.FAILED_PRECONDITION,
            f"event {token.id} is no longer with this consumer of group {token.group}: its time "
            "was up, or the group was reset; extend deliveries in time, or take a longer "
            "visibility_s",
        )

    def acknowledge(self, token: Token) -> bool:
        """End a delivery for good; whether that changed anything.

        Raises:
            PlaneError: FAILED_PRECONDITION; see `held`.
        """
        if self.held(token) is None:
            return False
        self.acknowledged += 1
        self.finish(token.id.sequence)
        return True

    def give_back(self, token: Token, due_ns: int, reason: str) -> bool:
        """Let an event be delivered again from some time on; whether that changed anything.

        Raises:
            PlaneError: FAILED_PRECONDITION; see `held`.
        """
        flight = self.held(token)
        if flight is not None:
            flight.member, flight.due_ns, flight.reason = "", due_ns, reason[:_MAX_REASON]
        return flight is not None

    def extend(self, token: Token, due_ns: int) -> bool:
        """Keep a delivery until some time; whether that changed anything.

        Raises:
            PlaneError: FAILED_PRECONDITION; see `held`.
        """
        flight = self.held(token)
        if flight is not None:
            flight.due_ns = due_ns
        return flight is not None

    def release(self, member: str, sequence: int, attempt: int, *, seen: bool) -> bool:
        """Take a delivery back from who left; one that he never saw does not count."""
        flight = self.flights.get(sequence)
        if flight is None or (flight.member, flight.attempt) != (member, attempt):
            return False
        flight.member, flight.due_ns = "", 0
        if seen:
            flight.reason = _LEFT
        elif attempt > 1:
            flight.attempt -= 1
        else:
            del self.flights[sequence]
        return True

    def release_all(self, member: str, reason: str) -> bool:
        """Take all deliveries back from who died; whether there were some."""
        found = [flight for flight in self.flights.values() if flight.member == member]
        for flight in found:
            flight.member, flight.due_ns, flight.reason = "", 0, reason
        return bool(found)

    def skip_to(self, epoch: int, position: int) -> bool:
        """Go on after a place, because what lies before is lost; whether that changed anything."""
        if epoch != self.epoch:
            self.epoch, self.position = epoch, position
            self.done, self.flights = [], {}
            return True
        if position <= self.position:
            return False
        self.position = position
        self._trim()
        return True

    def compact(self, undone: Sequence[int], read_to: int) -> bool:
        """Write down in the shortest way what is done.

        Args:
            undone: Sequences of the events that are not done, of those up to ``read_to``.
            read_to: Up to where the caller knows all of the group's events.

        Returns:
            Whether that changed anything.
        """
        before = self.position, len(self.done)
        merged: list[tuple[int, int]] = []
        last_place = 0
        for first, last in self.done:
            place = bisect_left(undone, first)
            if last > read_to:
                place = -1
            elif place == 0:
                self.position = max(self.position, last)
                continue
            if place > 0 and place == last_place:
                merged[-1] = (merged[-1][0], last)
            else:
                merged.append((first, last))
            last_place = place
        self.done = merged
        if self.position != before[0]:
            self._trim()
        return before != (self.position, len(self.done))

    def _trim(self) -> None:
        self.done = [each for each in self.done if each[1] > self.position]
        for sequence in [each for each in self.flights if each <= self.position]:
            del self.flights[sequence]

    def encode(self) -> bytes:
        """It as bytes."""
        return json.dumps(
            {
                "version": _VERSION,
                "expressions": self.expressions,
                "epoch": self.epoch,
                "position": self.position,
                "generation": self.generation,
                "done": self.done,
                "flights": [
                    (sequence, flight.member, flight.attempt, flight.due_ns, flight.reason)
                    for sequence, flight in self.flights.items()
                ],
                "counts": (
                    self.delivered,
                    self.acknowledged,
                    self.redelivered,
                    self.dead_lettered,
                ),
            },
            separators=(",", ":"),
        ).encode()

    @classmethod
    def decode(cls, group: str, value: bytes) -> Self:
        """Read what `encode` wrote.

        Raises:
            PlaneError: DATA_LOSS where it was something else, FAILED_PRECONDITION where a newer
                Protoplane wrote it.
        """
        try:
            data: dict[str, Any] = json.loads(value)
            version = data["version"]
            if version == _VERSION:
                return cls(
                    tuple(data["expressions"]),
                    data["epoch"],
                    data["position"],
                    data["generation"],
                    [(first, last) for first, last in data["done"]],
                    {sequence: Flight(*rest) for sequence, *rest in data["flights"]},
                    *data["counts"],
                )
        except (ValueError, KeyError, TypeError):
            raise PlaneError(
                Code.DATA_LOSS,
                f"what is stored of group {group} is damaged; forget it by: protoplane events "
                f"group delete {group}",
            ) from None
        raise PlaneError(
            Code.FAILED_PRECONDITION,
            f"group {group} was written by another Protoplane (version {version} of its state, and "
            f"this one knows {_VERSION}); upgrade Protoplane, or delete the group",
        )
