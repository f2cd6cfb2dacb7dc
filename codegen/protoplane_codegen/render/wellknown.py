"""JSON Schemas of the types of ``google.protobuf`` whose JSON is not an object of their fields.

Each says what `protoplane_base.wellknown` writes, and reads back without a second spelling.
Source: https://protobuf.dev/programming-guides/json/.
"""

from __future__ import annotations

from collections.abc import Mapping

from protoplane_codegen.api import ScalarName
from protoplane_codegen.render.values import JsonSchema, scalar_schema

_PREFIX = "google.protobuf."

_WRAPPED: Mapping[str, ScalarName] = {
    "BoolValue": "bool",
    "BytesValue": "bytes",
    "DoubleValue": "double",
    "FloatValue": "float",
    "Int32Value": "int32",
    "Int64Value": "int64",
    "StringValue": "string",
    "UInt32Value": "uint32",
    "UInt64Value": "uint64",
}

WRAPPERS = frozenset(_PREFIX + name for name in _WRAPPED)
"""Full names of the wrappers: a field of such a type is a scalar or null."""

TEXTUAL = frozenset(_PREFIX + name for name in ("Duration", "FieldMask", "Timestamp"))
"""Full names of the messages whose JSON is one string."""

WELL_KNOWN: Mapping[str, JsonSchema] = {
    _PREFIX + "Any": {
        "title": "Any",
        "description": "A message of any type: its type URL and, beside it, its own JSON; the "
        "JSON of a type that is no object of fields stands under `value`.",
        "type": "object",
        "properties": {"@type": {"type": "string", "pattern": "/"}},
        # An empty Any has no type and is written as an empty object.
        "if": {"minProperties": 1},
        "then": {"required": ["@type"]},
        "additionalProperties": True,
    },
    _PREFIX + "Duration": {
        "title": "Duration",
        "description": "A signed span of time: seconds with up to nine digits after the point, "
        "and the letter s.",
        "type": "string",
        # No `format`: JSON Schema's `duration` is that of ISO 8601, which this is not.
        "pattern": r"^-?[0-9]{1,12}(?:\.[0-9]{1,9})?s$",
    },
    _PREFIX + "FieldMask": {
        "title": "FieldMask",
        "description": "Paths to fields in lower camel case, separated by commas.",
        "type": "string",
        "pattern": "^[^_]*$",
    },
    _PREFIX + "ListValue": {"title": "ListValue", "description": "A JSON array.", "type": "array"},
    _PREFIX + "NullValue": {"title": "NullValue", "description": "JSON's null.", "type": "null"},
    _PREFIX + "Struct": {
        "title": "Struct",
        "description": "A JSON object.",
        "type": "object",
        "additionalProperties": True,
    },
    _PREFIX + "Timestamp": {
        "title": "Timestamp",
        "description": "A point in time in the years 1 to 9999, after RFC 3339, with up to nine "
        "digits of a second.",
        "type": "string",
        "format": "date-time",
        "pattern": r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,9})?"
        "(?:Z|[+-][0-9]{2}:[0-9]{2})$",
    },
    _PREFIX + "Value": {"title": "Value", "description": "Any JSON value."},
    **{
        _PREFIX + name: {"title": name, **scalar_schema(scalar)}
        for name, scalar in _WRAPPED.items()
    },
}
"""Schema by full name."""
