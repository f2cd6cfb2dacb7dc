"""What nodes tell each other of consumer groups; bytes in, messages out, and nothing else.

A member asks the node whose events they are, which answers. What a member did not ask for it is
told by a `Hint`. All of it is MessagePack after the version.
"""

from __future__ import annotations

import msgspec
from msgspec import Struct, msgpack

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.groups import Delivery, GroupStatus
from protoplane_runtime.engines.interface import Gap

VERSION = 1
"""What a message begins with; a node leaves messages of another version alone."""


class Birth(Struct, frozen=True):
    """How a group began; the same at all nodes.

    Attributes:
        expressions: Key expressions of its events.
        born_ns: When, in nanoseconds since 1970, by the clock of its first member.
        earliest: Whether it begins with the oldest events, else with those from then on.
        places: After which event of each log it begins instead, by the logs' epochs; after none of
            those that are left out.
    """

    expressions: tuple[str, ...]
    born_ns: int
    earliest: bool = False
    places: dict[int, int] | None = None


class Look(Struct, frozen=True, tag=True):
    """Asks how a group began."""

    group: str


class Join(Struct, frozen=True, tag=True):
    """Lets a member's consumer take part in a group.

    Attributes:
        group: The group.
        member: Log of the node that the consumer is at.
        consumer: Which one of its consumers.
        birth: How the group began, where it is not known here.
        visibility_s: See `GroupSettings`, as all that follows.
    """

    group: str
    member: str
    consumer: str
    birth: Birth
    visibility_s: float
    max_deliveries: int
    max_in_flight: int
    ordered: bool


class Claim(Struct, frozen=True, tag=True):
    """Asks for events.

    Attributes:
        member: As in `Join`.
        consumer: As in `Join`.
        number: Number of the claim; an answer that was lost is given again.
        most: How many deliveries of this node the consumer may hold then.
    """

    member: str
    consumer: str
    number: int
    most: int


class Leave(Struct, frozen=True, tag=True):
    """Lets a consumer take part no more.

    Attributes:
        member: As in `Join`.
        consumer: As in `Join`.
        number: Number of the newest claim whose answer it has.
        unseen: Tokens of deliveries that it has not seen.
    """

    member: str
    consumer: str
    number: int
    unseen: tuple[str, ...] = ()


class Acknowledge(Struct, frozen=True, tag=True):
    """See `ConsumerGroups.acknowledge`."""

    tokens: tuple[str, ...]


class GiveBack(Struct, frozen=True, tag=True):
    """See `ConsumerGroups.negative_acknowledge`."""

    tokens: tuple[str, ...]
    delay_s: float
    reason: str


class Extend(Struct, frozen=True, tag=True):
    """See `ConsumerGroups.extend`."""

    tokens: tuple[str, ...]
    visibility_s: float


class Statuses(Struct, frozen=True, tag=True):
    """Asks how far all groups have come."""


class Delete(Struct, frozen=True, tag=True):
    """Forgets a group."""

    group: str


class Reset(Struct, frozen=True, tag=True):
    """Lets a group go on from where ``birth`` says, whose key expressions do not count."""

    group: str
    birth: Birth


class Places(Struct, frozen=True, tag=True):
    """Asks what there was of other logs at a place of this one."""

    sequence: int


Request = (
    Look
    | Join
    | Claim
    | Leave
    | Acknowledge
    | GiveBack
    | Extend
    | Statuses
    | Delete
    | Reset
    | Places
)


class Claimed(Struct, frozen=True):
    """What a consumer was given.

    Attributes:
        stamp: Greater than that of all that was told before.
        held: How many deliveries of this node it holds now.
        more: Whether there is more for it.
        deliveries: The events.
        gaps: What was lost before them.
    """

    stamp: int
    held: int
    more: bool
    deliveries: tuple[Delivery, ...] = ()
    gaps: tuple[Gap, ...] = ()


class Answer(Struct, frozen=True, omit_defaults=True):
    """What came of a request.

    Attributes:
        error: Code and message of what went wrong.
        unknown: Whether there is no such consumer, so that it has to join again.
        done: Whether there was something to do.
        birth: How the group began.
        claimed: What the consumer was given.
        statuses: How far groups have come.
        places: Places in other logs, by their epochs.
    """

    error: tuple[int, str] | None = None
    unknown: bool = False
    done: bool = False
    birth: Birth | None = None
    claimed: Claimed | None = None
    statuses: tuple[GroupStatus, ...] = ()
    places: dict[int, int] | None = None

    @classmethod
    def failed(cls, error: PlaneError) -> Answer:
        """The answer that something went wrong."""
        return cls(error=(error.code.value, error.message))

    def ok(self) -> Answer:
        """It, where nothing went wrong.

        Raises:
            PlaneError: What went wrong.
        """
        if self.error is not None:
            code, message = self.error
            raise PlaneError(Code(code), message)
        return self


class Hint(Struct, frozen=True):
    """Tells a consumer that something has changed for it.

    Attributes:
        origin: Log of the node that tells it.
        consumer: Which one of the member's consumers.
        stamp: As in `Claimed`.
        held: As in `Claimed`.
        more: As in `Claimed`.
    """

    origin: str
    consumer: str
    stamp: int
    held: int
    more: bool


_VERSION = bytes((VERSION,))
_ENCODER = msgpack.Encoder()
_REQUESTS: msgpack.Decoder[Request] = msgpack.Decoder(Request)
_ANSWERS = msgpack.Decoder(Answer)
_HINTS = msgpack.Decoder(Hint)


def encode(message: Request | Answer | Hint) -> bytes:
    """A message as it travels."""
    return _VERSION + _ENCODER.encode(message)


def decode_request(message: bytes) -> Request:
    """Read a request.

    Raises:
        ValueError: It is something else.
    """
    return _REQUESTS.decode(_body(message))


def decode_answer(message: bytes) -> Answer:
    """Read an answer.

    Raises:
        ValueError: It is something else.
    """
    return _ANSWERS.decode(_body(message))


def decode_hint(message: bytes) -> Hint:
    """Read a hint.

    Raises:
        ValueError: It is something else.
    """
    return _HINTS.decode(_body(message))


def _body(message: bytes) -> memoryview:
    if message[:1] != _VERSION:
        raise msgspec.DecodeError("a message of consumer groups of another version, or cut off")
    return memoryview(message)[1:]
