"""JSON Schemas from descriptors, for messages that no generated document describes.

KServe's are such, and those of packages that were generated without OpenAPI. They have what a form
needs: names, types and oneofs, and none of the comments, which descriptors do not keep.
"""

from __future__ import annotations

from typing import Any, Final

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

_REF = "#/components/schemas/"
_WELL_KNOWN = "google.protobuf."
_DOUBLE: Final = {"anyOf": [{"type": "number"}, {"type": "string", "enum": ["NaN"]}]}
_LONG: Final = {"type": ["string", "integer"], "format": "int64"}
_SCALARS: Final[dict[int, dict[str, Any]]] = {
    FieldDescriptor.CPPTYPE_STRING: {"type": "string"},
    FieldDescriptor.CPPTYPE_BOOL: {"type": "boolean"},
    FieldDescriptor.CPPTYPE_INT32: {"type": "integer", "format": "int32"},
    FieldDescriptor.CPPTYPE_UINT32: {"type": "integer", "format": "uint32"},
    FieldDescriptor.CPPTYPE_INT64: _LONG,
    FieldDescriptor.CPPTYPE_UINT64: _LONG,
    FieldDescriptor.CPPTYPE_FLOAT: _DOUBLE,
    FieldDescriptor.CPPTYPE_DOUBLE: _DOUBLE,
}


def add_schemas(schemas: dict[str, Any], root: Descriptor) -> None:
    """Add those of a message and of all that it holds, where they are missing.

    Args:
        schemas: By full name; added to.
        root: The message.
    """
    waiting: list[Descriptor] = [root]
    while waiting:
        message = waiting.pop()
        if message.full_name in schemas or message.full_name.startswith(_WELL_KNOWN):
            continue
        schemas[message.full_name] = _message(message)
        for field in message.fields:
            if field.enum_type is not None:
                schemas.setdefault(field.enum_type.full_name, _enum(field.enum_type))
            if field.message_type is not None:
                waiting.append(field.message_type)


def _message(message: Descriptor) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {field.json_name: _field(field) for field in message.fields},
        "allOf": [
            {"oneOf": [{"required": [field.json_name]} for field in oneof.fields]}
            for oneof in message.oneofs
            if len(oneof.fields) > 1
        ],
    }


def _enum(enum: EnumDescriptor) -> dict[str, Any]:
    return {"type": "string", "enum": [value.name for value in enum.values]}


def _field(field: FieldDescriptor) -> dict[str, Any]:
    held = field.message_type
    if held is not None and held.GetOptions().map_entry:
        return {
            "type": "object",
            "additionalProperties": _single(held.fields_by_name["value"]),
        }
    single = _single(field)
    return {"type": "array", "items": single} if field.is_repeated else single


def _single(field: FieldDescriptor) -> dict[str, Any]:
    named = field.message_type or field.enum_type
    if named is not None:
        return {"$ref": _REF + named.full_name}
    if field.type == FieldDescriptor.TYPE_BYTES:
        return {"type": "string", "contentEncoding": "base64"}
    return _SCALARS[field.cpp_type]
