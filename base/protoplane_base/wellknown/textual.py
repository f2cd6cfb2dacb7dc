"""A frozen value whose JSON form is one string or another form of its own."""

from __future__ import annotations

from functools import cache
from typing import Any, ClassVar, Self

from google.protobuf.message import Message as PbMessage
from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, TypeAdapter
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema
from pydantic_core import core_schema as cs

from protoplane_base import wire


class WellKnown:
    """What `Timestamp`, `Duration`, `FieldMask` and `Any` share: the interface of a message."""

    __slots__ = ()

    __pb__: ClassVar[type[PbMessage]]
    _json_schema: ClassVar[JsonSchemaValue]

    @classmethod
    def from_pb(cls, pb: Any) -> Self:
        """Read a protobuf object."""
        raise NotImplementedError

    def to_pb(self) -> Any:
        """Make a protobuf object."""
        raise NotImplementedError

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Read a parsed JSON value, or a Python value that stands for this type.

        Raises:
            ValueError: It does not stand for this type.
        """
        raise NotImplementedError

    def to_json(self) -> Any:
        """The JSON value.

        Raises:
            ValueError: This value has no JSON form.
        """
        raise NotImplementedError

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Decode the wire format.

        Raises:
            DecodeError: ``data`` is not a message of this type.
        """
        return cls.from_pb(wire.parse(cls.__pb__(), data))

    def to_bytes(self) -> bytes:
        """Encode in the wire format."""
        return wire.serialize(self.to_pb())

    @classmethod
    def model_validate_json(cls, json_data: str | bytes | bytearray, *, extra: Any = None) -> Self:
        """Read ProtoJSON; ``extra`` is as for a message.

        Raises:
            pydantic.ValidationError: The text is no JSON, or does not stand for this type.
        """
        value: Self = _adapter(_key(cls)).validate_json(json_data)
        return value

    def model_dump_json(self) -> str:
        """Write ProtoJSON."""
        return _adapter(_key(type(self))).dump_json(self).decode()

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        # In Python mode a dump keeps the value; pydantic would take a dataclass apart.
        as_it_is = cs.any_schema(serialization=cs.to_string_ser_schema(when_used="json"))
        return cs.no_info_before_validator_function(
            cls._validate,
            as_it_is,
            serialization=cs.plain_serializer_function_ser_schema(cls.to_json, when_used="json"),
            metadata={"pydantic_js_functions": [cls._get_json_schema]},
        )

    @classmethod
    def _validate(cls, value: Any) -> Self:
        return value if isinstance(value, cls) else cls.from_json(value)

    @classmethod
    def _get_json_schema(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return cls._json_schema


def _key(cls: Any) -> Any:
    # A class of frozen values hashes its instances, which type checkers take for its own hash.
    return cls


@cache
def _adapter(cls: Any) -> TypeAdapter[Any]:
    return TypeAdapter(cls)
