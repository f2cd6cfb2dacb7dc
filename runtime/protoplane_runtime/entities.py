"""Entities: what a call or an event is addressed to, an instance or a collection of them.

An entity has a path, for people and logs, and an id, for frames and tables. The path of a component
is its name, ``forge/captioner``; an instance adds its own, ``forge/captioner/1f3a9c20``. A
component, and every prefix of its path, is a collection: to ask it means to ask any of its
instances, to tell it means to tell them all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from hashlib import blake2b
from typing import Protocol, Self, TypeVar

from protoplane_base import Code, PlaneError

MAX_PATH_CHARS = 512
"""Longest path of an entity; it leaves room for what a key adds to it."""

_ID_BYTES = 16
_HEX = re.compile(r"[0-9a-f]{32}")
_FOREIGN = re.compile(r"[^A-Za-z0-9._-]")


@dataclass(frozen=True, slots=True, order=True)
class EntityId:
    """The 128 bits that name an entity: BLAKE2b-128 of its path.

    No key, salt or personalization goes into it, so any language computes the same one.
    Source: RFC 7693.

    Attributes:
        value: The 16 bytes.

    Raises:
        PlaneError: INVALID_ARGUMENT; ``value`` has another length.
    """

    value: bytes

    def __post_init__(self) -> None:
        if len(self.value) != _ID_BYTES:
            raise PlaneError(
                Code.INVALID_ARGUMENT,
                f"an entity id has {_ID_BYTES} bytes, and this one has {len(self.value)}",
            )

    @classmethod
    def of(cls, path: str) -> Self:
        """The id of the entity at a path.

        Raises:
            PlaneError: INVALID_ARGUMENT; it is no path.
        """
        check_path(path)
        return cls(blake2b(path.encode(), digest_size=_ID_BYTES).digest())

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what `str` writes.

        Raises:
            PlaneError: INVALID_ARGUMENT; it is not 32 hexadecimal digits in lower case.
        """
        if not _HEX.fullmatch(text):
            raise PlaneError(
                Code.INVALID_ARGUMENT,
                f"{_shown(text)} is no entity id; one has 32 hexadecimal digits in lower case",
            )
        return cls(bytes.fromhex(text))

    @property
    def hex(self) -> str:
        """32 hexadecimal digits in lower case."""
        return self.value.hex()

    def __str__(self) -> str:
        return self.value.hex()

    def __bytes__(self) -> bytes:
        return self.value


class EntityKind(Enum):
    """What an entity is; the path alone does not tell."""

    INSTANCE = "instance"
    COLLECTION = "collection"


class Named(Protocol):
    """What has the name of an instance, ``<component>/<id>``."""

    @property
    def name(self) -> str:
        """Its path."""
        ...


_N = TypeVar("_N", bound=Named)


@dataclass(frozen=True, slots=True)
class Entity:
    """An instance or a collection of them; entities of the same path and kind are the same.

    Attributes:
        path: Where it is.
        kind: Which of the two it is.
        name: What logs call it; the path unless given.
        id: Made of the path.

    Raises:
        PlaneError: INVALID_ARGUMENT; the path is none, or it is an instance of no component.
    """

    path: str
    kind: EntityKind = EntityKind.COLLECTION
    name: str = field(default="", compare=False)
    id: EntityId = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "id", EntityId.of(self.path))
        if not self.name:
            object.__setattr__(self, "name", self.path)
        if self.kind is EntityKind.INSTANCE and "/" not in self.path:
            raise PlaneError(
                Code.INVALID_ARGUMENT,
                f"{_shown(self.path)} names no instance; one looks like forge/captioner/1f3a9c20: "
                "the component, then the id",
            )

    @classmethod
    def instance(cls, path: str, *, name: str = "") -> Self:
        """The instance at a path."""
        return cls(path, EntityKind.INSTANCE, name)

    @classmethod
    def collection(cls, path: str, *, name: str = "") -> Self:
        """The component, or the collection of components, at a path."""
        return cls(path, EntityKind.COLLECTION, name)

    @property
    def parent(self) -> Entity | None:
        """The collection that it is directly in; ``None`` at the top."""
        above = self.path.rpartition("/")[0]
        return Entity(above) if above else None

    def contains(self, other: Entity) -> bool:
        """Whether another entity is this one, or somewhere in it; nothing is in an instance."""
        if self == other:
            return True
        return self.kind is EntityKind.COLLECTION and other.path.startswith(f"{self.path}/")

    def children(self, instances: Iterable[Named]) -> tuple[Entity, ...]:
        """What is directly in it, as far as some instances show; in the order of the paths."""
        start = len(self.path) + 1
        found: set[tuple[str, EntityKind]] = set()
        for instance in matching(self, instances):
            segment, slash, _ = instance.name[start:].partition("/")
            if segment:
                kind = EntityKind.COLLECTION if slash else EntityKind.INSTANCE
                found.add((f"{self.path}/{segment}", kind))
        return tuple(Entity(path, kind) for path, kind in sorted(found, key=_path))

    def __str__(self) -> str:
        return self.name


def matching(entity: Entity, instances: Iterable[_N]) -> list[_N]:
    """Which instances an entity means, in the order given: that one, or all in the collection."""
    if entity.kind is EntityKind.INSTANCE:
        return [instance for instance in instances if instance.name == entity.path]
    below = f"{entity.path}/"
    return [instance for instance in instances if instance.name.startswith(below)]


def check_path(path: str) -> None:
    """Make sure that a text is the path of an entity: segments of ``A-Z a-z 0-9 . _ -``.

    Raises:
        PlaneError: INVALID_ARGUMENT with what is wrong.
    """
    fault = _fault(path)
    if fault is not None:
        raise PlaneError(Code.INVALID_ARGUMENT, f"{_shown(path)} is no path of an entity: {fault}")


def _fault(path: str) -> str | None:
    if not path:
        return "it is empty; one looks like forge/captioner"
    if len(path) > MAX_PATH_CHARS:
        return f"it has {len(path)} characters, and {MAX_PATH_CHARS} are the most"
    for segment in path.split("/"):
        if not segment:
            return "it has an empty segment; there is one '/' between names, and none at the ends"
        if segment in (".", ".."):
            return f"{segment!r} is no name: nothing here is relative"
        foreign = _FOREIGN.search(segment)
        if foreign:
            return f"it holds {foreign[0]!r}; names are made of letters, digits, '.', '_' and '-'"
    return None


def _path(found: tuple[str, EntityKind]) -> tuple[str, str]:
    return found[0], found[1].value


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")
