"""The API that a set of schemas declares, as immutable values: what every renderer works from.

Nothing here knows of Python, JSON or any other target; names are those of the schema.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, TypeAlias

ScalarName: TypeAlias = Literal[
    "double", "float", "int32", "int64", "uint32", "uint64", "bool", "string", "bytes"
]
"""A scalar type; the encodings of one range (``sint32``, ``sfixed32``) are one type here."""

Presence: TypeAlias = Literal["implicit", "explicit", "required", "repeated", "map"]
"""How absence of a field works."""

Default: TypeAlias = bool | int | float | str | bytes | None


@dataclass(frozen=True, slots=True)
class Location:
    """Where something stands in a schema; ``line`` counts from one, 0 where it is not known."""

    file: str
    line: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


@dataclass(frozen=True, slots=True)
class Scalar:
    """A scalar type."""

    name: ScalarName


@dataclass(frozen=True, slots=True)
class MessageRef:
    """A message type by full name."""

    full_name: str


@dataclass(frozen=True, slots=True)
class EnumRef:
    """An enum type by full name."""

    full_name: str


ElementType: TypeAlias = Scalar | MessageRef | EnumRef


@dataclass(frozen=True, slots=True)
class Constraints:
    """Rules of a value that other type systems can say too; lengths count characters or bytes."""

    gt: int | float | None = None
    ge: int | float | None = None
    lt: int | float | None = None
    le: int | float | None = None
    min_length: int | None = None
    max_length: int | None = None
    pattern: str | None = None

    def __bool__(self) -> bool:
        return self != _UNCONSTRAINED

    def items(self) -> Iterator[tuple[str, int | float | str]]:
        """The constraints that are set, by name."""
        for name in self.__slots__:
            value = getattr(self, name)
            if value is not None:
                yield name, value


_UNCONSTRAINED = Constraints()


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a message.

    Attributes:
        name: Name in the schema.
        json_name: Name in JSON.
        number: Field number.
        type: Type of the value, of one element of a list, or of one value of a map.
        key: Type of a map's keys.
        presence: How absence works.
        oneof: Name of the oneof it is a member of; empty for none.
        default: Default of proto2 and editions where the schema gives one.
        constraints: Simple rules on the value, or on the list or map as a whole.
        element_constraints: Simple rules on each element of a list.
        doc: Comment.
        deprecated: Whether the schema deprecates it.
        location: Where it stands.
    """

    name: str
    json_name: str
    number: int
    type: ElementType
    presence: Presence
    location: Location
    key: Scalar | None = None
    oneof: str = ""
    default: Default = None
    constraints: Constraints = field(default_factory=Constraints)
    element_constraints: Constraints = field(default_factory=Constraints)
    doc: str = ""
    deprecated: bool = False


@dataclass(frozen=True, slots=True)
class EnumValue:
    """One name of an enum."""

    name: str
    number: int
    doc: str = ""
    deprecated: bool = False


@dataclass(frozen=True, slots=True)
class Enum:
    """An enum; ``path`` holds its name and those of the messages around it, outermost first."""

    full_name: str
    path: tuple[str, ...]
    values: tuple[EnumValue, ...]
    closed: bool
    location: Location
    doc: str = ""
    deprecated: bool = False


@dataclass(frozen=True, slots=True)
class Event:
    """The event option of a message."""

    key: str
    durable: bool


@dataclass(frozen=True, slots=True)
class Message:
    """A message.

    Attributes:
        full_name: For example ``forge.captioner.v1.CaptionRequest``.
        path: Its name and those of the messages around it, outermost first.
        fields: Fields in the order of the schema.
        oneofs: Names of its oneofs (not those that stand for ``optional``) in order.
        messages: Messages nested in it, map entries left out.
        enums: Enums nested in it.
        event: Its event option.
        checked: Whether it has rules that `Constraints` do not say.
        doc: Comment.
        deprecated: Whether the schema deprecates it.
        location: Where it stands.
    """

    full_name: str
    path: tuple[str, ...]
    fields: tuple[Field, ...]
    oneofs: tuple[str, ...]
    messages: tuple[Message, ...]
    enums: tuple[Enum, ...]
    location: Location
    event: Event | None = None
    checked: bool = False
    doc: str = ""
    deprecated: bool = False

    @property
    def name(self) -> str:
        """Its own name."""
        return self.path[-1]

    @property
    def has_rules(self) -> bool:
        """Whether the schema has any rule for it or for one of its fields."""
        return self.checked or any(f.constraints or f.element_constraints for f in self.fields)


@dataclass(frozen=True, slots=True)
class HttpRule:
    """One binding of ``google.api.http``."""

    verb: str
    path: str
    body: str = ""
    response_body: str = ""


@dataclass(frozen=True, slots=True)
class Method:
    """One rpc; ``idempotency`` is in lower case, as ``no_side_effects``."""

    name: str
    request: MessageRef
    response: MessageRef
    client_streaming: bool
    server_streaming: bool
    location: Location
    idempotency: str = "unknown"
    http: tuple[HttpRule, ...] = ()
    doc: str = ""
    deprecated: bool = False


@dataclass(frozen=True, slots=True)
class Service:
    """One service; ``component`` is its default component name, empty where it has none."""

    name: str
    full_name: str
    methods: tuple[Method, ...]
    location: Location
    component: str = ""
    doc: str = ""
    deprecated: bool = False


@dataclass(frozen=True, slots=True)
class File:
    """One schema file."""

    path: str
    package: str
    messages: tuple[Message, ...]
    enums: tuple[Enum, ...]
    services: tuple[Service, ...]
    doc: str = ""

    @property
    def declared(self) -> tuple[str, ...]:
        """Names of its top-level messages and enums."""
        return (*(m.name for m in self.messages), *(e.path[0] for e in self.enums))

    def all_messages(self) -> Iterator[Message]:
        """Every message, each before those nested in it."""
        pending = list(reversed(self.messages))
        while pending:
            message = pending.pop()
            yield message
            pending.extend(reversed(message.messages))

    def all_enums(self) -> Iterator[Enum]:
        """Every enum, top-level ones first."""
        yield from self.enums
        for message in self.all_messages():
            yield from message.enums


@dataclass(frozen=True)
class Api:
    """All files of a request, dependencies first.

    Attributes:
        files: Files by path, imports included.
        targets: Paths of the files to generate code for, in the order of their paths.
        borrowed: Paths of Google's common schemas that the targets use the messages of, and that
            nobody else generates models for.
        messages: Every message by full name, with the file that declares it.
        enums: Every enum by full name, with the file that declares it.
    """

    files: Mapping[str, File]
    targets: tuple[str, ...]
    borrowed: tuple[str, ...]
    messages: Mapping[str, tuple[File, Message]]
    enums: Mapping[str, tuple[File, Enum]]

    @cached_property
    def ruled(self) -> frozenset[str]:
        """Full names of the messages that have rules, or hold messages that have."""
        ruled = {name for name, (_, message) in self.messages.items() if message.has_rules}
        holders: dict[str, set[str]] = {}
        for name, (_, message) in self.messages.items():
            for held in message.fields:
                if isinstance(held.type, MessageRef):
                    holders.setdefault(held.type.full_name, set()).add(name)
        pending = list(ruled)
        while pending:
            new = holders.get(pending.pop(), set()) - ruled
            ruled |= new
            pending.extend(new)
        return frozenset(ruled)

    def packages(self) -> dict[str, tuple[File, ...]]:
        """Files to generate code for, by package, in order."""
        found: dict[str, list[File]] = {}
        for path in self.targets:
            file = self.files[path]
            found.setdefault(file.package, []).append(file)
        return {package: tuple(files) for package, files in sorted(found.items())}
