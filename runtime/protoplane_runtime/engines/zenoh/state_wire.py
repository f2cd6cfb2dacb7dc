"""What nodes tell each other of the state; bytes in, values out, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from struct import Struct, error

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.state import Deleted, Entry

VERSION = 1
"""What a message begins with; a node leaves messages of another version alone."""

Change = Entry | Deleted

_CHANGE = Struct("<BQQHI")
"""What it is, its revision, when it goes (0 for never), lengths of key and value."""

_TOLD = Struct("<BQQI")
"""Version, revision before and after, how many changes."""

_REQUEST = Struct("<BBqdH")
"""Version, what is wanted, expected revision (-1: any), time to live (0: none), key's length."""

_ERROR = Struct("<BBB")
"""Version, the outcome, the code."""

_ENTRY, _DELETED, _EXPIRED = range(3)


class Wanted(IntEnum):
    """What is wanted of the owner."""

    GET = 0
    PUT = 1
    DELETE = 2
    LIST = 3
    SYNC = 4


class Outcome(IntEnum):
    """What became of a request."""

    DONE = 0
    NOT_OWNER = 1
    FAILED = 2


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked of the owner.

    Attributes:
        wanted: What is to be done.
        key: The key, or the key expression of a list.
        value: Its value.
        expected: Revision that it must have; that which a node knows, in one that wants all.
        ttl_s: Seconds after which it goes.
    """

    wanted: Wanted
    key: str
    value: bytes = b""
    expected: int | None = None
    ttl_s: float | None = None


@dataclass(frozen=True, slots=True)
class Told:
    """Some changes, or entries.

    Attributes:
        previous: Revision before the first of them.
        revision: Revision after the last of them.
        changes: What they are.
    """

    previous: int
    revision: int
    changes: Sequence[Change] = ()


def encode_request(request: Request) -> bytes:
    """A request as it travels."""
    key = request.key.encode()
    expected = -1 if request.expected is None else request.expected
    head = _REQUEST.pack(VERSION, request.wanted, expected, request.ttl_s or 0.0, len(key))
    return b"".join((head, key, request.value))


def decode_request(message: bytes) -> Request:
    """Read what `encode_request` wrote.

    Raises:
        ValueError: It is something else.
    """
    try:
        version, wanted, expected, ttl_s, size = _REQUEST.unpack_from(message)
    except error:
        raise ValueError("a request is cut off") from None
    at = _REQUEST.size + size
    if version != VERSION or at > len(message):
        raise ValueError("a request is of another version, or cut off")
    key = message[_REQUEST.size : at].decode()
    return Request(
        Wanted(wanted),
        key,
        message[at:],
        None if expected < 0 else expected,
        ttl_s or None,
    )


def encode_told(told: Told) -> bytes:
    """Changes as they travel."""
    parts = [_TOLD.pack(VERSION, told.previous, told.revision, len(told.changes))]
    for change in told.changes:
        key = change.key.encode()
        value, expires_ns = b"", 0
        if isinstance(change, Entry):
            kind, value, expires_ns = _ENTRY, change.value, change.expires_ns or 0
        else:
            kind = _EXPIRED if change.expired else _DELETED
        parts += (_CHANGE.pack(kind, change.revision, expires_ns, len(key), len(value)), key, value)
    return b"".join(parts)


def decode_told(message: bytes) -> Told:
    """Read what `encode_told` wrote.

    Raises:
        ValueError: It is something else.
    """
    try:
        version, previous, revision, count = _TOLD.unpack_from(message)
        if version != VERSION:
            raise ValueError(f"changes of version {version}, and this is version {VERSION}")
        changes: list[Change] = []
        at = _TOLD.size
        for _ in range(count):
            kind, at_revision, expires_ns, key_size, size = _CHANGE.unpack_from(message, at)
            at += _CHANGE.size
            key = message[at : at + key_size].decode()
            value = message[at + key_size : at + key_size + size]
            at += key_size + size
            if kind == _ENTRY:
                changes.append(Entry(key, value, at_revision, expires_ns or None))
            else:
                changes.append(Deleted(key, at_revision, kind == _EXPIRED))
    except error:
        raise ValueError("changes are cut off") from None
    if at != len(message):
        raise ValueError("changes are cut off, or have more bytes than they say")
    return Told(previous, revision, changes)


def encode_answer(answer: Told | PlaneError | None) -> bytes:
    """An answer as it travels; ``None`` where another is the owner."""
    if answer is None:
        return bytes((VERSION, Outcome.NOT_OWNER))
    if isinstance(answer, PlaneError):
        head = _ERROR.pack(VERSION, Outcome.FAILED, answer.code.value)
        return head + answer.message.encode()
    return bytes((VERSION, Outcome.DONE)) + encode_told(answer)


def decode_answer(message: bytes) -> Told | PlaneError | None:
    """Read what `encode_answer` wrote.

    Raises:
        ValueError: It is something else.
    """
    if len(message) < 2 or message[0] != VERSION:
        raise ValueError("an answer is of another version, or cut off")
    outcome = Outcome(message[1])
    if outcome is Outcome.NOT_OWNER:
        return None
    if outcome is Outcome.FAILED:
        if len(message) < _ERROR.size:
            raise ValueError("an answer is cut off")
        return PlaneError(Code(message[2]), message[_ERROR.size :].decode())
    return decode_told(message[2:])
