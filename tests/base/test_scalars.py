"""Scalars in ProtoJSON, through the codecs of the wrapper types."""

from __future__ import annotations

import json
import math
import struct
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from protoplane_base import (
    Bool,
    BoolValue,
    BytesValue,
    Double,
    DoubleValue,
    Float,
    FloatValue,
    Int32,
    Int32Value,
    Int64Value,
    Map,
    StringValue,
    UInt32Value,
    UInt64Value,
)

LIMITS: list[tuple[Any, int, int]] = [
    (Int32Value, -(2**31), 2**31 - 1),
    (UInt32Value, 0, 2**32 - 1),
    (Int64Value, -(2**63), 2**63 - 1),
    (UInt64Value, 0, 2**64 - 1),
]


@pytest.mark.parametrize(("codec", "low", "high"), LIMITS)
def test_integers_are_read_as_numbers_and_strings_up_to_their_limits(
    codec: Any, low: int, high: int
) -> None:
    for limit in (low, high):
        assert codec.model_validate_json(str(limit)) == limit
        assert codec.model_validate_json(f'"{limit}"') == limit
        assert codec.from_bytes(codec.to_bytes(limit)) == limit
    for beyond in (low - 1, high + 1):
        for text in (str(beyond), f'"{beyond}"'):
            with pytest.raises(ValidationError, match="whole number from"):
                codec.model_validate_json(text)


@pytest.mark.parametrize(("codec", "low", "high"), LIMITS)
def test_only_wide_integers_are_written_as_strings(codec: Any, low: int, high: int) -> None:
    wide = high > 2**32
    assert codec.model_dump_json(high) == (f'"{high}"' if wide else str(high))


@pytest.mark.parametrize(("codec", "low", "high"), LIMITS)
def test_whole_numbers_in_other_spellings_are_read(codec: Any, low: int, high: int) -> None:
    for text in ("1.0", "1e5", '"1e5"', '"1.0"', "100000.000", '"10.0e4"'):
        assert codec.model_validate_json(text) in {1, 100_000}


@pytest.mark.parametrize("codec", [codec for codec, *_ in LIMITS])
@pytest.mark.parametrize(
    "text", ["true", "1.5", '"1.5"', '""', '" 1"', '"1 "', '"0x1"', '"1_0"', '"+1"', "[]", "{}"]
)
def test_what_is_no_integer(codec: Any, text: str) -> None:
    with pytest.raises(ValidationError):
        codec.model_validate_json(text)


@pytest.mark.parametrize("codec", [DoubleValue, FloatValue])
@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, 0.0, -0.0, 1.5, -2.25, 1e30])
def test_floats_round_trip(codec: Any, value: float) -> None:
    text = codec.model_dump_json(value)
    for again in (codec.model_validate_json(text), codec.from_bytes(codec.to_bytes(value))):
        assert again == pytest.approx(value, nan_ok=True)
        assert math.copysign(1, again) == math.copysign(1, value)


@pytest.mark.parametrize(
    ("value", "text"),
    [(math.inf, '"Infinity"'), (-math.inf, '"-Infinity"'), (math.nan, '"NaN"'), (-0.0, "-0.0")],
)
def test_floats_that_json_has_no_number_for(value: float, text: str) -> None:
    assert DoubleValue.model_dump_json(value) == text
    assert FloatValue.model_dump_json(value) == text


@pytest.mark.parametrize("alias", [Double, Float])
@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, -0.0, 1, 2.5, "NaN", "-Infinity"])
def test_floats_in_python(alias: Any, value: Any) -> None:
    read = TypeAdapter(alias).validate_python(value)
    assert read == pytest.approx(float(value), nan_ok=True)


@pytest.mark.parametrize("codec", [DoubleValue, FloatValue])
@pytest.mark.parametrize(
    "text", ["true", '"inf"', '"nan"', '"+1"', '" 1"', '"1,5"', "1e400", "-1e400", '"1e400"', "[]"]
)
def test_what_is_no_float(codec: Any, text: str) -> None:
    with pytest.raises(ValidationError):
        codec.model_validate_json(text)


@pytest.mark.parametrize("text", ["3.5e38", '"-3.5e38"', "1e39"])
def test_a_float_must_fit_32_bits(text: str) -> None:
    with pytest.raises(ValidationError, match="expected float"):
        FloatValue.model_validate_json(text)
    assert abs(DoubleValue.model_validate_json(text)) > 3e38
    with pytest.raises(ValidationError, match="expected float"):
        TypeAdapter(Float).validate_python(float(text.strip('"')))


@pytest.mark.parametrize("value", [0.1, 1 / 3, 3.4028234663852886e38, 1e-45, 16777216.0])
def test_a_float_is_written_with_the_fewest_digits(value: float) -> None:
    (as_float32,) = struct.unpack("<f", struct.pack("<f", value))
    text = FloatValue.model_dump_json(as_float32)
    assert struct.pack("<f", json.loads(text) if value < 3e38 else value) == struct.pack(
        "<f", value
    )
    assert len(text) <= 15
    assert FloatValue.to_bytes(FloatValue.model_validate_json(text)) == FloatValue.to_bytes(value)


def test_bools_and_strings_are_strict() -> None:
    assert BoolValue.model_validate_json("true") is True
    assert StringValue.model_validate_json('"é\\ud83d\\ude00"') == "é😀"
    for text in ("1", '"true"', "0"):
        with pytest.raises(ValidationError):
            BoolValue.model_validate_json(text)
    for text in ("1", "true", '"\\ud83d"'):
        with pytest.raises(ValidationError):
            StringValue.model_validate_json(text)


def test_keys_that_are_bools_are_strings() -> None:
    adapter = TypeAdapter(Map[Bool, int])
    assert adapter.validate_json('{"true":1,"false":2}') == {True: 1, False: 2}
    with pytest.raises(ValidationError, match="'true' or 'false'"):
        adapter.validate_json('{"1":1}')


@pytest.mark.parametrize("key", [" 1", "1_0", "+1", "01", "true", ""])
def test_keys_that_are_numbers_are_plain_decimals(key: str) -> None:
    adapter = TypeAdapter(Map[Int32, int])
    assert adapter.validate_json('{"-7":1}') == {-7: 1}
    with pytest.raises(ValidationError):
        adapter.validate_json(f'{{"{key}":1}}')


@pytest.mark.parametrize("text", ["+/8=", "-_8=", "+/8", "-_8"])
def test_bytes_are_read_in_both_alphabets_and_written_in_the_standard_one(text: str) -> None:
    assert BytesValue.model_validate_json(f'"{text}"') == b"\xfb\xff"
    assert BytesValue.model_dump_json(b"\xfb\xff") == '"+/8="'


@pytest.mark.parametrize("text", ["A", "AA=A", "A A=", "é", "AAAA\\n"])
def test_what_is_no_base64(text: str) -> None:
    with pytest.raises(ValidationError, match="base64"):
        BytesValue.model_validate_json(f'"{text}"')


def test_json_schema_names_the_formats() -> None:
    schema = TypeAdapter(Float).json_schema()
    assert schema["anyOf"][0] == {"type": "number", "format": "float"}
    assert TypeAdapter(Double).json_schema()["anyOf"][1]["enum"] == ["NaN", "Infinity", "-Infinity"]
