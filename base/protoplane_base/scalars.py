"""Scalar types of protobuf as annotations, with the ProtoJSON mapping in pydantic-core schemas.

Each type is an alias such as ``Int64 = Annotated[int, ...]``: a type checker sees the Python type,
pydantic-core gets a schema that runs in Rust. Source: https://protobuf.dev/programming-guides/json/.
"""

from __future__ import annotations

from binascii import Error as Base64Error
from binascii import a2b_base64, b2a_base64
from dataclasses import dataclass
from functools import partial
from math import isfinite
from struct import Struct
from typing import Annotated, Any, TypeAlias

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError
from pydantic_core import core_schema as cs

DECIMAL = r"^-?(?:0|[1-9][0-9]*)(?:\.0+)?$"
"""A whole number as a string of JSON."""
_EXPONENT = r"^-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?[eE][+-]?[0-9]+$"
_NUMBER = r"^-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?$"
_NOT_FINITE = ["NaN", "Infinity", "-Infinity"]
_FLOAT32 = Struct("<f")
_FLOAT32_MAX = 3.4028234663852886e38
# A float half a step above the largest one still rounds down to it.
_FLOAT32_LIMIT = 3.4028235677973362e38


@dataclass(frozen=True, slots=True)
class _Scalar:
    name: str

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return self.json_schema(handler.mode)

    def json_schema(self, mode: str) -> JsonSchemaValue:
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class IntegerType(_Scalar):
    """An integer of 32 or 64 bits; 64-bit ones are decimal strings in JSON, so none loses digits.

    Reads numbers, numbers with an empty fraction and decimal strings; ``True`` is no integer.
    """

    low: int
    high: int

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        within = cs.int_schema(ge=self.low, le=self.high)
        return cs.union_schema(
            [
                cs.int_schema(strict=True, ge=self.low, le=self.high),
                cs.chain_schema([cs.str_schema(strict=True, pattern=DECIMAL), within]),
                cs.chain_schema([cs.float_schema(strict=True), within]),
                cs.chain_schema(
                    [cs.str_schema(strict=True, pattern=_EXPONENT), cs.float_schema(), within]
                ),
            ],
            mode="left_to_right",
            custom_error_type=self.name,
            custom_error_message=f"expected {self.name}: a whole number from "
            f"{self.low} to {self.high}, or such a number as a string",
            serialization=cs.to_string_ser_schema(when_used="json") if self.is_wide else None,
        )

    @property
    def is_wide(self) -> bool:
        """Whether JSON carries it as a string."""
        return self.name.endswith("64")

    def json_schema(self, mode: str) -> JsonSchemaValue:
        """JSON Schema for reading (``validation``) or writing (``serialization``)."""
        text: JsonSchemaValue = {"type": "string", "format": self.name}
        if not self.is_wide:
            return {
                "type": "integer",
                "format": self.name,
                "minimum": self.low,
                "maximum": self.high,
            }
        if mode == "serialization":
            return text
        return {"anyOf": [text, {"type": "integer", "format": self.name}]}


@dataclass(frozen=True, slots=True)
class FloatType(_Scalar):
    """A float of 32 or 64 bits; ``NaN``, ``Infinity`` and ``-Infinity`` are strings in JSON."""

    limit: float

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        finite = cs.float_schema(allow_inf_nan=False, ge=-self.limit, le=self.limit)
        strict = cs.float_schema(strict=True, allow_inf_nan=False, ge=-self.limit, le=self.limit)
        texts: list[CoreSchema | tuple[CoreSchema, str]] = [
            cs.chain_schema([cs.str_schema(strict=True, pattern=_NUMBER), finite]),
            cs.chain_schema([cs.literal_schema(_NOT_FINITE), cs.float_schema()]),
        ]
        error: dict[str, Any] = {
            "mode": "left_to_right",
            "custom_error_type": self.name,
            "custom_error_message": f"expected {self.name}: a number of at most {self.limit:.8g} "
            'in size, or "NaN", "Infinity", "-Infinity"',
        }
        return cs.json_or_python_schema(
            json_schema=cs.union_schema([strict, *texts], **error),
            python_schema=cs.union_schema(
                [
                    strict,
                    cs.no_info_after_validator_function(_not_finite, cs.float_schema(strict=True)),
                    *texts,
                ],
                **error,
            ),
            serialization=cs.plain_serializer_function_ser_schema(
                shortest_float32, when_used="json", return_schema=cs.float_schema()
            )
            if self.name == "float"
            else None,
        )

    def json_schema(self, mode: str) -> JsonSchemaValue:
        """JSON Schema; the same for reading and writing."""
        return {
            "anyOf": [
                {"type": "number", "format": self.name},
                {"type": "string", "enum": _NOT_FINITE},
            ]
        }


@dataclass(frozen=True, slots=True)
class _BoolType(_Scalar):
    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return cs.bool_schema(strict=True)

    def json_schema(self, mode: str) -> JsonSchemaValue:
        return {"type": "boolean"}


@dataclass(frozen=True, slots=True)
class _StringType(_Scalar):
    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return cs.str_schema(strict=True)

    def json_schema(self, mode: str) -> JsonSchemaValue:
        return {"type": "string"}


@dataclass(frozen=True, slots=True)
class _BytesType(_Scalar):
    """Bytes; in JSON standard base64 with padding, read in either alphabet and without it too."""

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return cs.union_schema(
            [
                cs.chain_schema(
                    [cs.str_schema(strict=True), cs.no_info_plain_validator_function(from_base64)]
                ),
                # A bytes schema would take any string of JSON.
                cs.is_instance_schema(bytes),
            ],
            mode="left_to_right",
            custom_error_type="bytes",
            custom_error_message="expected bytes, or a base64 string",
            serialization=cs.plain_serializer_function_ser_schema(
                partial(b2a_base64, newline=False),
                when_used="json",
                return_schema=cs.bytes_schema(),
            ),
        )

    def json_schema(self, mode: str) -> JsonSchemaValue:
        return {"type": "string", "format": "byte", "contentEncoding": "base64"}


def _not_finite(value: float) -> float:
    if isfinite(value):
        raise ValueError(value)
    return value


_URL_SAFE = str.maketrans("-_", "+/")


def from_base64(text: str) -> bytes:
    """Decode base64 of the standard or the URL-safe alphabet, with or without padding."""
    body = text.rstrip("=").translate(_URL_SAFE)
    try:
        return a2b_base64(body + "=" * (-len(body) % 4), strict_mode=True)
    except (Base64Error, ValueError) as error:
        raise PydanticCustomError("base64", "expected base64") from error


def shortest_float32(value: float) -> float:
    """The float with the fewest decimal digits that is the same number in 32 bits."""
    if not isfinite(value) or abs(value) > _FLOAT32_MAX:
        return value
    packed = _FLOAT32.pack(value)
    for digits in (6, 7, 8):
        candidate = float(f"{value:.{digits}g}")
        if abs(candidate) <= _FLOAT32_MAX and _FLOAT32.pack(candidate) == packed:
            return candidate
    return float(f"{value:.9g}")


Int32: TypeAlias = Annotated[int, IntegerType("int32", -(2**31), 2**31 - 1)]
"""``int32``, ``sint32`` and ``sfixed32``."""
Int64: TypeAlias = Annotated[int, IntegerType("int64", -(2**63), 2**63 - 1)]
"""``int64``, ``sint64`` and ``sfixed64``."""
UInt32: TypeAlias = Annotated[int, IntegerType("uint32", 0, 2**32 - 1)]
"""``uint32`` and ``fixed32``."""
UInt64: TypeAlias = Annotated[int, IntegerType("uint64", 0, 2**64 - 1)]
"""``uint64`` and ``fixed64``."""
Float: TypeAlias = Annotated[float, FloatType("float", _FLOAT32_LIMIT)]
"""``float``: 32 bits on the wire; JSON has the shortest number that gives those bits."""
Double: TypeAlias = Annotated[float, FloatType("double", 1.7976931348623157e308)]
"""``double``."""
Bool: TypeAlias = Annotated[bool, _BoolType("bool")]
"""``bool``."""
String: TypeAlias = Annotated[str, _StringType("string")]
"""``string``."""
Bytes: TypeAlias = Annotated[bytes, _BytesType("bytes")]
"""``bytes``."""
