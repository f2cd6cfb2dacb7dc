"""Random messages of every kind of field, through models and JSON and back, nothing lost."""

from __future__ import annotations

import importlib
import json
from types import ModuleType
from typing import Any

import pytest
from google.protobuf import json_format
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.codegen.models.strategies import message

pytestmark = pytest.mark.codegen

MESSAGES = (
    "Scalars",
    "Choices",
    "WellKnown",
    "Legacy",
    "Strict",
    "Mixed",
    "Demanding",
    "Newest",
)
often = settings(
    max_examples=40,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def wire(pb: Any) -> bytes:
    """What to compare: a NaN equals itself in bytes, and minus zero is not zero."""
    found: bytes = pb.SerializeToString(deterministic=True)
    return found


@pytest.fixture(params=MESSAGES, scope="module")
def model(request: pytest.FixtureRequest, kinds: ModuleType) -> Any:
    return getattr(kinds, request.param)


def test_the_schemas_have_every_kind_of_field(kinds: ModuleType) -> None:
    fields = [
        field
        for module in ("proto2_pb2", "proto3_pb2", "editions_pb2")
        for found in importlib.import_module(
            f"kinds.v1.{module}"
        ).DESCRIPTOR.message_types_by_name.values()
        for field in found.fields
    ]
    singular = {field.type for field in fields if not field.is_repeated}
    assert singular == set(range(1, 19)), "all types, groups among them"
    assert {field.type for field in fields if field.is_repeated and field.is_packed} >= {
        *range(1, 9), *range(13, 19)
    }  # fmt: skip
    entries = [
        field.message_type.fields_by_name["key"].type
        for field in fields
        if field.message_type is not None and field.message_type.GetOptions().map_entry
    ]
    assert len(set(entries)) == 12, "all kinds of keys"


@often
@given(data=st.data())
def test_proto_to_model_to_json_to_model_to_proto(model: Any, data: st.DataObject) -> None:
    pb = data.draw(message(model.__pb__))
    first = model.from_pb(pb)
    text = first.model_dump_json()
    second = model.model_validate_json(text)
    assert wire(second.to_pb()) == wire(pb), text


@often
@given(data=st.data())
def test_bytes_to_model_to_bytes(model: Any, data: st.DataObject) -> None:
    pb = data.draw(message(model.__pb__))
    first = model.from_bytes(wire(pb))
    assert first.to_bytes() == wire(pb)
    assert model.from_bytes(first.to_bytes()).to_bytes() == first.to_bytes()


@often
@given(data=st.data())
def test_json_is_what_protobuf_itself_writes_and_reads(model: Any, data: st.DataObject) -> None:
    pb = data.draw(message(model.__pb__))
    if model.__name__ == "WellKnown":
        pb.ClearField("null_values")  # json_format writes these and cannot read them
    text = model.from_pb(pb).model_dump_json()
    assert wire(json_format.Parse(text, model.__pb__())) == wire(pb), text
    theirs = json_format.MessageToJson(pb)
    assert json.loads(text) == json.loads(theirs)
    assert wire(model.model_validate_json(theirs).to_pb()) == wire(pb), theirs
    by_proto_name = json_format.MessageToJson(pb, preserving_proto_field_name=True)
    assert wire(model.model_validate_json(by_proto_name).to_pb()) == wire(pb), by_proto_name


@often
@given(data=st.data())
def test_python_values_round_trip(model: Any, data: st.DataObject) -> None:
    pb = data.draw(message(model.__pb__))
    first = model.from_pb(pb)
    for by_alias in (True, False):
        again = model.model_validate(first.model_dump(by_alias=by_alias))
        assert wire(again.to_pb()) == wire(pb)
    assert wire(first.model_copy(deep=True).to_pb()) == wire(pb)
