"""The protocol's messages: those of Triton's own clients, byte for byte, and in nobody's way."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pb2
from tritonclient.grpc import model_config_pb2, service_pb2

from protoplane_base import DecodeError
from protoplane_server.kserve.schema import POOL, SERVICE, SPEC, PbCodec, messages

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.codegen
def test_the_descriptors_are_those_of_the_schemas(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("kserve_schema", ROOT / "tools/kserve_schema.py")
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    made = tmp_path / "made"
    tool.compile_to(made)
    read: Any = descriptor_pb2.FileDescriptorSet.FromString
    assert read(tool.DESCRIPTORS.read_bytes()) == read(made.read_bytes()), (
        "run python tools/kserve_schema.py"
    )


def test_names_and_numbers_are_those_of_triton() -> None:
    triton: Any = [service_pb2.DESCRIPTOR, model_config_pb2.DESCRIPTOR]
    theirs = {name: each for file in triton for name, each in file.message_types_by_name.items()}
    compared = 0
    for file in ("kserve/predict.proto", "kserve/model_config.proto"):
        pool: Any = POOL
        for name, message in pool.FindFileByName(file).message_types_by_name.items():
            if name != "Unanswered":
                compared += _compare(message, theirs[name])
    assert compared > 100
    service = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    assert set(SPEC.methods) == {method.name for method in service.methods}
    assert service.full_name == SERVICE
    for method in service.methods:
        assert SPEC.methods[method.name].kind.client_streaming == method.client_streaming


def _compare(ours: Any, theirs: Any) -> int:
    compared = 0
    for field in ours.fields:
        other = theirs.fields_by_number[field.number]
        assert (field.name, field.type, field.is_repeated) == (
            other.name,
            other.type,
            other.is_repeated,
        ), field.full_name
        if field.enum_type is not None:
            assert dict(field.enum_type.values_by_name.items()).keys() <= set(
                other.enum_type.values_by_name
            )
            for name, value in field.enum_type.values_by_name.items():
                assert other.enum_type.values_by_name[name].number == value.number
        compared += 1
    for nested in ours.nested_types:
        compared += _compare(nested, theirs.nested_types_by_name[nested.name])
    return compared


@pytest.mark.parametrize("first", ["protoplane_server.kserve.schema", "tritonclient.grpc"])
def test_it_stands_beside_tritonclient(first: str) -> None:
    program = f"""
import {first}
from protoplane_server.kserve.schema import messages
from tritonclient.grpc import service_pb2
theirs = service_pb2.ModelInferRequest(model_name="a", id="b", raw_input_contents=[b"c"])
theirs.parameters["d"].uint64_param = 2**63
ours = messages.ModelInferRequest.FromString(theirs.SerializeToString())
assert ours.parameters["d"].uint64_param == 2**63
assert type(ours) is not type(theirs)
assert service_pb2.ModelInferRequest.FromString(ours.SerializeToString()) == theirs
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_messages_as_a_codec() -> None:
    codec = PbCodec(messages.ModelReadyRequest)
    value = messages.ModelReadyRequest(name="a")
    assert codec.from_bytes(codec.to_bytes(value)) == value
    assert codec.model_dump_json(value) == '{"name": "a"}'
    assert codec.model_validate_json(b'{"name": "a"}') == value
    assert codec.from_pb(codec.to_pb(value)) is value
    for fault in (b"\xff", b"\x0a\x05a"):
        with pytest.raises(DecodeError):
            codec.from_bytes(fault)
    for text in ("[1]", '{"name": 1}', b"\xff"):
        with pytest.raises(DecodeError):
            codec.model_validate_json(text)
    with pytest.raises(AttributeError):
        _ = messages.Nothing
