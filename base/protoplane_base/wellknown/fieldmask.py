"""``google.protobuf.FieldMask``: a set of paths to fields.

Source: the comments of google/protobuf/field_mask.proto.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from google.protobuf import field_mask_pb2
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import PydanticCustomError

from protoplane_base.registry import register
from protoplane_base.wellknown.textual import WellKnown

_CAPITAL = re.compile("[A-Z]")
_UNDERSCORED = re.compile("_([a-z])")


@dataclass(frozen=True, slots=True)
class FieldMask(WellKnown):
    """Paths such as ``user.display_name``; in JSON one string, ``"user.displayName,photo"``."""

    paths: tuple[str, ...] = ()

    __pb__: ClassVar = field_mask_pb2.FieldMask
    _json_schema: ClassVar[JsonSchemaValue] = {"type": "string", "format": "field-mask"}

    @classmethod
    def of(cls, paths: Iterable[str]) -> Self:
        """A mask of these paths, each in the spelling of the schema."""
        return cls(tuple(paths))

    @classmethod
    def from_pb(cls, pb: field_mask_pb2.FieldMask) -> Self:
        """Read a protobuf field mask."""
        return cls(tuple(pb.paths))

    def to_pb(self) -> field_mask_pb2.FieldMask:
        """Make a protobuf field mask."""
        return field_mask_pb2.FieldMask(paths=self.paths)

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Read a string of comma-separated paths in lower camel case.

        Raises:
            ValueError: It is no string, or a path has an underscore.
        """
        if not isinstance(value, str) or "_" in value:
            raise PydanticCustomError(
                "field_mask", 'expected paths in lower camel case such as "user.displayName,photo"'
            )
        if not value:
            return cls()
        return cls(tuple(_CAPITAL.sub(_underscored, path) for path in value.split(",")))

    def to_json(self) -> str:
        """The string of paths.

        Raises:
            ValueError: A path would not be read back as it is.
        """
        return ",".join(map(_camel, self.paths))

    def __str__(self) -> str:
        return ",".join(self.paths)


def _underscored(capital: re.Match[str]) -> str:
    return f"_{capital[0].lower()}"


def _camel(path: str) -> str:
    camel = _UNDERSCORED.sub(lambda match: match[1].upper(), path)
    if "_" in camel or _CAPITAL.search(path):
        raise ValueError(f"field mask path {path!r} has no JSON form that is read back the same")
    return camel


register("google.protobuf.FieldMask", FieldMask)
