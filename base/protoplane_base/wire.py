"""From protobuf objects to models and back: construction without validation, unknown fields.

What upb has parsed is already well typed, so a model made from it skips pydantic-core: its
``__dict__`` is set as it stands. Fields that the schema does not know ride along under a key of
``__dict__`` that no field can have, which pydantic neither dumps nor compares.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast

from google.protobuf import descriptor_pool as default_pool
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError as PbDecodeError
from google.protobuf.message import EncodeError as PbEncodeError
from google.protobuf.message import Message as PbMessage
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.unknown_fields import UnknownFieldSet
from pydantic import BaseModel

from protoplane_base.errors import DecodeError, EncodeError

if TYPE_CHECKING:
    from protoplane_base.message import Message

_M = TypeVar("_M", bound="Message")
_P = TypeVar("_P", bound=PbMessage)

UNKNOWN = "\0unknown"
"""Key of a model's ``__dict__`` that holds the bytes of fields its schema does not know."""

_new = object.__new__
_set = object.__setattr__
_set_fields_set = cast(
    "Callable[[object, object], None]", BaseModel.__dict__["__pydantic_fields_set__"].__set__
)
_set_extra = cast(
    "Callable[[object, object], None]", BaseModel.__dict__["__pydantic_extra__"].__set__
)
_set_private = cast(
    "Callable[[object, object], None]", BaseModel.__dict__["__pydantic_private__"].__set__
)

# Taken from a type, not from an instance: a field may be called SerializeToString. Every message of
# upb shares these methods, whatever their stubs say of Empty.
# Deterministic: entries of a map in the order of their keys, so that equal models give equal bytes.
_serialize = cast(
    "Callable[[PbMessage], bytes]", partial(Empty.SerializePartialToString, deterministic=True)
)
_parse = cast("Callable[[PbMessage, bytes], int]", Empty.ParseFromString)
_merge = cast("Callable[[PbMessage, bytes], int]", Empty.MergeFromString)
_list_fields = cast("Callable[[PbMessage], list[tuple[Any, Any]]]", Empty.ListFields)
_has_field = cast("Callable[[PbMessage, str], bool]", Empty.HasField)
_clear_field = cast("Callable[[PbMessage, str], None]", Empty.ClearField)


def construct(cls: type[_M], fields: dict[str, Any], pb: PbMessage) -> _M:
    """Make a model of ``fields`` as they stand, keeping what ``pb`` holds beyond them."""
    unknown = UnknownFieldSet(pb)
    model = _new(cls)
    _set_fields_set(model, set(fields))
    if len(unknown) or cls.__extendable__:
        rest = _remainder(pb)
        if rest:
            fields[UNKNOWN] = rest
    _set(model, "__dict__", fields)
    _set_extra(model, None)
    _set_private(model, None)
    return model


def twin(model: _M, values: dict[str, Any]) -> _M:
    """Make a model of the same class, with the same fields set, of other values."""
    other = _new(model.__class__)
    _set(other, "__dict__", values)
    _set_fields_set(other, model.__pydantic_fields_set__.copy())
    _set_extra(other, None)
    _set_private(other, None)
    return other


def restore(model: Message, pb: _P) -> _P:
    """Put the fields that the model's schema does not know back into ``pb``, and return it."""
    rest = model.__dict__.get(UNKNOWN)
    if rest is not None:
        _merge(pb, rest)
    return pb


def unknown_bytes(model: Message) -> bytes:
    """The encoded fields of ``model`` that its schema does not know, extensions among them."""
    rest: bytes = model.__dict__.get(UNKNOWN, b"")
    return rest


def parse(pb: _P, data: bytes) -> _P:
    """Read ``data`` into the empty message ``pb``.

    Raises:
        DecodeError: ``data`` is not a message of this type.
    """
    try:
        _parse(pb, data)
    except PbDecodeError as error:
        name = type(pb).DESCRIPTOR.full_name  # a field may be called DESCRIPTOR
        raise DecodeError(f"{len(data)} bytes are not a {name}: {error}") from error
    return pb


def serialize(pb: PbMessage) -> bytes:
    """Encode ``pb``; required fields of proto2 are the model's business, not checked again.

    Raises:
        EncodeError: protobuf refuses it, for its size or its depth.
    """
    try:
        return _serialize(pb)
    except PbEncodeError as error:
        raise EncodeError(f"{type(pb).DESCRIPTOR.full_name} cannot be encoded: {error}") from error


def has_field(pb: PbMessage) -> Callable[[str], bool]:
    """``pb.HasField``, also where a field of that name hides the method."""
    return partial(_has_field, pb)


def pb_class(full_name: str) -> Any:
    """The protobuf class of a message whose name Python code cannot write."""
    return GetMessageClass(default_pool.Default().FindMessageTypeByName(full_name))


def _remainder(pb: PbMessage) -> bytes:
    """Encode only what ``pb`` holds beyond its own fields: unknown fields and extensions."""
    copy = type(pb)()
    _merge(copy, _serialize(pb))
    for field, _ in _list_fields(copy):
        if not field.is_extension:
            _clear_field(copy, field.name)
    return _serialize(copy)
