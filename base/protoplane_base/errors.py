"""One error tree for every plane, with the canonical codes of gRPC.

Source of the codes and of their HTTP and Connect names: the gRPC status code page
(https://grpc.io/docs/guides/status-codes/) and the Connect protocol's error table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any


class Code(IntEnum):
    """Canonical status codes; the numbers are those that gRPC puts on the wire."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16

    @property
    def http_status(self) -> int:
        """HTTP status that carries this code, after the Connect protocol's table."""
        return _HTTP_STATUS[self]

    @property
    def connect_name(self) -> str:
        """Name of this code in a Connect error body, for example ``invalid_argument``."""
        # The Connect protocol spells this one code the American way.
        return "canceled" if self is Code.CANCELLED else self.name.lower()


_HTTP_STATUS: dict[Code, int] = {
    Code.OK: 200,
    Code.CANCELLED: 499,
    Code.UNKNOWN: 500,
    Code.INVALID_ARGUMENT: 400,
    Code.DEADLINE_EXCEEDED: 504,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.PERMISSION_DENIED: 403,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.FAILED_PRECONDITION: 400,
    Code.ABORTED: 409,
    Code.OUT_OF_RANGE: 400,
    Code.UNIMPLEMENTED: 501,
    Code.INTERNAL: 500,
    Code.UNAVAILABLE: 503,
    Code.DATA_LOSS: 500,
    Code.UNAUTHENTICATED: 401,
}


class ProtoplaneError(Exception):
    """What every error of Protoplane's own derives from."""


class PlaneError(ProtoplaneError):
    """A call, a publication or a subscription failed.

    Args:
        code: What kind of failure it is.
        message: One sentence for a person: the value, the limit and the remedy.
        details: Messages that tell a program more, such as ``google.rpc.BadRequest``; each is a
            generated model or a protobuf message.
    """

    def __init__(self, code: Code, message: str, details: Sequence[Any] = ()) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details: tuple[Any, ...] = tuple(details)

    def __str__(self) -> str:
        return f"{self.code.name}: {self.message}"

    def __repr__(self) -> str:
        return f"PlaneError({self.code.name}, {self.message!r}, details={len(self.details)})"


class DecodeError(ProtoplaneError, ValueError):
    """Bytes are not a message of the type that was asked for."""


class EncodeError(ProtoplaneError, ValueError):
    """A model holds a value that its message cannot carry."""


class UnknownTypeError(ProtoplaneError, LookupError):
    """No generated package that has been imported declares a type of this name."""


class MissingExtraError(ProtoplaneError, ImportError):
    """A part of Protoplane that is installed on request is missing.

    Args:
        extra: The extra that brings it; the message names the install command.
        purpose: What wanted it.
    """

    def __init__(self, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs an extra: pip install 'protoplane[{extra}]'")
        self.extra = extra


@dataclass(frozen=True, slots=True)
class Violation:
    """One fault in a message that broke a rule of its schema.

    Attributes:
        path: Where it is: proto field names and indexes, for example ``("items", 2, "name")``.
        rule: Identifier of the rule, for example ``string.min_len``.
        message: What is wrong, for a person.
    """

    path: tuple[str | int, ...]
    rule: str
    message: str
