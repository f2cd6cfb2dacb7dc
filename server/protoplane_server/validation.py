"""Checks that a request keeps the rules of its schema.

A request that came as JSON was checked while it was read. The wire format is decoded without
checking, so a message type that has rules anywhere in it is checked here, and one that has none
costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, cast

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message as PbMessage
from google.protobuf.unknown_fields import UnknownFieldSet

from protoplane_base import Message, MissingExtraError, violations
from protoplane_server.errors import bad_request

Check = Callable[[Any], None]
"""Raises `PlaneError` INVALID_ARGUMENT when a message breaks a rule."""

_RULES = 1159
"""Number of protovalidate's extension of message, field and oneof options."""


def check_of(codec: Any) -> Check | None:
    """What checks the messages of a codec; ``None`` where their type has no rules.

    Raises:
        MissingExtraError: It has rules, and ``protovalidate`` is not installed.
    """
    if not (isinstance(codec, type) and issubclass(codec, Message)):
        return None
    if not has_rules(codec.__pb__.DESCRIPTOR):
        return None
    try:
        import protovalidate  # noqa: F401  # pyright: ignore[reportUnusedImport]
    except ModuleNotFoundError as error:
        raise MissingExtraError("validate", f"checking the rules of {codec.__name__}") from error
    return _check


def has_rules(descriptor: Descriptor) -> bool:
    """Whether a message type, or one that it holds, has rules of protovalidate."""
    seen: set[str] = set()
    waiting = [descriptor]
    while waiting:
        current = waiting.pop()
        if current.full_name in seen:
            continue
        seen.add(current.full_name)
        if _carries_rules(current) or any(map(_carries_rules, current.oneofs)):
            return True
        for field in current.fields:
            if _carries_rules(field):
                return True
            if field.message_type is not None:
                waiting.append(field.message_type)
    return False


def _carries_rules(described: Any) -> bool:
    if not described.has_options:
        return False
    options = cast(PbMessage, described.GetOptions())
    if any(field.number == _RULES for field, _ in options.ListFields()):
        return True
    unknown: Iterable[Any] = UnknownFieldSet(options)  # type: ignore[assignment]
    return any(field.field_number == _RULES for field in unknown)


def _check(message: Message) -> None:
    broken = violations(message)
    if broken:
        raise bad_request(broken)
