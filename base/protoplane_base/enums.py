"""Enums of a schema: integers with names, open or closed as the schema says.

An open enum (proto3, and editions by default) keeps numbers that it has no name for: they become
members called ``UNRECOGNIZED_<number>``. A closed enum (proto2) refuses them.
Source: https://protobuf.dev/programming-guides/enum/.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Any, Self, TypeVar

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, PydanticOmit, PydanticUseDefault
from pydantic_core import core_schema as cs

from protoplane_base.leniency import ignoring_unknown

_E = TypeVar("_E", bound="ProtoEnum")

_INT32 = range(-(2**31), 2**31)

ELEMENT = "protoplane_element"
"""Key of a core schema's metadata: makes the schema to use for an element of a list or a map."""


class ProtoEnum(IntEnum):
    """What every generated enum derives from; use `OpenEnum` or `ClosedEnum`.

    In JSON a member is its proto name, and its number where it has no name; both are read.
    """

    @property
    def proto_name(self) -> str:
        """Name in the schema; the same as ``name`` unless Python could not have it."""
        return _proto_name(type(self), self.name)

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: type[Self], handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return _schema(cls, on_unknown=PydanticUseDefault)

    @classmethod
    def element_schema(cls) -> CoreSchema:
        """Schema of an element of a list or a map, which is left out where it is unknown."""
        return _schema(cls, on_unknown=PydanticOmit)

    @classmethod
    def json_schema(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """JSON Schema of a member: its name, and where it may be so the number."""
        names = [_proto_name(cls, name) for name in cls.__members__]
        named: JsonSchemaValue = {"type": "string", "enum": names}
        if issubclass(cls, OpenEnum) or handler.mode == "validation":
            named = {"anyOf": [named, {"type": "integer", "format": "int32"}]}
        return {"title": cls.__name__, **named}


class OpenEnum(ProtoEnum):
    """An enum that keeps numbers it has no name for."""

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        if not isinstance(value, int) or isinstance(value, bool) or value not in _INT32:
            return None
        member = int.__new__(cls, value)
        member._name_ = f"UNRECOGNIZED_{value}".replace("-", "MINUS_")
        member._value_ = int(value)
        return member

    @property
    def is_recognized(self) -> bool:
        """Whether the schema has a name for this number."""
        return self.name in type(self).__members__


class ClosedEnum(ProtoEnum):
    """An enum that takes no number beside those it names."""


class NumberTable(dict[int, _E]):
    """Members by number; an open enum's unknown numbers are made on demand and not kept."""

    def __init__(self, enum: type[_E]) -> None:
        super().__init__({int(member): member for member in enum.__members__.values()})
        self._enum = enum

    def __missing__(self, number: int) -> _E:
        return self._enum(number)


class _NameTable(dict[str, Any]):
    """Members by proto name, for reading JSON."""

    def __init__(self, enum: type[ProtoEnum], on_unknown: type[Exception]) -> None:
        super().__init__((_proto_name(enum, name), m) for name, m in enum.__members__.items())
        self._enum = enum
        self._on_unknown = on_unknown

    def __missing__(self, name: str) -> Any:
        if ignoring_unknown():
            raise self._on_unknown
        raise _unknown(self._enum)


class _JsonTable(dict[Any, Any]):
    """What stands in JSON for each member: its name, or the number where it has none."""

    def __init__(self, enum: type[ProtoEnum]) -> None:
        super().__init__({int(m): m.proto_name for m in enum})

    def __missing__(self, member: int) -> int:
        return int(member)


def _proto_name(enum: type[ProtoEnum], name: str) -> str:
    renamed: dict[str, str] = getattr(enum, "__proto_names__", {})
    return renamed.get(name, name)


def _schema(enum: type[ProtoEnum], on_unknown: type[Exception]) -> CoreSchema:
    by_name = cs.no_info_plain_validator_function(_NameTable(enum, on_unknown).__getitem__)
    by_number = cs.no_info_plain_validator_function(_by_number(enum))
    low, high = _INT32.start, _INT32.stop - 1
    within = cs.int_schema(ge=low, le=high)
    spelled: list[CoreSchema | tuple[CoreSchema, str]] = [
        cs.chain_schema([cs.str_schema(strict=True), by_name]),
        # Strictly, True is no integer, and 1.0 is left to the next choice.
        cs.chain_schema([cs.int_schema(strict=True, ge=low, le=high), by_number]),
        cs.chain_schema([cs.float_schema(strict=True), within, by_number]),
    ]
    error: dict[str, Any] = {
        "mode": "left_to_right",
        "custom_error_type": "enum_name",
        "custom_error_message": f"expected {_expectation(enum)}",
    }
    return cs.json_or_python_schema(
        json_schema=cs.union_schema(spelled, **error),
        python_schema=cs.union_schema([cs.is_instance_schema(enum), *spelled], **error),
        serialization=cs.plain_serializer_function_ser_schema(
            _JsonTable(enum).__getitem__, when_used="json"
        ),
        metadata={
            "pydantic_js_functions": [enum.json_schema],
            ELEMENT: enum.element_schema,
        },
    )


def _by_number(enum: type[ProtoEnum]) -> Callable[[int], ProtoEnum]:
    table = NumberTable(enum)
    if issubclass(enum, OpenEnum):
        return table.__getitem__

    def member(number: int) -> ProtoEnum:
        try:
            return table[number]
        except ValueError as error:
            raise _unknown(enum) from error

    return member


def _unknown(enum: type[ProtoEnum]) -> PydanticCustomError:
    return PydanticCustomError("enum_name", "expected {what}", {"what": _expectation(enum)})


def _expectation(enum: type[ProtoEnum]) -> str:
    names = [_proto_name(enum, name) for name in enum.__members__]
    listed = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
    return f"a name or number of {enum.__name__}: {listed}"
