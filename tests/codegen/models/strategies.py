"""Random protobuf messages of any type, such that each has a JSON form."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from google.protobuf import any_pb2, struct_pb2, timestamp_pb2, wrappers_pb2
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message_factory import GetMessageClass
from hypothesis import strategies as st

Draw = Callable[[st.SearchStrategy[Any]], Any]

_F = FieldDescriptor
_INT32 = st.integers(-(2**31), 2**31 - 1) | st.sampled_from([0, 1, -1, 2**31 - 1, -(2**31)])
_INT64 = st.integers(-(2**63), 2**63 - 1) | st.sampled_from([2**53 + 1, 2**63 - 1, -(2**63)])
_UINT32 = st.integers(0, 2**32 - 1)
_UINT64 = st.integers(0, 2**64 - 1)
# One NaN only: JSON does not keep the others apart.
_NAN = st.just(math.nan)
_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
_SCALARS: dict[int, st.SearchStrategy[Any]] = {
    _F.TYPE_DOUBLE: st.floats(allow_nan=False) | _NAN,
    # json_format cannot read the shortest form of the very largest floats.
    _F.TYPE_FLOAT: st.floats(-(2.0**127), 2.0**127, width=32)
    | _NAN
    | st.sampled_from([math.inf, -math.inf]),
    _F.TYPE_INT32: _INT32,
    _F.TYPE_SINT32: _INT32,
    _F.TYPE_SFIXED32: _INT32,
    _F.TYPE_INT64: _INT64,
    _F.TYPE_SINT64: _INT64,
    _F.TYPE_SFIXED64: _INT64,
    _F.TYPE_UINT32: _UINT32,
    _F.TYPE_FIXED32: _UINT32,
    _F.TYPE_UINT64: _UINT64,
    _F.TYPE_FIXED64: _UINT64,
    _F.TYPE_BOOL: st.booleans(),
    _F.TYPE_STRING: _TEXT,
    _F.TYPE_BYTES: st.binary(max_size=8),
}
_JSON_NUMBER = st.floats(allow_nan=False, allow_infinity=False)
_JSON = st.recursive(
    st.none() | st.booleans() | _JSON_NUMBER | _TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
    max_leaves=5,
)
_NANOS = st.sampled_from([0, 0, 1, 10**6, 120_000, 999_999_999]) | st.integers(0, 10**9 - 1)
_PATH = st.lists(st.from_regex("[a-z]{1,4}(_[a-z]{1,3})?", fullmatch=True), min_size=1, max_size=2)


def message(kind: Any, *, depth: int = 2) -> st.SearchStrategy[Any]:
    """Messages of a protobuf class; ``depth`` limits how deep messages are nested."""
    return _message(kind.DESCRIPTOR, depth)


def _message(descriptor: Descriptor, depth: int) -> st.SearchStrategy[Any]:
    known = _WELL_KNOWN.get(descriptor.full_name)
    return known if known is not None else _composite(descriptor, depth)


@st.composite
def _composite(draw: Draw, descriptor: Descriptor, depth: int) -> Any:
    pb = GetMessageClass(descriptor)()
    wanted = [field for field in descriptor.fields if depth > 0 or _is_leaf(field)]
    some: list[FieldDescriptor] = []
    if wanted:
        some = draw(st.lists(st.sampled_from(wanted), max_size=6, unique=True))
    required = [field for field in descriptor.fields if field.is_required]
    for field in {field.number: field for field in [*some, *required]}.values():
        _fill(draw, pb, field, depth)
    return pb


def _is_leaf(field: FieldDescriptor) -> bool:
    return field.message_type is None or field.message_type.full_name in _WELL_KNOWN


def _fill(draw: Draw, pb: Any, field: FieldDescriptor, depth: int) -> None:
    entry = field.message_type
    if entry is not None and entry.GetOptions().map_entry:
        key, value = entry.fields_by_name["key"], entry.fields_by_name["value"]
        target = getattr(pb, field.name)
        pairs = st.dictionaries(_SCALARS[key.type], _element(value, depth), max_size=3)
        for name, item in draw(pairs).items():
            if value.message_type is not None:
                target[name].CopyFrom(item)
            else:
                target[name] = item
    elif field.is_repeated:
        getattr(pb, field.name).extend(draw(st.lists(_element(field, depth), max_size=3)))
    elif entry is not None:
        # SetInParent, as copying an empty message would leave the field absent.
        getattr(pb, field.name).SetInParent()
        getattr(pb, field.name).CopyFrom(draw(_element(field, depth)))
    else:
        setattr(pb, field.name, draw(_element(field, depth)))


def _element(field: FieldDescriptor, depth: int) -> st.SearchStrategy[Any]:
    if field.message_type is not None:
        return _message(field.message_type, depth - 1)
    if field.enum_type is not None:
        return _number(field.enum_type)
    return _SCALARS[field.type]


def _number(enum: EnumDescriptor) -> st.SearchStrategy[int]:
    named = st.sampled_from([value.number for value in enum.values])
    keeps_others = not enum.is_closed and enum.full_name != "google.protobuf.NullValue"
    return named | _INT32 if keeps_others else named


def _timestamp(seconds: int, nanos: int) -> timestamp_pb2.Timestamp:
    return timestamp_pb2.Timestamp(seconds=seconds, nanos=nanos)


def _duration(seconds: int, nanos: int, sign: int) -> Any:
    duration = _class("Duration")
    return duration(seconds=sign * seconds, nanos=sign * nanos)


def _value(value: Any) -> struct_pb2.Value:
    pb = struct_pb2.Value()
    match value:
        case None:
            pb.null_value = struct_pb2.NULL_VALUE
        case bool():
            pb.bool_value = value
        case float():
            pb.number_value = value
        case str():
            pb.string_value = value
        case dict():
            pb.struct_value.CopyFrom(_struct(value))
        case _:
            pb.list_value.CopyFrom(_list(value))
    return pb


def _struct(value: Any) -> struct_pb2.Struct:
    return struct_pb2.Struct(fields={key: _value(item) for key, item in value.items()})


def _list(value: Any) -> struct_pb2.ListValue:
    return struct_pb2.ListValue(values=[_value(item) for item in value])


def _packed(inner: Any) -> any_pb2.Any:
    pb = any_pb2.Any()
    pb.Pack(inner, deterministic=True)
    return pb


def _class(name: str) -> Any:
    from google.protobuf import duration_pb2, empty_pb2, field_mask_pb2

    for module in (duration_pb2, empty_pb2, field_mask_pb2, wrappers_pb2):
        if hasattr(module, name):
            return getattr(module, name)
    raise LookupError(name)


def _wrapper(name: str) -> st.SearchStrategy[Any]:
    kind = _class(name)
    values = _SCALARS[kind.DESCRIPTOR.fields_by_name["value"].type]
    return values.map(lambda value: kind(value=value))


_BY_NAME: dict[str, st.SearchStrategy[Any]] = {
    "Timestamp": st.builds(_timestamp, st.integers(-62_135_596_800, 253_402_300_799), _NANOS),
    "Duration": st.builds(
        _duration, st.integers(0, 315_575_999_999), _NANOS, st.sampled_from([1, -1])
    ),
    "FieldMask": st.lists(_PATH, max_size=3).map(
        lambda paths: _class("FieldMask")(paths=[".".join(path) for path in paths])
    ),
    "Empty": st.builds(_class("Empty")),
    "Value": _JSON.map(_value),
    "Struct": st.dictionaries(_TEXT, _JSON, max_size=3).map(_struct),
    "ListValue": st.lists(_JSON, max_size=3).map(_list),
    **{
        name: _wrapper(name)
        for name in [
            *("DoubleValue", "FloatValue", "Int64Value", "UInt64Value", "Int32Value"),
            *("UInt32Value", "BoolValue", "StringValue", "BytesValue"),
        ]
    },
}
# No Struct: what json_format packs again has the entries of a map in any order.
_PACKABLE = ("Timestamp", "Duration", "BytesValue", "Int64Value", "Empty")
_BY_NAME["Any"] = st.one_of(
    [st.builds(any_pb2.Any), *(_BY_NAME[name].map(_packed) for name in _PACKABLE)]
)
_WELL_KNOWN = {f"google.protobuf.{name}": found for name, found in _BY_NAME.items()}
