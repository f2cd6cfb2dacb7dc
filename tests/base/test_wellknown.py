"""FieldMask, Any, Struct, Value, ListValue, NullValue and Empty."""

from __future__ import annotations

import math
from typing import Any as Anything

import pytest
from pydantic import ValidationError

from protoplane_base import (
    Any,
    DecodeError,
    Duration,
    Empty,
    FieldMask,
    Int64Value,
    ListValue,
    NullValue,
    StringValue,
    Struct,
    Timestamp,
    UnknownTypeError,
    Value,
    message_type,
)


def test_field_masks_are_lower_camel_case_in_json() -> None:
    mask = FieldMask.of(["user.display_name", "photo"])
    assert mask.model_dump_json() == '"user.displayName,photo"'
    assert FieldMask.model_validate_json('"user.displayName,photo"') == mask
    assert FieldMask.from_bytes(mask.to_bytes()) == mask
    assert FieldMask.model_validate_json('""') == FieldMask()
    assert FieldMask().model_dump_json() == '""'


@pytest.mark.parametrize("text", ['"display_name"', "[]", "1", "null"])
def test_what_is_no_field_mask(text: str) -> None:
    with pytest.raises(ValidationError, match="lower camel case"):
        FieldMask.model_validate_json(text)


@pytest.mark.parametrize("path", ["displayName", "foo__bar", "foo_3", "_"])
def test_paths_that_json_would_change_are_refused(path: str) -> None:
    with pytest.raises(ValueError, match="no JSON form"):
        FieldMask.of([path]).to_json()


def test_any_holds_a_message_beside_its_type() -> None:
    packed = Any.pack(Empty())
    assert packed.type_name == "google.protobuf.Empty"
    assert packed.unpack(Empty) == Empty()
    with pytest.raises(TypeError, match=r"holds a google\.protobuf\.Empty"):
        packed.unpack(Timestamp)
    with pytest.raises(TypeError, match="nothing"):
        Any().unpack(Timestamp)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Duration(1, 0), '"1s"'),
        (Timestamp(), '"1970-01-01T00:00:00Z"'),
        (FieldMask(("a_b",)), '"aB"'),
    ],
)
def test_well_known_types_in_an_any_stand_under_value(value: Anything, text: str) -> None:
    packed = Any.pack(value)
    url = f"type.googleapis.com/{value.__pb__.DESCRIPTOR.full_name}"
    assert packed.model_dump_json() == f'{{"@type":"{url}","value":{text}}}'
    assert Any.model_validate_json(packed.model_dump_json()) == packed
    assert packed.unpack(value.__class__) == value
    nested = Any.pack(packed)
    assert Any.model_validate_json(nested.model_dump_json()) == nested


def test_an_empty_message_in_an_any_is_written_like_any_other_and_read_in_both_forms() -> None:
    packed = Any.pack(Empty())
    bare = '{"@type":"type.googleapis.com/google.protobuf.Empty"}'
    assert packed.model_dump_json() == bare
    assert Any.model_validate_json(bare) == packed
    assert Any.model_validate_json(bare[:-1] + ',"value":{}}') == packed


def test_an_empty_any() -> None:
    assert Any.model_validate_json("{}") == Any()
    assert Any().model_dump_json() == "{}"


def test_an_any_of_an_unknown_type_says_what_to_do() -> None:
    with pytest.raises(ValidationError, match="import the generated package that declares it"):
        Any.model_validate_json('{"@type":"type.googleapis.com/no.such.Type"}')
    with pytest.raises(UnknownTypeError, match=r"no\.such\.Type"):
        Any("type.googleapis.com/no.such.Type", b"").to_json()
    with pytest.raises(UnknownTypeError, match=r"no\.such\.Type"):
        message_type("no.such.Type")
    with pytest.raises(DecodeError):
        Any("type.googleapis.com/google.protobuf.Duration", b"\xff").to_json()


@pytest.mark.parametrize(
    "text",
    [
        '{"value":1}',
        '{"@type":1}',
        '{"@type":""}',
        '{"@type":"google.protobuf.Duration","value":"1s"}',
        '{"@type":"type.googleapis.com/google.protobuf.Duration"}',
        '{"@type":"type.googleapis.com/google.protobuf.Duration","value":"1"}',
        '{"@type":"type.googleapis.com/google.protobuf.Duration","value":"1s","other":1}',
        '{"@type":"type.googleapis.com/google.protobuf.Empty","value":{"other":1}}',
        "[]",
        '"x"',
    ],
)
def test_what_is_no_any(text: str) -> None:
    with pytest.raises(ValidationError):
        Any.model_validate_json(text)


JSON = '{"a":null,"b":[1,2.5,"x",true,{}],"c":{"d":[]}}'


def test_json_inside_a_message() -> None:
    value = Struct.model_validate_json(JSON)
    assert value == {"a": None, "b": [1, 2.5, "x", True, {}], "c": {"d": []}}
    assert Struct.model_dump_json(value) == JSON
    assert Struct.from_bytes(Struct.to_bytes(value)) == value
    assert isinstance(Struct.from_bytes(Struct.to_bytes(value))["b"][0], int), "whole numbers"
    items = ListValue.model_validate_json("[null,[1]]")
    assert ListValue.from_bytes(ListValue.to_bytes(items)) == items == [None, [1]]


@pytest.mark.parametrize("text", ["null", "true", "1.5", "-0.0", "0", '"x"', "[1]", '{"a":1}'])
def test_values_of_every_kind(text: str) -> None:
    value = Value.model_validate_json(text)
    assert Value.model_dump_json(value) == text
    again = Value.from_bytes(Value.to_bytes(value))
    assert Value.model_dump_json(again) == text


def test_a_value_that_says_nothing_reads_as_null() -> None:
    assert Value.from_bytes(b"") is None
    assert Value.to_bytes(None) == Value.to_bytes(NullValue.NULL_VALUE) != b""


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_value_must_be_finite_in_json(number: float) -> None:
    with pytest.raises(ValueError, match="no JSON form"):
        Value.model_dump_json([number])


def test_objects_and_lists_are_told_apart() -> None:
    for codec, text in ((Struct, "[]"), (Struct, "1"), (ListValue, "{}"), (ListValue, "null")):
        with pytest.raises(ValidationError):
            codec.model_validate_json(text)


def test_bytes_of_another_type_are_refused_with_the_name_of_this_one() -> None:
    for codec, name in ((StringValue, "StringValue"), (Timestamp, "Timestamp"), (Empty, "Empty")):
        with pytest.raises(DecodeError, match=rf"1 bytes are not a google\.protobuf\.{name}"):
            codec.from_bytes(b"\xff")


def test_codecs_are_found_by_name() -> None:
    found: list[Anything] = [message_type(f"google.protobuf.{n}") for n in ("Int64Value", "Empty")]
    assert found == [Int64Value, Empty]
