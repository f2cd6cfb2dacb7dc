"""``google.protobuf.Struct``, ``Value``, ``ListValue`` and ``NullValue``: JSON inside a message.

Numbers are doubles on the wire; one that is whole is an ``int`` in Python. ``None`` is JSON's null
inside lists and objects. A *field* of type ``Value`` that is ``None`` is absent; one that holds
null is `NullValue.NULL_VALUE`. Source: the comments of google/protobuf/struct.proto.
"""

from __future__ import annotations

from math import copysign, isfinite
from typing import Annotated, Any, ClassVar, TypeAlias, cast

import pydantic
from google.protobuf import struct_pb2
from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema
from pydantic_core import core_schema as cs

from protoplane_base.enums import OpenEnum
from protoplane_base.registry import register
from protoplane_base.wellknown.plain import PlainCodec


class NullValue(OpenEnum):
    """JSON's null as an enum; its JSON form is ``null``."""

    NULL_VALUE = 0

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return cs.union_schema(
            [_null_choice(), super().__get_pydantic_core_schema__(source, handler)],
            mode="left_to_right",
            custom_error_type="null_value",
            custom_error_message="expected null",
            serialization=cs.plain_serializer_function_ser_schema(_nothing, when_used="json"),
            metadata={"pydantic_js_functions": [_null_json_schema]},
        )


def _null_json_schema(schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
    return {"type": "null"}


def _nothing(value: object) -> None:
    return None


def _null_value(value: object) -> NullValue:
    return NullValue.NULL_VALUE


def _null_choice() -> CoreSchema:
    return cs.chain_schema(
        [
            cs.none_schema(),
            cs.no_info_plain_validator_function(_null_value),
        ]
    )


class _Json:
    """Any JSON value, read and written by pydantic-core."""

    def __init__(self, python_type: Any) -> None:
        self._python_type = python_type

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        schema = handler.generate_schema(self._python_type)
        return cs.no_info_after_validator_function(
            _same,
            schema,
            serialization=cs.plain_serializer_function_ser_schema(_finite, when_used="json"),
            metadata={"pydantic_js_functions": [_any_json_schema(self._python_type)]},
        )


def _same(value: Any) -> Any:
    return value


class _OptionalNull:
    """A field of type ``NullValue`` with presence: JSON's null sets it."""

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        null = handler.generate_schema(NullValue)
        return cs.json_or_python_schema(
            json_schema=null,
            python_schema=cs.nullable_schema(null),
            serialization=cs.plain_serializer_function_ser_schema(_finite, when_used="json"),
            metadata={"pydantic_js_functions": [_null_json_schema]},
        )


class _OptionalJson:
    """A field of type ``Value``: JSON's null is a value, absence is not."""

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        value = handler.generate_schema(JsonValue)
        is_null = cs.is_instance_schema(NullValue)
        return cs.json_or_python_schema(
            json_schema=cs.union_schema([_null_choice(), value], mode="left_to_right"),
            python_schema=cs.union_schema([cs.none_schema(), is_null, value], mode="left_to_right"),
            serialization=cs.plain_serializer_function_ser_schema(_finite, when_used="json"),
            metadata={"pydantic_js_functions": [_any_json_schema(None)]},
        )


def _any_json_schema(python_type: Any) -> Any:
    kinds: dict[Any, JsonSchemaValue] = {
        dict: {"type": "object", "additionalProperties": True},
        list: {"type": "array", "items": {}},
    }
    found = kinds.get(getattr(python_type, "__origin__", None), {})

    def json_schema(schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return dict(found)

    return json_schema


def _finite(value: Any) -> Any:
    """The value with `NullValue` as ``None``; NaN and infinity are no JSON."""
    match value:
        case float() if not isfinite(value):
            raise ValueError(f"{value} inside a google.protobuf.Value has no JSON form")
        case {**entries}:
            return {key: _finite(entry) for key, entry in entries.items()}
        case [*items]:
            return [_finite(item) for item in items]
        case NullValue():
            return None
        case _:
            return value


JsonValue: TypeAlias = Annotated[pydantic.JsonValue, _Json(pydantic.JsonValue)]
"""Any JSON value."""
JsonObject: TypeAlias = Annotated[
    dict[str, pydantic.JsonValue], _Json(dict[str, pydantic.JsonValue])
]
"""A JSON object: the Python value of a ``Struct``."""
JsonArray: TypeAlias = Annotated[list[pydantic.JsonValue], _Json(list[pydantic.JsonValue])]
"""A JSON array: the Python value of a ``ListValue``."""
OptionalValue: TypeAlias = Annotated[pydantic.JsonValue | NullValue, _OptionalJson()]
"""The Python value of a singular field of type ``Value``; ``None`` where it is absent."""
OptionalNull: TypeAlias = Annotated[NullValue | None, _OptionalNull()]
"""The Python value of a field of type ``NullValue`` that has presence."""


class Value(PlainCodec[Any]):
    """Codec of ``google.protobuf.Value``; its Python value is any JSON value."""

    __pb__: ClassVar = struct_pb2.Value
    _annotation: ClassVar = JsonValue

    @classmethod
    def from_pb(cls, pb: struct_pb2.Value, /) -> Any:
        """Read a protobuf value; one that is empty reads as null."""
        match pb.WhichOneof("kind"):
            case "number_value":
                return _number(pb.number_value)
            case "string_value":
                return pb.string_value
            case "bool_value":
                return pb.bool_value
            case "struct_value":
                return Struct.from_pb(pb.struct_value)
            case "list_value":
                return ListValue.from_pb(pb.list_value)
            case _:
                return None

    @staticmethod
    def from_optional_pb(pb: struct_pb2.Value, /) -> Any:
        """Read the value of a field that is present: null is `NullValue.NULL_VALUE`."""
        value = Value.from_pb(pb)
        return NullValue.NULL_VALUE if value is None else value

    @classmethod
    def to_pb(cls, value: Any, /) -> struct_pb2.Value:
        """Make a protobuf value."""
        if value is None or isinstance(value, NullValue):
            return struct_pb2.Value(null_value=struct_pb2.NULL_VALUE)
        if isinstance(value, bool):
            return struct_pb2.Value(bool_value=value)
        if isinstance(value, int | float):
            return struct_pb2.Value(number_value=value)
        if isinstance(value, str):
            return struct_pb2.Value(string_value=value)
        if isinstance(value, dict):
            return struct_pb2.Value(struct_value=Struct.to_pb(cast("dict[str, Any]", value)))
        return struct_pb2.Value(list_value=ListValue.to_pb(value))


class Struct(PlainCodec[dict[str, Any]]):
    """Codec of ``google.protobuf.Struct``; its Python value is a dict."""

    __pb__: ClassVar = struct_pb2.Struct
    _annotation: ClassVar = JsonObject

    @classmethod
    def from_pb(cls, pb: struct_pb2.Struct, /) -> dict[str, Any]:
        """Read a protobuf struct."""
        return {key: Value.from_pb(item) for key, item in pb.fields.items()}

    @classmethod
    def to_pb(cls, value: dict[str, Any], /) -> struct_pb2.Struct:
        """Make a protobuf struct."""
        return struct_pb2.Struct(fields={key: Value.to_pb(item) for key, item in value.items()})


class ListValue(PlainCodec[list[Any]]):
    """Codec of ``google.protobuf.ListValue``; its Python value is a list."""

    __pb__: ClassVar = struct_pb2.ListValue
    _annotation: ClassVar = JsonArray

    @classmethod
    def from_pb(cls, pb: struct_pb2.ListValue, /) -> list[Any]:
        """Read a protobuf list."""
        return [Value.from_pb(item) for item in pb.values]

    @classmethod
    def to_pb(cls, value: list[Any], /) -> struct_pb2.ListValue:
        """Make a protobuf list."""
        return struct_pb2.ListValue(values=[Value.to_pb(item) for item in value])


def _number(number: float) -> int | float:
    if not number.is_integer() or abs(number) >= 2**53:
        return number
    # Minus zero is no int.
    return int(number) if number or copysign(1.0, number) > 0 else number


register("google.protobuf.Value", Value)
register("google.protobuf.Struct", Struct)
register("google.protobuf.ListValue", ListValue)
