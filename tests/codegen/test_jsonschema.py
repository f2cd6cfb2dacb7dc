"""JSON Schema documents: legal, and true to what protobuf's own JSON codec writes."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf import json_format, message_factory
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from tests.codegen.documents import Schema, references, resolve

from protoplane_codegen.api import Api
from protoplane_codegen.render.jsonschema import render_json_schema

CompileApi = Callable[[dict[str, str]], Api]
CompileSet = Callable[[dict[str, str]], FileDescriptorSet]

WIDE = {
    "acme/wide/v1/wide.proto": """
        // Things of every kind.
        syntax = "proto3";
        package acme.wide.v1;
        import "acme/base/v1/base.proto";
        import "google/protobuf/any.proto";
        import "google/protobuf/duration.proto";
        import "google/protobuf/empty.proto";
        import "google/protobuf/field_mask.proto";
        import "google/protobuf/struct.proto";
        import "google/protobuf/timestamp.proto";
        import "google/protobuf/wrappers.proto";

        // One of each.
        message Wide {
          double d = 1;
          float f = 2;
          int32 i32 = 3;
          uint32 u32 = 4;
          int64 i64 = 5;
          uint64 u64 = 6;
          bool b = 7;
          string s = 8;
          bytes by = 9;
          // How it looks.
          Color color = 10;
          repeated int64 many_longs = 11;
          repeated Color colors = 12 [deprecated = true];
          map<string, Inner> by_name = 13;
          map<int64, double> by_number = 14;
          map<bool, bytes> by_flag = 15;
          map<uint32, Color> by_code = 16;
          oneof choice {
            string text = 17;
            Inner inner = 18;
            google.protobuf.Int32Value boxed = 19;
            google.protobuf.NullValue nothing = 20;
          }
          oneof alternative {
            int32 left = 21;
            int32 right = 22;
          }
          google.protobuf.Any any = 23;
          google.protobuf.Duration duration = 24;
          google.protobuf.Empty empty = 25;
          google.protobuf.FieldMask mask = 26;
          google.protobuf.Struct struct = 27;
          google.protobuf.Value value = 28;
          google.protobuf.ListValue list = 29;
          google.protobuf.Timestamp time = 30;
          google.protobuf.Int64Value long_box = 31;
          google.protobuf.BytesValue bytes_box = 32;
          repeated google.protobuf.StringValue boxes = 33;
          Wide again = 34;
          acme.base.v1.Base base = 35;
          optional string maybe = 36;

          // Inside.
          message Inner {
            string name = 1;
            repeated Inner children = 2;
          }
        }

        // A colour.
        enum Color {
          option allow_alias = true;
          COLOR_UNSPECIFIED = 0;
          // As of roses.
          COLOR_RED = 1;
          COLOR_ROSE = 1 [deprecated = true];
          COLOR_NEGATIVE = -1;
        }
        """,
    "acme/base/v1/base.proto": """
        syntax = "proto3";
        package acme.base.v1;
        message Base { Kind kind = 1; }
        enum Kind { KIND_UNSPECIFIED = 0; }
        message Unused {}
        """,
}

VALID: list[Any] = [
    {},
    {"d": 1.5, "f": -0.0},
    {"d": "NaN", "f": "-Infinity"},
    {"i32": -(2**31), "u32": 2**32 - 1},
    {"i64": "-9223372036854775808", "u64": "18446744073709551615"},
    {"i64": -5, "u64": 5},
    {"b": False, "s": "", "by": ""},
    {"by": "AAECAw=="},
    {"by": "AAECAw"},
    {"by": "-_-_"},
    {"color": "COLOR_ROSE", "colors": ["COLOR_RED", -1, 77]},
    {"manyLongs": ["1", 2, "-3"]},
    {"byName": {"": {"name": "x", "children": [{"children": [{}]}]}}},
    {"byNumber": {"-12": 1, "0": "Infinity"}, "byFlag": {"true": "AA==", "false": ""}},
    {"byCode": {"4294967295": "COLOR_RED"}},
    {"text": "one"},
    {"nothing": None, "left": 1},
    {"boxed": 5, "right": 1},
    {"any": {}},
    {"any": {"@type": "type.googleapis.com/acme.base.v1.Base", "kind": "KIND_UNSPECIFIED"}},
    {"duration": "1.500s", "empty": {}, "mask": "userName,photo.id"},
    {"duration": "-315576000000s", "mask": ""},
    {"struct": {"a": [None, {"b": 1}]}, "value": None, "list": [1, "x", None]},
    {"value": 3},
    {"time": "2026-01-31T12:00:00.123456789Z"},
    {"time": "2026-01-31T12:00:00+05:30"},
    {"longBox": None, "bytesBox": "AA=="},
    {"longBox": "7", "boxes": ["a", ""]},
    {"again": {"again": {"text": "deep"}}, "base": {"kind": 9}},
]

INVALID: list[Any] = [
    [],
    {"d": "nan"},
    {"d": "1.5"},
    {"f": True},
    {"i32": 2**31},
    {"i32": 1.5},
    {"u32": -1},
    {"i64": "1.5"},
    {"i64": 2**63},
    {"i64": "--1"},
    {"u64": "-1"},
    {"u64": -1},
    {"b": "true"},
    {"b": 1},
    {"s": 1},
    {"s": None},
    {"by": "A"},
    {"by": "A$=="},
    {"color": "RED"},
    {"color": 2**31},
    {"colors": "COLOR_RED"},
    {"colors": [None]},
    {"many_longs": ["1"]},
    {"manyLongs": [""]},
    {"byName": {"x": {"nickname": ""}}},
    {"byNumber": {"1.5": 1}},
    {"byFlag": {"yes": ""}},
    {"byCode": {"-1": "COLOR_RED"}},
    {"text": "one", "inner": {}},
    {"text": "one", "nothing": None},
    {"boxed": None},
    {"left": 1, "right": 2},
    {"text": "", "left": 1, "right": 2},
    {"any": {"kind": "KIND_UNSPECIFIED"}},
    {"any": {"@type": "Base"}},
    {"duration": "1.5"},
    {"duration": "1.1234567890s"},
    {"duration": "PT1S"},
    {"empty": {"x": 1}},
    {"mask": "user_name"},
    {"mask": ["a"]},
    {"struct": []},
    {"list": {}},
    {"nothing": "NULL_VALUE"},
    {"time": "2026-01-31 12:00:00Z"},
    {"time": "2026-01-31T12:00:00"},
    {"time": "2026-13-31T12:00:00Z"},
    {"longBox": {}},
    {"boxes": [None]},
    {"again": {"again": {"text": 5}}},
    {"base": {"kind": "KIND_ELSE"}},
    {"unknown": 1},
]


def schema_of(document: dict[str, Any], name: str) -> Schema:
    return Schema({**document, "$ref": f"#/$defs/{name}"})


@pytest.fixture
def wide(compile_api: CompileApi) -> dict[str, Any]:
    return render_json_schema(compile_api(WIDE), "acme.wide.v1")


def test_document_says_what_it_is(wide: dict[str, Any]) -> None:
    assert wide["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert wide["$id"] == "urn:proto:acme.wide.v1"
    assert wide["title"] == "acme.wide.v1"
    assert wide["description"] == "Things of every kind."


def test_document_stands_alone(wide: dict[str, Any]) -> None:
    names = list(wide["$defs"])
    assert names[:3] == ["Wide", "Wide.Inner", "Color"]
    assert names[3:] == sorted(names[3:])
    assert {"acme.base.v1.Base", "acme.base.v1.Kind", "google.protobuf.Timestamp"} <= set(names)
    assert "acme.base.v1.Unused" not in names
    found = references(wide)
    assert len(found) > 10
    for reference in found:
        assert isinstance(resolve(wide, reference), dict)


def test_prose_comes_from_comments(wide: dict[str, Any]) -> None:
    definitions = wide["$defs"]
    assert definitions["Wide"]["title"] == "Wide"
    assert definitions["Wide"]["description"] == "One of each."
    assert definitions["Wide.Inner"]["title"] == "Inner"
    assert definitions["Wide"]["properties"]["color"] == {
        "$ref": "#/$defs/Color",
        "description": "How it looks.",
    }
    assert definitions["Wide"]["properties"]["colors"]["deprecated"] is True
    assert definitions["Color"]["description"] == (
        "A colour.\n\n- `COLOR_UNSPECIFIED`\n- `COLOR_RED`: As of roses.\n"
        "- `COLOR_ROSE` (deprecated)\n- `COLOR_NEGATIVE`"
    )


@pytest.mark.parametrize("instance", VALID, ids=json.dumps)
def test_accepts(wide: dict[str, Any], instance: Any) -> None:
    schema_of(wide, "Wide").validate(instance)


@pytest.mark.parametrize("instance", INVALID, ids=json.dumps)
def test_refuses(wide: dict[str, Any], instance: Any) -> None:
    assert not schema_of(wide, "Wide").is_valid(instance)


@pytest.mark.parametrize("instance", VALID, ids=json.dumps)
def test_agrees_with_protobuf(
    compile_api: CompileApi, compile_set: CompileSet, instance: Any
) -> None:
    """What is accepted is read by protobuf, and what it writes of that is accepted."""
    pool = DescriptorPool()
    for file in compile_set(WIDE).file:
        pool.Add(file)
    message = message_factory.GetMessageClass(pool.FindMessageTypeByName("acme.wide.v1.Wide"))()
    json_format.ParseDict(instance, message, descriptor_pool=pool)
    schema = schema_of(render_json_schema(compile_api(WIDE), "acme.wide.v1"), "Wide")
    for defaults in (False, True):
        written = json_format.MessageToDict(
            message, always_print_fields_with_no_presence=defaults, descriptor_pool=pool
        )
        schema.validate(written)


def test_same_every_time(compile_api: CompileApi) -> None:
    once, again = (render_json_schema(compile_api(WIDE), "acme.wide.v1") for _ in range(2))
    assert json.dumps(once) == json.dumps(again)


def test_proto2(compile_api: CompileApi) -> None:
    api = compile_api(
        {
            "old.proto": r"""
            syntax = "proto2";
            package old;
            message Old {
              required string name = 1;
              optional int64 count = 2 [default = -7];
              optional bytes data = 3 [default = "\001\002"];
              optional double limit = 4 [default = inf];
              optional Level level = 5 [default = HIGH];
              optional bool flag = 6 [default = true];
              optional group Part = 7 { required int32 size = 1; }
            }
            enum Level { LOW = 1; HIGH = 2; }
            """
        }
    )
    document = render_json_schema(api, "old")
    old = document["$defs"]["Old"]
    assert old["required"] == ["name"]
    defaults = {name: field.get("default") for name, field in old["properties"].items()}
    assert defaults == {
        "name": None,
        "count": "-7",
        "data": "AQI=",
        "limit": "Infinity",
        "level": "HIGH",
        "flag": True,
        "part": None,
    }
    schema = schema_of(document, "Old")
    schema.validate({"name": "x", "level": 2, "part": {"size": 1}})
    assert not schema.is_valid({})
    assert not schema.is_valid({"name": "x", "level": 3})
    assert not schema.is_valid({"name": "x", "part": {}})


def test_editions_2023(compile_api: CompileApi) -> None:
    api = compile_api(
        {
            "new.proto": """
            edition = "2023";
            package new;
            message New {
              int32 need = 1 [features.field_presence = LEGACY_REQUIRED];
              Closed closed = 2;
              Open open = 3;
            }
            enum Closed { option features.enum_type = CLOSED; C_ONE = 1; }
            enum Open { O_ZERO = 0; }
            """
        }
    )
    schema = schema_of(render_json_schema(api, "new"), "New")
    schema.validate({"need": 1, "open": 9, "closed": 1})
    assert not schema.is_valid({"need": 1, "closed": 9})
    assert not schema.is_valid({"open": 9})


RULES = """
    syntax = "proto3";
    package rules.v1;
    import "buf/validate/validate.proto";
    message Rules {
      optional string name = 1 [(buf.validate.field).string = {
        min_len: 2, max_len: 4, pattern: "^[a-z]+$"
      }];
      optional int32 size = 2 [(buf.validate.field).int32 = {gt: 0, lte: 10}];
      optional uint64 wide = 3 [(buf.validate.field).uint64 = {gte: 5}];
      optional int64 whole = 4 [(buf.validate.field).int64 = {gt: -1}];
      optional double share = 5 [(buf.validate.field).double = {gte: 0, lt: 1}];
      optional float least = 6 [(buf.validate.field).float.gte = 0.5];
      repeated string tags = 7 [(buf.validate.field).repeated = {
        min_items: 1, max_items: 2, items: {string: {min_len: 2}}
      }];
      map<string, int32> counts = 8 [(buf.validate.field).map = {min_pairs: 1, max_pairs: 2}];
      optional bytes data = 9 [(buf.validate.field).bytes = {min_len: 2, max_len: 4}];
      optional string odd = 10 [(buf.validate.field).string.pattern = "^(?i)x\\\\z"];
      optional string phone = 11 [(buf.validate.field).string.pattern = "^\\\\(?[0-9]+\\\\)?$"];
    }
    """


@pytest.mark.parametrize(
    ("instance", "valid"),
    [
        ({"name": "abcd"}, True),
        ({"name": "a"}, False),
        ({"name": "abcde"}, False),
        ({"name": "ABC"}, False),
        ({"size": 10}, True),
        ({"size": 0}, False),
        ({"size": 11}, False),
        ({"wide": "5"}, True),
        ({"wide": 4}, False),
        ({"whole": "3"}, True),
        ({"whole": "-3"}, False),
        ({"whole": -1}, False),
        ({"share": 0.5}, True),
        ({"share": 1}, False),
        ({"share": "NaN"}, False),
        ({"share": "Infinity"}, False),
        ({"least": "Infinity"}, True),
        ({"least": "-Infinity"}, False),
        ({"least": "NaN"}, False),
        ({"least": 0.4}, False),
        ({"tags": ["aa", "bb"]}, True),
        ({"tags": []}, False),
        ({"tags": ["aa", "bb", "cc"]}, False),
        ({"tags": ["a"]}, False),
        ({"counts": {"a": 1}}, True),
        ({"counts": {}}, False),
        ({"counts": {"a": 1, "b": 2, "c": 3}}, False),
        ({"data": "AAA"}, True),
        ({"data": "AAAAAA=="}, True),
        ({"data": "AA"}, False),
        ({"data": "AAAAAAAAAAAA"}, False),
        ({"odd": "anything"}, True),
        ({"phone": "(123)"}, True),
        ({"phone": "x"}, False),
    ],
    ids=json.dumps,
)
def test_rules(compile_api: CompileApi, instance: Any, valid: bool) -> None:
    document = render_json_schema(compile_api({"rules.proto": RULES}), "rules.v1")
    assert schema_of(document, "Rules").is_valid(instance) is valid


def test_names_are_unambiguous(compile_api: CompileApi) -> None:
    """A type is called by its full name where its short one is another type's full name."""
    api = compile_api(
        {
            "a.proto": """
            syntax = "proto3";
            package a;
            import "b.proto";
            message Use { .b.C theirs = 1; b.C ours = 2; }
            message b { message C { int32 own = 1; } }
            """,
            "b.proto": """
            syntax = "proto3";
            package b;
            message C { int32 foreign = 1; }
            """,
        }
    )
    document = render_json_schema(api, "a")
    assert list(document["$defs"]) == ["Use", "b", "a.b.C", "b.C"]
    schema = schema_of(document, "Use")
    schema.validate({"theirs": {"foreign": 1}, "ours": {"own": 1}})
    assert not schema.is_valid({"theirs": {"own": 1}})


def test_no_package(compile_api: CompileApi) -> None:
    api = compile_api({"x.proto": 'syntax = "proto3"; message X { X x = 1; }'})
    document = render_json_schema(api, "")
    assert document["$id"] == "urn:proto:-"
    schema_of(document, "X").validate({"x": {"x": {}}})


def test_large_oneof_stays_small(compile_api: CompileApi) -> None:
    members = "".join(f"int32 m{n} = {n}; " for n in range(1, 101))
    api = compile_api(
        {"big.proto": f'syntax = "proto3"; message Big {{ oneof one {{ {members} }} }}'}
    )
    document = render_json_schema(api, "")
    assert len(json.dumps(document)) < 20_000
    schema = schema_of(document, "Big")
    schema.validate({"m100": 1})
    assert not schema.is_valid({"m1": 1, "m100": 1})
