"""ProtoJSON and presence of generated models, beyond what random round trips reach."""

from __future__ import annotations

import json
import math
from types import ModuleType
from typing import Any

import pytest
from pydantic import ValidationError

from protoplane_base import Any as AnyMessage
from protoplane_base import Duration, FieldMask, NullValue, Timestamp, unknown_bytes

pytestmark = pytest.mark.codegen


def locations(read: Any, text: str, **options: Any) -> dict[tuple[str | int, ...], str]:
    with pytest.raises(ValidationError) as caught:
        read(text, **options)
    return {error["loc"]: error["msg"] for error in caught.value.errors()}


def test_every_field_may_be_null(kinds: ModuleType) -> None:
    for name in ("Scalars", "Legacy", "Mixed", "Newest"):
        model = getattr(kinds, name)
        nulls = json.dumps({f.json_name: None for f in model.__pb__.DESCRIPTOR.fields})
        assert model.model_validate_json(nulls) == model()


def test_null_is_a_value_only_for_value_and_null_value(kinds: ModuleType) -> None:
    model = kinds.WellKnown
    fields = [field.json_name for field in model.__pb__.DESCRIPTOR.fields]
    read = model.model_validate_json(json.dumps(dict.fromkeys(fields)))
    assert json.loads(read.model_dump_json()) == {"value": None, "maybeNullValue": None}
    assert read.value is NullValue.NULL_VALUE
    again = model.from_bytes(read.to_bytes())
    assert again.value is NullValue.NULL_VALUE
    assert again == read
    assert model().value is None
    assert "value" not in json.loads(model().model_dump_json())


@pytest.mark.parametrize("name", ["inners", "manyInt32", "colors"])
def test_null_is_no_element(kinds: ModuleType, name: str) -> None:
    assert set(locations(kinds.Scalars.model_validate_json, f'{{"{name}":[null]}}')) == {(name, 0)}


def test_elements_may_be_null_where_null_is_a_value(kinds: ModuleType) -> None:
    text = '{"values":[null,1],"listValues":[[null]],"structs":[{"a":null}],"nullValues":[null]}'
    read = kinds.WellKnown.model_validate_json(text)
    assert json.loads(read.model_dump_json()) == json.loads(text)
    assert kinds.WellKnown.from_bytes(read.to_bytes()) == read


def test_presence_tells_a_default_from_absence(kinds: ModuleType) -> None:
    absent = kinds.Scalars()
    assert (absent.a_int32, absent.maybe_int32, absent.many_int32) == (0, None, [])
    for text in ('{"maybeInt32":0}', '{"maybeString":""}', '{"maybeInner":{}}', '{"inner":{}}'):
        read = kinds.Scalars.model_validate_json(text)
        assert read.model_dump_json() == text
        assert kinds.Scalars.from_bytes(read.to_bytes()) == read != absent
    for text in ('{"aInt32":0}', '{"aString":""}', '{"manyInt32":[]}', '{"byInt32":{}}'):
        assert kinds.Scalars.model_validate_json(text).model_dump_json() == "{}"
    assert kinds.Scalars(a_double=-0.0).model_dump_json() == '{"aDouble":-0.0}'


def test_wrappers_are_bare_values(kinds: ModuleType) -> None:
    text = (
        '{"int64Value":"5","uInt32Value":7,"boolValue":false,"bytesValue":"AA==","stringValue":""}'
    )
    read = kinds.WellKnown.model_validate_json(text)
    assert (read.int64_value, read.bool_value, read.bytes_value) == (5, False, b"\0")
    assert read.float_value is None
    assert json.loads(read.model_dump_json()) == json.loads(text)


def test_python_types_stand_for_well_known_ones(kinds: ModuleType) -> None:
    from datetime import UTC, datetime, timedelta

    made = kinds.WellKnown(
        timestamp=datetime(1970, 1, 2, tzinfo=UTC),
        duration=timedelta(seconds=-1.5),
        field_mask=FieldMask.of(["a_b"]),
        any=AnyMessage.pack(kinds.Scalars(a_int64=1)),
        struct={"a": [1, None]},
    )
    assert made.timestamp == Timestamp(86_400)
    assert made.duration == Duration(-1, -500_000_000)
    assert made.model_dump_json() == (
        '{"timestamp":"1970-01-02T00:00:00Z","duration":"-1.500s","fieldMask":"aB",'
        '"any":{"@type":"type.googleapis.com/kinds.v1.Scalars","aInt64":"1"},'
        '"struct":{"a":[1,null]}}'
    )
    assert kinds.WellKnown.model_validate_json(made.model_dump_json()) == made


def test_errors_inside_an_any_name_the_field(kinds: ModuleType) -> None:
    text = '{"any":{"@type":"type.googleapis.com/kinds.v1.Scalars","inner":{"number":"x"}}}'
    assert set(locations(kinds.WellKnown.model_validate_json, text)) == {("any", "inner", "number")}
    unknown = text.replace('"number":"x"', '"other":1')
    assert set(locations(kinds.WellKnown.model_validate_json, unknown)) == {
        ("any", "inner", "other")
    }
    read = kinds.WellKnown.model_validate_json(unknown, extra="ignore")
    assert read.any.unpack(kinds.Scalars) == kinds.Scalars(inner=kinds.Scalars.Inner())


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ('{"inners":[{},{"next":{"number":"x"}}]}', ("inners", 1, "next", "number")),
        ('{"byInt32":{"x":1}}', ("byInt32", "x", "[key]")),
        ('{"byInt32":{"1":"x"}}', ("byInt32", "1")),
        ('{"manyBytes":["AA==","é"]}', ("manyBytes", 1)),
        ('{"aInt32":1,"a_int32":2,"nothing":1}', ("nothing",)),
        ('{"deeper":{"color":"RED"}}', ("deeper", "color")),
        ('{"maybeInt64":1.5}', ("maybeInt64",)),
    ],
)
def test_errors_say_where(kinds: ModuleType, text: str, where: tuple[str | int, ...]) -> None:
    assert where in locations(kinds.Scalars.model_validate_json, text)


def test_two_members_of_a_oneof(kinds: ModuleType) -> None:
    for text in (
        '{"number":1,"text":"a"}',
        '{"inner":{},"nothing":null}',
        '{"anything":null,"flag":false}',
    ):
        message = next(iter(locations(kinds.Choices.model_validate_json, text).values()))
        assert "in oneof choice" in message
    with pytest.raises(ValidationError, match="left and right are"):
        kinds.Choices(left="a", right="b")
    both = kinds.Choices(left="a", number=0)
    assert (both.which_oneof("choice"), both.which_oneof("other")) == ("number", "left")


def test_assignment_to_any_member_of_a_oneof_clears_the_others(kinds: ModuleType) -> None:
    values: dict[str, Any] = {
        "number": 0,
        "text": "",
        "raw": b"",
        "flag": False,
        "ratio": 0.0,
        "wide": 0,
        "color": kinds.Color.COLOR_UNSPECIFIED,
        "inner": kinds.Scalars.Inner(),
        "span": Duration(),
        "boxed": "",
        "nothing": NullValue.NULL_VALUE,
        "anything": NullValue.NULL_VALUE,
    }
    model = kinds.Choices(right="stays", beside=1)
    for name, value in values.items():
        setattr(model, name, value)
        assert model.which_oneof("choice") == name
        assert kinds.Choices.from_bytes(model.to_bytes()) == model
        assert kinds.Choices.model_validate_json(model.model_dump_json()) == model
        assert model.to_pb().WhichOneof("choice") == name
    assert (model.right, model.beside) == ("stays", 1)


def test_unknown_names_of_enums_are_dropped_where_unknown_is_ignored(kinds: ModuleType) -> None:
    text = """{"color": "NEW", "maybeColor": "NEW", "colors": ["NEW", "COLOR_RED", 9],
        "bySfixed64": {"1": "NEW", "2": "COLOR_BLUE"}, "deeper": {"colors": ["NEW"], "new": 1}}"""
    assert len(locations(kinds.Scalars.model_validate_json, text)) == 6
    read = kinds.Scalars.model_validate_json(text, extra="ignore")
    assert json.loads(read.model_dump_json()) == {
        "colors": ["COLOR_RED", 9],
        "bySfixed64": {"2": "COLOR_BLUE"},
        "deeper": {},
    }


def test_closed_enums_take_no_unknown_number(kinds: ModuleType) -> None:
    assert set(locations(kinds.Mixed.model_validate_json, '{"closed":9,"closedMany":[1,9]}')) == {
        ("closed",), ("closedMany", 1)
    }  # fmt: skip
    # From the wire such a number is an unknown field (proto2), and survives as one.
    data = b"\x50\x09"
    read = kinds.Mixed.from_bytes(data)
    assert read.closed is None
    assert unknown_bytes(read) == data
    assert read.to_bytes() == data
    assert kinds.Mixed.from_bytes(b"\x68\x09").open == 9


def test_extensions_of_proto2_survive(kinds: ModuleType) -> None:
    from importlib import import_module

    proto2: Any = import_module("kinds.v1.proto2_pb2")
    pb = proto2.Legacy(maybe_int32=1)
    pb.Extensions[proto2.extra_number] = -5
    pb.nested.Extensions[proto2.extra_number] = 6
    pb.Extensions[proto2.extra_legacies].add(maybe_string="x")
    model = kinds.Legacy.from_pb(pb)
    assert model.to_pb() == pb
    model.maybe_int32 = 2
    again = model.model_copy().to_pb()
    assert again.Extensions[proto2.extra_number] == -5
    assert again.nested.Extensions[proto2.extra_number] == 6
    assert again.Extensions[proto2.extra_legacies][0].maybe_string == "x"
    assert kinds.Legacy.from_bytes(model.to_bytes()) == model


def test_required_fields(kinds: ModuleType) -> None:
    found = locations(kinds.Strict.model_validate_json, '{"number":"1"}')
    assert set(found) == {("shade",), ("legacy",), ("raw",)}
    with pytest.raises(ValidationError, match="must"):
        kinds.Demanding()
    for missing in (None, "null"):
        text = "{}" if missing is None else '{"must":null}'
        with pytest.raises(ValidationError, match="must"):
            kinds.Demanding.model_validate_json(text)
    zero = kinds.Demanding(must=0)
    assert zero.model_dump_json() == '{"must":0}'
    assert zero.to_bytes() == b"\x08\x00"


def test_defaults_of_proto2_are_told_and_absence_stays_absence(kinds: ModuleType) -> None:
    legacy = kinds.Legacy()
    assert legacy.default_int64 is None
    assert legacy.to_bytes() == b""
    description = kinds.Legacy.model_fields["default_int64"].description
    assert "9223372036854775807" in description


def test_groups_and_delimited_fields(kinds: ModuleType) -> None:
    legacy = kinds.Legacy.model_validate_json(
        '{"single":{"number":1,"legacy":{}},"many":[{"text":"a"},{}],"pickedgroup":{"number":2}}'
    )
    assert legacy.single.number == 1
    assert legacy.which_oneof("choice") == "pickedgroup"
    assert kinds.Legacy.from_bytes(legacy.to_bytes()) == legacy
    mixed = kinds.Mixed(delimited=kinds.Mixed(explicit_number=1))
    assert mixed.to_bytes() == b"\x43\x08\x01\x44"
    assert kinds.Mixed(prefixed=kinds.Mixed(explicit_number=1)).to_bytes() == b"\x3a\x02\x08\x01"


def test_floats_of_both_sizes(kinds: ModuleType) -> None:
    read = kinds.Scalars.model_validate_json(
        '{"manyFloat":["NaN",-0.0,1e-45,"Infinity"],"manyDouble":["-Infinity",5e-324,0.1]}'
    )
    assert math.isnan(read.many_float[0])
    assert read.model_dump_json() == (
        '{"manyDouble":["-Infinity",5e-324,0.1],"manyFloat":["NaN",-0.0,1e-45,"Infinity"]}'
    )
    assert kinds.Scalars(many_float=[math.nan, math.inf]).many_float[1] == math.inf
    stored = kinds.Scalars.from_bytes(kinds.Scalars(a_float=0.1).to_bytes())
    assert stored.model_dump_json() == '{"aFloat":0.1}'
