"""What the schema says of a message that is an event: where it is filed and how long it lives."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from protoplane_base.errors import EncodeError

if TYPE_CHECKING:
    from protoplane_base.message import Message

_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True)
class KeyTemplate:
    """A key with placeholders, such as ``forge/captions/{request_id}``.

    Attributes:
        text: The template as the schema has it.
        names: Python name of each placeholder's field, by its name in the template; names that are
            missing stand for themselves.
    """

    text: str
    names: tuple[tuple[str, str], ...] = ()

    @cached_property
    def placeholders(self) -> tuple[str, ...]:
        """Names between braces, in order."""
        return tuple(_PLACEHOLDER.findall(self.text))

    def fault(self) -> str | None:
        """What is wrong with the template as a template, or ``None``."""
        if not self.text or self.text.startswith("/") or self.text.endswith("/"):
            return "a key is a path that neither starts nor ends with '/'"
        if "" in self.text.split("/"):
            return "a key has no empty segment"
        rest = _PLACEHOLDER.sub("", self.text)
        if "{" in rest or "}" in rest:
            return "its braces do not match"
        if "*" in rest:
            return "'*' belongs in a key expression, not in a key"
        return None

    def key(self, message: Message) -> str:
        """The key of a message.

        Raises:
            EncodeError: A field that the key names is absent, empty or holds a ``/``.
        """
        python_names = dict(self.names)

        def value(match: re.Match[str]) -> str:
            name = match[1]
            part: Any = getattr(message, python_names.get(name, name))
            text = getattr(part, "proto_name", None) or str(part)
            if part is None or not text or "/" in text or "*" in text:
                raise EncodeError(
                    f"the key {self.text!r} needs {name} to be one path segment, not {part!r}"
                )
            return text

        return _PLACEHOLDER.sub(value, self.text)


@dataclass(frozen=True)
class EventSpec:
    """The event option of a message.

    Attributes:
        key: Template of the key that it is published under.
        durable: Whether a publisher is told of success only once the event is in the log.
    """

    key: KeyTemplate
    durable: bool = False
