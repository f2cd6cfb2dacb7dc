"""``google.protobuf.Any``: a message of any type, with the name of that type.

Source: the comments of google/protobuf/any.proto.
"""

from __future__ import annotations

import json
import typing
from dataclasses import dataclass
from typing import ClassVar, Self, TypeVar, cast

from google.protobuf import any_pb2
from pydantic import ValidationError
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import PydanticCustomError

from protoplane_base.errors import UnknownTypeError
from protoplane_base.leniency import ignoring_unknown
from protoplane_base.registry import message_type, register
from protoplane_base.wellknown.textual import WellKnown

if typing.TYPE_CHECKING:
    from protoplane_base.message import Message

_T = TypeVar("_T", bound="Message | WellKnown")

_PREFIX = "type.googleapis.com/"
# Types whose JSON is not an object of their fields stand under "value" (ProtoJSON).
_WRAPPED = frozenset(
    f"google.protobuf.{name}"
    for name in [
        *("Any", "Duration", "FieldMask", "Timestamp"),
        *("Struct", "Value", "ListValue"),
        *("BoolValue", "BytesValue", "DoubleValue", "FloatValue", "StringValue"),
        *("Int32Value", "Int64Value", "UInt32Value", "UInt64Value"),
    ]
)


_EMPTY = "google.protobuf.Empty"


@dataclass(frozen=True, slots=True)
class Any(WellKnown):
    """An encoded message and a URL whose last segment names its type.

    JSON has the message's own fields beside ``@type``, so the type must be known: the generated
    package that declares it must have been imported.
    """

    type_url: str = ""
    value: bytes = b""

    __pb__: ClassVar = any_pb2.Any
    _json_schema: ClassVar[JsonSchemaValue] = {
        "type": "object",
        "properties": {"@type": {"type": "string"}},
        "additionalProperties": True,
    }

    @classmethod
    def pack(cls, message: Message | WellKnown) -> Self:
        """Encode a message."""
        full_name = type(message).__pb__.DESCRIPTOR.full_name
        return cls(_PREFIX + full_name, message.to_bytes())

    def unpack(self, message_type: type[_T]) -> _T:
        """Decode the message.

        Raises:
            TypeError: It is of another type.
            DecodeError: The bytes are not of the type they are said to be.
        """
        full_name = message_type.__pb__.DESCRIPTOR.full_name
        if self.type_name != full_name:
            raise TypeError(f"this Any holds a {self.type_name or 'nothing'}, not a {full_name}")
        return cast("_T", message_type.from_bytes(self.value))

    @property
    def type_name(self) -> str:
        """Full name of the message's type."""
        return self.type_url.rpartition("/")[2]

    @classmethod
    def from_pb(cls, pb: any_pb2.Any) -> Self:
        """Read a protobuf Any."""
        return cls(pb.type_url, pb.value)

    def to_pb(self) -> any_pb2.Any:
        """Make a protobuf Any."""
        return any_pb2.Any(type_url=self.type_url, value=self.value)

    @classmethod
    def from_json(cls, value: typing.Any) -> Self:
        """Read an object with ``@type``.

        Raises:
            ValueError: It is no such object, its type is not known, or its fields do not fit.
        """
        if not isinstance(value, dict):
            raise PydanticCustomError("any", 'expected an object with "@type"')
        content = cast("dict[str, typing.Any]", dict(cast("typing.Any", value)))
        if not content:
            return cls()
        url = content.pop("@type", None)
        if not isinstance(url, str) or "/" not in url:
            raise PydanticCustomError(
                "any", 'expected "@type": a type URL such as type.googleapis.com/package.Message'
            )
        name = url.rpartition("/")[2]
        if name in _WRAPPED:
            rest = content.keys() - {"value"}
            if "value" not in content or (rest and not ignoring_unknown()):
                raise PydanticCustomError("any", 'expected only "value" beside "@type"')
            content = content["value"]
        elif name == _EMPTY and content.keys() == {"value"}:
            # Go writes it so; C++, Java and Python write it as any other message.
            content = content["value"]
        extra = "ignore" if ignoring_unknown() else None
        try:
            codec = message_type(name)
            inner = codec.model_validate_json(json.dumps(content), extra=extra)
        except UnknownTypeError as error:
            raise PydanticCustomError("any", "{why}", {"why": str(error)}) from error
        except ValidationError as error:
            raise ValidationError.from_exception_data(
                error.title,
                [
                    {
                        "type": PydanticCustomError("any", "{why}", {"why": detail["msg"]}),
                        "loc": detail["loc"],
                        "input": detail["input"],
                    }
                    for detail in error.errors()
                ],
            ) from error
        return cls(url, codec.to_bytes(inner))

    def to_json(self) -> dict[str, typing.Any]:
        """The message's JSON object with ``@type`` added.

        Raises:
            UnknownTypeError: No imported package declares the type.
            DecodeError: The bytes are not of the type they are said to be.
        """
        if not self.type_url:
            return {}
        codec = message_type(self.type_name)
        content = json.loads(codec.model_dump_json(codec.from_bytes(self.value)))
        if self.type_name in _WRAPPED:
            content = {"value": content}
        return {"@type": self.type_url, **content}


register("google.protobuf.Any", Any)
