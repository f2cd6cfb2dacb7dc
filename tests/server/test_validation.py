"""Rules of a schema hold for requests that came in the wire format too."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from forge.captioner.v1 import CaptionRequest
from protoplane_base import Code, PlaneError, StringValue
from protoplane_server.validation import check_of

pytestmark = pytest.mark.codegen

SCHEMA = """
syntax = "proto3";
package checked.v1;
import "buf/validate/validate.proto";
message Plain { string text = 1; Plain again = 2; }
message Ruled { string name = 1 [(buf.validate.field).string.min_len = 3]; int32 size = 2
  [(buf.validate.field).int32 = {gte: 1, lte: 9}]; }
message Holder { repeated Ruled items = 1; Holder more = 2; }
message Whole { option (buf.validate.message).cel = {
  id: "whole.order", message: "low is above high", expression: "this.low <= this.high" };
  int32 low = 1; int32 high = 2; }
"""


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    generate = pytest.importorskip("protoplane_codegen").generate
    folder = tmp_path_factory.mktemp("checked")
    schema = folder / "proto" / "checked" / "v1" / "checked.proto"
    schema.parent.mkdir(parents=True)
    schema.write_text(SCHEMA)
    generate(folder / "proto", folder / "out")
    sys.path.insert(0, str(folder / "out"))
    yield importlib.import_module("checked.v1")
    sys.path.remove(str(folder / "out"))


def test_types_without_rules_are_not_checked(checked: Any) -> None:
    assert check_of(checked.Plain) is None
    assert check_of(CaptionRequest) is None
    assert check_of(StringValue) is None


def faults(codec: Any, data: bytes) -> dict[str, str]:
    check = check_of(codec)
    assert check is not None
    with pytest.raises(PlaneError) as caught:
        check(codec.from_bytes(data))
    assert caught.value.code is Code.INVALID_ARGUMENT
    [detail] = caught.value.details
    return {fault.field: fault.reason for fault in detail.field_violations}


def test_rules_of_fields(checked: Any) -> None:
    assert faults(checked.Ruled, b"\x0a\x01a\x10\x0a") == {
        "name": "string.min_len",
        "size": "int32.gte_lte",
    }
    check = check_of(checked.Ruled)
    assert check is not None
    check(checked.Ruled.from_bytes(b"\x0a\x03abc\x10\x01"))


def test_rules_of_what_a_message_holds(checked: Any) -> None:
    data = b"\x12\x09" + b"\x0a\x07\x0a\x03abc\x10\x0a"
    assert faults(checked.Holder, data) == {"more.items[0].size": "int32.gte_lte"}


def test_rules_of_a_whole_message(checked: Any) -> None:
    assert faults(checked.Whole, b"\x08\x02\x10\x01") == {"": "whole.order"}
