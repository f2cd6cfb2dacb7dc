"""Headers of calls."""

from __future__ import annotations

import contextlib
import math

import pytest
from google.protobuf.any_pb2 import Any as PbAny
from google.rpc.error_details_pb2 import BadRequest
from hypothesis import given
from hypothesis import strategies as st

from protoplane.v1.link_pb2 import Close, Open
from protoplane_base import Code, Metadata, PlaneError
from protoplane_runtime.link.errors import LinkError, UnsentError
from protoplane_runtime.link.headers import (
    decode_close,
    decode_open,
    encode_close,
    encode_open,
    remembered,
)

names = st.text("abcdefghijklmnopqrstuvwxyz0123456789-_.", min_size=1, max_size=20)
metadata = st.dictionaries(names, st.text(max_size=20) | st.binary(max_size=20), max_size=5)


@given(st.text(max_size=40), metadata, st.none() | st.floats(0, 1e9), st.binary(max_size=16))
def test_an_open_says_what_it_was_given(
    method: str, sent: dict[str, str | bytes], timeout_s: float | None, target: bytes
) -> None:
    opened = decode_open(encode_open(method, sent, timeout_s, target))
    assert (opened.method, opened.metadata, opened.target) == (method, sent, target)
    if timeout_s is None:
        assert opened.timeout_s is None
    else:
        assert opened.timeout_s == pytest.approx(timeout_s, abs=2e-6)


def test_the_key_and_the_trace_have_fields_of_their_own() -> None:
    sent: Metadata = {
        "idempotency-key": "k1",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "tracestate": "a=b",
        "other": "x",
    }
    header = encode_open("/a.B/C", sent)
    pb = Open.FromString(header)
    assert pb.idempotency_key == "k1"
    assert pb.trace.traceparent.startswith("00-")
    assert pb.trace.tracestate == "a=b"
    assert [entry.name for entry in pb.metadata] == ["other"]
    assert decode_open(header).metadata == sent


@pytest.mark.parametrize(
    ("timeout_s", "read"), [(-1.0, 0.0), (0.0, 0.0), (1e-7, 0.0), (1e300, 2**63 / 1e6)]
)
def test_a_time_that_no_header_can_say_becomes_the_nearest(timeout_s: float, read: float) -> None:
    assert decode_open(encode_open("/a.B/C", {}, timeout_s)).timeout_s == read


def test_time_without_end_is_the_longest_there_is() -> None:
    assert decode_open(encode_open("/a.B/C", {}, math.inf)).timeout_s == 2**63 / 1e6


def test_too_much_metadata_is_refused_before_it_is_sent() -> None:
    with pytest.raises(PlaneError, match="65535") as caught:
        encode_open("/a.B/C", {"large": "x" * 70_000})
    assert caught.value.code is Code.INVALID_ARGUMENT


def test_a_success_without_trailers_needs_no_header() -> None:
    assert encode_close(None, {}) == b""
    assert decode_close(b"") == (None, {})


@given(metadata)
def test_trailers_arrive(trailers: dict[str, str | bytes]) -> None:
    assert decode_close(encode_close(None, trailers)) == (None, trailers)
    error, found = decode_close(encode_close(PlaneError(Code.ABORTED, "x"), trailers))
    assert error is not None
    assert found == trailers


@pytest.mark.parametrize("code", [code for code in Code if code is not Code.OK])
def test_an_error_arrives_with_its_details(code: Code) -> None:
    detail = BadRequest(field_violations=[BadRequest.FieldViolation(field="a", description="b")])
    error, _ = decode_close(encode_close(PlaneError(code, "what, and what to do", [detail]), {}))
    assert error is not None
    assert (error.code, error.message) == (code, "what, and what to do")
    assert error.details[0].field_violations[0].field == "a"
    assert not isinstance(error, UnsentError)


def test_a_call_that_no_handler_saw_says_so() -> None:
    header = encode_close(PlaneError(Code.UNAVAILABLE, "going"), {}, unprocessed=True)
    error, _ = decode_close(header)
    assert isinstance(error, UnsentError)


def test_a_code_that_is_not_known_is_unknown() -> None:
    error, _ = decode_close(Close(code=999, message="new").SerializeToString())
    assert error is not None
    assert error.code is Code.UNKNOWN


def test_a_detail_that_cannot_be_read_stays_as_it_is() -> None:
    box = PbAny(type_url="type.googleapis.com/not.There", value=b"\xff")
    error, _ = decode_close(Close(code=5, details=[box]).SerializeToString())
    assert error is not None
    assert list(error.details) == [box]


@pytest.mark.parametrize(
    "name", ["UInt32Value", "Duration", "Timestamp", "Struct", "ListValue", "FieldMask"]
)
def test_an_error_can_be_passed_on_whatever_its_details_are(name: str) -> None:
    box = PbAny(type_url=f"type.googleapis.com/google.protobuf.{name}")
    header = Close(code=5, message="x", details=[box]).SerializeToString()
    error, _ = decode_close(header)
    assert encode_close(error, {}) == header


def test_an_error_too_large_for_a_header_arrives_without_its_details_and_trailers() -> None:
    detail = BadRequest(field_violations=[BadRequest.FieldViolation(field="x" * 70_000)])
    large = PlaneError(Code.NOT_FOUND, "y" * 50_000, [detail])
    header = encode_close(large, {"z": "z" * 70_000})
    assert len(header) <= 0xFFFF
    error, trailers = decode_close(header)
    assert error is not None
    assert error.code is Code.NOT_FOUND
    assert len(error.message) < 9_000
    assert trailers == {}


def test_an_error_about_a_name_that_is_no_text_arrives() -> None:
    name = b"photo-\xff.jpg".decode(errors="surrogateescape")
    error, _ = decode_close(encode_close(PlaneError(Code.NOT_FOUND, f"{name} is gone"), {}))
    assert error is not None
    assert error.message == "photo-?.jpg is gone"


@given(st.binary(max_size=80))
def test_any_bytes_are_a_header_or_a_link_error(data: bytes) -> None:
    for read in (decode_open, decode_close):
        with contextlib.suppress(LinkError):
            read(data)


def test_what_is_remembered_is_bounded() -> None:
    reads: list[bytes] = []

    def read(data: bytes) -> int:
        reads.append(data)
        return len(data)

    recall = remembered(read, most=2)
    for data in (b"a", b"a", b"b", b"a", b"c", b"a"):
        assert recall(data) == 1
    assert reads == [b"a", b"b", b"c", b"a"]
    large = b"x" * 1000
    recall(large)
    recall(large)
    assert reads[-2:] == [large, large]
