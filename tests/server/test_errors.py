"""Errors on their way to a caller."""

from __future__ import annotations

import pytest
from google.protobuf import any_pb2
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo
from pydantic import ValidationError

from forge.captioner.v1 import CaptionFinished, CaptionRequest
from protoplane_base import Code, DecodeError, PlaneError, Violation
from protoplane_server.errors import (
    bad_request,
    field_path,
    from_decode_error,
    from_status,
    from_validation_error,
    to_status,
)


def test_validation_errors_name_their_fields() -> None:
    with pytest.raises(ValidationError) as caught:
        CaptionRequest.model_validate_json('{"prompt": 3, "maxWords": "many", "colour": 1}')
    error = from_validation_error(caught.value)
    assert error.code is Code.INVALID_ARGUMENT
    [detail] = error.details
    assert isinstance(detail, BadRequest)
    assert {fault.field for fault in detail.field_violations} == {"prompt", "maxWords", "colour"}
    assert all(fault.description and fault.reason for fault in detail.field_violations)
    assert "prompt" in error.message


def test_the_message_names_the_first_faults() -> None:
    error = bad_request([Violation(("items", n, "name"), "string", "bad") for n in range(10)])
    assert error.message == (
        "items[0].name: bad; items[1].name: bad; items[2].name: bad; and 7 more"
    )
    assert len(error.details[0].field_violations) == 10


def test_field_paths() -> None:
    assert field_path(()) == ""
    assert field_path(("a", 2, "b", "c")) == "a[2].b.c"


def test_decode_errors() -> None:
    with pytest.raises(DecodeError) as caught:
        CaptionRequest.from_bytes(b"\xff")
    assert from_decode_error(caught.value).code is Code.INVALID_ARGUMENT
    assert from_decode_error(ValueError("inside")).message == "the request cannot be decoded"


def test_status_and_back() -> None:
    unknown = any_pb2.Any(type_url="type.googleapis.com/nobody.knows.This", value=b"x")
    broken = any_pb2.Any(type_url="type.googleapis.com/google.rpc.ErrorInfo", value=b"\xff")
    details = [ErrorInfo(reason="A"), CaptionFinished(request_id="b", words=3), unknown, broken]
    error = from_status(to_status(PlaneError(Code.ABORTED, "stopped", details)))
    assert (error.code, error.message) == (Code.ABORTED, "stopped")
    assert error.details == tuple(details)


def test_a_code_that_is_none() -> None:
    status = to_status(PlaneError(Code.ABORTED, ""))
    status.code = 99
    assert from_status(status).code is Code.UNKNOWN
