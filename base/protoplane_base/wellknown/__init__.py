"""The well-known types of ``google.protobuf``, with their own JSON forms.

Types that mean more than their fields (`Timestamp`, `Duration`, `FieldMask`, `Any`) are frozen
values; `Empty` is a message; a wrapper, a ``Struct``, a ``Value`` and a ``ListValue`` are plain
Python values with a codec class beside them.
"""

from protoplane_base.wellknown.any import Any
from protoplane_base.wellknown.empty import Empty
from protoplane_base.wellknown.fieldmask import FieldMask
from protoplane_base.wellknown.struct import (
    JsonArray,
    JsonObject,
    JsonValue,
    ListValue,
    NullValue,
    OptionalNull,
    OptionalValue,
    Struct,
    Value,
)
from protoplane_base.wellknown.time import Duration, Timestamp
from protoplane_base.wellknown.wrappers import (
    BoolValue,
    BytesValue,
    DoubleValue,
    FloatValue,
    Int32Value,
    Int64Value,
    StringValue,
    UInt32Value,
    UInt64Value,
)

__all__ = [
    "Any",
    "BoolValue",
    "BytesValue",
    "DoubleValue",
    "Duration",
    "Empty",
    "FieldMask",
    "FloatValue",
    "Int32Value",
    "Int64Value",
    "JsonArray",
    "JsonObject",
    "JsonValue",
    "ListValue",
    "NullValue",
    "OptionalNull",
    "OptionalValue",
    "StringValue",
    "Struct",
    "Timestamp",
    "UInt32Value",
    "UInt64Value",
    "Value",
]
