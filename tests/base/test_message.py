"""The base of every model: JSON, bytes, presence, oneofs, unknown fields, errors."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
from pydantic import ValidationError
from tests.base.sample import Color, Sample

from protoplane_base import DecodeError, EncodeError, unknown_bytes

FULL = (
    '{"wide":"9007199254740993","displayName":"n","maybe":0,"text":"",'
    '"inner":{"number":1},"items":[1,2],"color":"COLOR_RED"}'
)
STRANGE = b"\xf2\x06\x01x"  # field 110


def test_json_is_canonical_without_arguments() -> None:
    sample = Sample.model_validate_json(FULL)
    assert sample.wide == 9007199254740993
    assert sample.color is Color.COLOR_RED
    assert sample.model_dump_json() == FULL
    assert Sample().model_dump_json() == "{}"


def test_both_spellings_are_read() -> None:
    for text in ('{"displayName":"n"}', '{"display_name":"n"}'):
        assert Sample.model_validate_json(text) == Sample(display_name="n")


def test_bytes_round_trip() -> None:
    sample = Sample.model_validate_json(FULL)
    assert Sample.from_bytes(sample.to_bytes()) == sample
    assert Sample.from_pb(sample.to_pb()) == sample
    assert Sample.from_bytes(b"") == Sample()


@pytest.mark.parametrize(
    "name", ["wide", "displayName", "maybe", "text", "inner", "items", "color"]
)
def test_null_reads_as_absent(name: str) -> None:
    read = Sample.model_validate_json(f'{{"{name}":null}}')
    assert read == Sample()
    assert read.model_dump_json() == "{}"


def test_unknown_fields_are_errors_unless_they_are_to_be_ignored() -> None:
    text = '{"what":1,"inner":{"what":1},"items":[],"color":"COLOR_NEW"}'
    with pytest.raises(ValidationError) as caught:
        Sample.model_validate_json(text)
    assert {error["loc"] for error in caught.value.errors()} == {
        ("what",), ("inner", "what"), ("color",)
    }  # fmt: skip
    assert Sample.model_validate_json(text, extra="ignore") == Sample(inner=Sample())
    with pytest.raises(ValidationError):
        Sample.model_validate_json(text)


def test_errors_name_the_field_and_the_expectation() -> None:
    text = '{"inner":{"items":[1,-1]},"wide":true,"color":"RED"}'
    with pytest.raises(ValidationError) as caught:
        Sample.model_validate_json(text)
    messages = {error["loc"]: error["msg"] for error in caught.value.errors()}
    assert set(messages) == {("inner", "items", 1), ("wide",), ("color",)}
    assert "expected int64" in messages["wide",]
    assert "COLOR_UNSPECIFIED, COLOR_RED" in messages["color",]


@pytest.mark.parametrize("text", ["[]", "1", '"x"', "null", "", "{", '{"wide":}'])
def test_what_is_no_json_object(text: str) -> None:
    with pytest.raises(ValidationError):
        Sample.model_validate_json(text)


def both(kind: str) -> Sample:
    if kind == "json":
        return Sample.model_validate_json('{"text":"a","number":1}')
    if kind == "constructor":
        return Sample(text="a", number=1)
    return Sample.model_validate({"text": "a", "number": 0})


@pytest.mark.parametrize("kind", ["json", "constructor", "python"])
def test_two_members_of_a_oneof_are_an_error(kind: str) -> None:
    with pytest.raises(ValidationError, match="at most one of text, number") as caught:
        both(kind)
    assert "text and number" in str(caught.value)


def test_a_rival_that_is_null_is_no_rival() -> None:
    assert Sample.model_validate_json('{"text":"a","number":null}').which_oneof("choice") == "text"


def test_assignment_clears_the_rivals() -> None:
    sample = Sample(text="a")
    assert sample.which_oneof("choice") == "text"
    sample.number = 0
    assert (sample.text, sample.which_oneof("choice")) == (None, "number")
    sample.number = None
    assert sample.which_oneof("choice") is None
    with pytest.raises(KeyError):
        sample.which_oneof("nothing")


def test_assignment_validates_and_leaves_all_as_it_was_when_it_fails() -> None:
    sample = Sample(text="a")
    with pytest.raises(ValidationError, match="number"):
        sample.number = "no"  # type: ignore[assignment]  # pyright: ignore[reportAttributeAccessIssue]
    assert (sample.text, sample.number) == ("a", None)
    with pytest.raises(ValueError, match="nothing"):
        sample.nothing = 1  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]


def keep(sample: Sample) -> Sample:
    return sample


def assign(sample: Sample) -> Sample:
    sample.wide = 5
    sample.text = "a"
    return sample


def by_pickle(sample: Sample) -> Sample:
    found = pickle.loads(pickle.dumps(sample))
    assert isinstance(found, Sample)
    return found


@pytest.mark.parametrize(
    "through",
    [keep, assign, Sample.model_copy, copy.copy, copy.deepcopy, by_pickle],
    ids=["nothing", "assignment", "model_copy", "copy", "deepcopy", "pickle"],
)
def test_unknown_wire_fields_survive(through: Any) -> None:
    data = Sample(inner=Sample(wide=1)).to_bytes()
    nested = data[:1] + bytes([data[1] + len(STRANGE)]) + data[2:] + STRANGE
    sample = through(Sample.from_bytes(nested + STRANGE))
    assert unknown_bytes(sample) == STRANGE
    assert sample.inner is not None
    assert unknown_bytes(sample.inner) == STRANGE
    again = Sample.from_bytes(sample.to_bytes())
    assert (unknown_bytes(again), unknown_bytes(again.inner or Sample())) == (STRANGE, STRANGE)
    assert again == sample
    assert "unknown" not in sample.model_dump_json()


def test_a_copy_with_an_update_keeps_unknown_fields() -> None:
    sample = Sample.from_bytes(STRANGE).model_copy(update={"wide": 3})
    assert Sample.from_bytes(sample.to_bytes()).wide == 3
    assert unknown_bytes(sample) == STRANGE
    assert unknown_bytes(Sample()) == b""


def test_numbers_of_an_open_enum_without_a_name_are_kept() -> None:
    sample = Sample.from_bytes(b"\x40\x07")
    assert sample.color == 7
    assert not sample.color.is_recognized
    assert sample.model_dump_json() == '{"color":7}'
    assert sample.to_bytes() == b"\x40\x07"


def test_bytes_of_something_else() -> None:
    with pytest.raises(DecodeError, match=r"3 bytes are not a tests\.base\.sample\.Sample"):
        Sample.from_bytes(b"\xff\xff\xff")


def test_values_put_in_unvalidated_are_found_when_they_are_encoded() -> None:
    with pytest.raises(EncodeError, match="Sample holds what its message cannot carry"):
        Sample.model_construct(wide="no").to_bytes()
    sample = Sample()
    sample.items.append(-1)
    with pytest.raises(EncodeError, match="-1"):
        sample.to_bytes()
    with pytest.raises(ValueError, match="-1"):
        sample.to_pb()


def test_python_dumps_hold_python_values() -> None:
    sample = Sample(wide=1, color=Color.COLOR_RED, inner=Sample())
    assert sample.model_dump() == {"wide": 1, "color": Color.COLOR_RED, "inner": {}}
    assert Sample.model_validate(sample.model_dump()) == sample
    assert Sample(display_name="n").model_dump(by_alias=False) == {"display_name": "n"}


def test_json_schema_has_descriptions_and_json_names() -> None:
    schema = Sample.model_json_schema()
    properties = schema["$defs"]["Sample"]["properties"]
    assert properties["displayName"]["description"] == "How to call it"
    assert set(properties) >= {"wide", "maybe", "text", "number", "inner", "items", "color"}
