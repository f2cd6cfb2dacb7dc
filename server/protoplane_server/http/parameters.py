"""Values from a path or a query as ProtoJSON: pure, from text and a descriptor to a JSON document.

Source: the section "Rules for HTTP mapping" in google/api/http.proto.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from protoplane_base import PlaneError, Violation
from protoplane_server.errors import bad_request

_FLOATS = (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT)
_TRUTH = {"true": True, "1": True, "": True, "false": False, "0": False}
# Messages that ProtoJSON writes as one string.
_STRINGS = frozenset(f"google.protobuf.{name}" for name in ("Timestamp", "Duration", "FieldMask"))
# Wrappers stand in ProtoJSON for the value that they hold.
_WRAPPERS = frozenset(
    f"google.protobuf.{name}Value"
    for name in ("Bool", "Bytes", "Double", "Float", "Int32", "Int64", "String", "UInt32", "UInt64")
)


def descriptor_of(codec: Any) -> Descriptor:
    """Descriptor of the message that a codec reads and writes."""
    descriptor: Descriptor = codec.__pb__.DESCRIPTOR
    return descriptor


def fill(document: dict[str, Any], root: Descriptor, parameters: Iterable[tuple[str, str]]) -> None:
    """Put parameters into a ProtoJSON document of a message.

    Args:
        document: What is filled.
        root: Descriptor of the message.
        parameters: Path of a field (``a.b``, by proto or JSON name) and the text of its value. A
            repeated field may come many times.

    Raises:
        PlaneError: INVALID_ARGUMENT where no field has that name or its value cannot be text.
    """
    for path, text in parameters:
        target = document
        descriptor = root
        *parents, last = path.split(".")
        for name in parents:
            parent = _field(descriptor, name, path)
            if parent.message_type is None or parent.is_repeated or _wellknown(parent):
                raise _bad(path, f"{name} of {descriptor.full_name} has no fields of its own")
            inner: object = target.setdefault(parent.json_name, {})
            if not isinstance(inner, dict):
                raise _bad(path, f"the body already says that {name} is no message")
            target, descriptor = cast("dict[str, Any]", inner), parent.message_type
        field = _field(descriptor, last, path)
        value = _value(field, text, path)
        if field.is_repeated:
            values: object = target.setdefault(field.json_name, [])
            if not isinstance(values, list):
                raise _bad(path, f"the body already says that {last} is no list")
            target[field.json_name] = [*values, value]
        else:
            target[field.json_name] = value


def _field(descriptor: Descriptor, name: str, path: str) -> FieldDescriptor:
    field = descriptor.fields_by_name.get(name) or descriptor.fields_by_camelcase_name.get(name)
    if field is None:
        field = next((each for each in descriptor.fields if each.json_name == name), None)
    if field is None:
        raise _bad(path, f"{descriptor.full_name} has no field {name!r}")
    return field


def _wellknown(field: FieldDescriptor) -> bool:
    message = field.message_type
    return message is not None and message.full_name in _STRINGS | _WRAPPERS


def _value(field: FieldDescriptor, text: str, path: str) -> Any:
    message = field.message_type
    if message is not None:
        if message.full_name in _WRAPPERS:
            return _value(message.fields_by_name["value"], text, path)
        if message.full_name in _STRINGS:
            return text
        raise _bad(path, f"it is a {message.full_name}; name a field inside of it, {path}.…")
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        if text.lower() not in _TRUTH:
            raise _bad(path, f"{text!r} is neither true nor false")
        return _TRUTH[text.lower()]
    if field.cpp_type == FieldDescriptor.CPPTYPE_ENUM and text.lstrip("-").isdecimal():
        return int(text)
    if field.cpp_type in _FLOATS and text not in ("NaN", "Infinity", "-Infinity"):
        try:
            return float(text)
        except ValueError:
            raise _bad(path, f"{text!r} is no number") from None
    return text


def _bad(path: str, reason: str) -> PlaneError:
    return bad_request([Violation(tuple(path.split(".")), "parameter", reason)])
