"""The wrappers of ``google/protobuf/wrappers.proto``: a scalar that can be absent.

A field of a wrapper type is ``int | None`` and the like; these codecs carry one alone, as the
request or reply of a method.
"""

from __future__ import annotations

from typing import Any, ClassVar, TypeVar

from google.protobuf import wrappers_pb2

from protoplane_base import scalars
from protoplane_base.registry import register
from protoplane_base.wellknown.plain import PlainCodec

_T = TypeVar("_T")


class _Wrapper(PlainCodec[_T]):
    @classmethod
    def from_pb(cls, pb: Any, /) -> _T:
        """Read a protobuf wrapper."""
        value: _T = pb.value
        return value

    @classmethod
    def to_pb(cls, value: _T, /) -> Any:
        """Make a protobuf wrapper."""
        return cls.__pb__(value=value)


class DoubleValue(_Wrapper[float]):
    """Codec of ``google.protobuf.DoubleValue``."""

    __pb__: ClassVar = wrappers_pb2.DoubleValue
    _annotation: ClassVar = scalars.Double


class FloatValue(_Wrapper[float]):
    """Codec of ``google.protobuf.FloatValue``."""

    __pb__: ClassVar = wrappers_pb2.FloatValue
    _annotation: ClassVar = scalars.Float


class Int64Value(_Wrapper[int]):
    """Codec of ``google.protobuf.Int64Value``."""

    __pb__: ClassVar = wrappers_pb2.Int64Value
    _annotation: ClassVar = scalars.Int64


class UInt64Value(_Wrapper[int]):
    """Codec of ``google.protobuf.UInt64Value``."""

    __pb__: ClassVar = wrappers_pb2.UInt64Value
    _annotation: ClassVar = scalars.UInt64


class Int32Value(_Wrapper[int]):
    """Codec of ``google.protobuf.Int32Value``."""

    __pb__: ClassVar = wrappers_pb2.Int32Value
    _annotation: ClassVar = scalars.Int32


class UInt32Value(_Wrapper[int]):
    """Codec of ``google.protobuf.UInt32Value``."""

    __pb__: ClassVar = wrappers_pb2.UInt32Value
    _annotation: ClassVar = scalars.UInt32


class BoolValue(_Wrapper[bool]):
    """Codec of ``google.protobuf.BoolValue``."""

    __pb__: ClassVar = wrappers_pb2.BoolValue
    _annotation: ClassVar = scalars.Bool


class StringValue(_Wrapper[str]):
    """Codec of ``google.protobuf.StringValue``."""

    __pb__: ClassVar = wrappers_pb2.StringValue
    _annotation: ClassVar = scalars.String


class BytesValue(_Wrapper[bytes]):
    """Codec of ``google.protobuf.BytesValue``."""

    __pb__: ClassVar = wrappers_pb2.BytesValue
    _annotation: ClassVar = scalars.Bytes


for _codec in (
    DoubleValue,
    FloatValue,
    Int64Value,
    UInt64Value,
    Int32Value,
    UInt32Value,
    BoolValue,
    StringValue,
    BytesValue,
):
    register(f"google.protobuf.{_codec.__name__}", _codec)
