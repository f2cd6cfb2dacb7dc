"""Open and closed enums by name and by number."""

from __future__ import annotations

import pytest
from pydantic import TypeAdapter, ValidationError
from tests.base.sample import Color, Shade

from protoplane_base import NumberTable

color = TypeAdapter(Color)
shade = TypeAdapter(Shade)


@pytest.mark.parametrize("text", ['"COLOR_RED"', "1", "1.0"])
def test_members_by_name_and_number(text: str) -> None:
    assert color.validate_json(text) is Color.COLOR_RED
    assert color.dump_json(Color.COLOR_RED) == b'"COLOR_RED"'


@pytest.mark.parametrize(
    "text", ['"color_red"', '"1"', "true", "1.5", "null", "[]", "2147483648", '"UNRECOGNIZED_7"']
)
def test_what_is_no_member(text: str) -> None:
    with pytest.raises(ValidationError, match="a name or number of Color"):
        color.validate_json(text)


@pytest.mark.parametrize("number", [7, -1, 2**31 - 1, -(2**31)])
def test_an_open_enum_keeps_other_numbers(number: int) -> None:
    member = color.validate_json(str(number))
    assert member == number
    assert isinstance(member, Color)
    assert not member.is_recognized
    assert color.dump_json(member) == str(number).encode()
    assert Color(number) == NumberTable(Color)[number] == member
    assert member.name.isidentifier()
    assert str(abs(number)) in member.name


@pytest.mark.parametrize("text", ["7", "0", "-1", '"LIGHT"'])
def test_a_closed_enum_refuses_other_numbers(text: str) -> None:
    with pytest.raises(ValidationError, match="a name or number of Shade: None, DARK"):
        shade.validate_json(text)
    with pytest.raises(ValueError, match="7"):
        Shade(7)


def test_an_enum_has_room_for_32_bits_only() -> None:
    with pytest.raises(ValueError, match="2147483648"):
        Color(2**31)
    with pytest.raises(ValidationError):
        color.validate_python(-(2**31) - 1)


def test_a_name_that_python_cannot_have_is_kept_in_json() -> None:
    assert Shade.None_.proto_name == "None"
    assert shade.validate_json('"None"') is Shade.None_
    assert shade.dump_json(Shade.None_) == b'"None"'
    with pytest.raises(ValidationError):
        shade.validate_json('"None_"')


def test_python_reads_members_names_and_numbers() -> None:
    for value in (Color.COLOR_RED, "COLOR_RED", 1):
        assert color.validate_python(value) is Color.COLOR_RED
    with pytest.raises(ValidationError):
        color.validate_python(True)
    assert color.dump_python(Color.COLOR_RED) is Color.COLOR_RED


def test_json_schema_lists_the_names() -> None:
    assert shade.json_schema(mode="serialization") == {
        "title": "Shade", "type": "string", "enum": ["None", "DARK"]
    }  # fmt: skip
    schema = color.json_schema()
    assert schema["anyOf"][0]["enum"] == ["COLOR_UNSPECIFIED", "COLOR_RED"]
    assert schema["anyOf"][1]["type"] == "integer"
