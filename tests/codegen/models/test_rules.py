"""protovalidate's rules: native constraints where they say the same, the library for the rest."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest
from pydantic import ValidationError

from protoplane_base import Violation, violations
from protoplane_base.errors import MissingExtraError

pytestmark = pytest.mark.codegen

GOOD = '{"name":"abc","count":3,"tags":["x"],"ratio":0.5,"wide":"11","raw":"AAA="}'


def errors(model: Any, text: str) -> dict[tuple[str | int, ...], str]:
    with pytest.raises(ValidationError) as caught:
        model.model_validate_json(text)
    return {error["loc"]: f"{error['type']}: {error['msg']}" for error in caught.value.errors()}


def test_what_keeps_the_rules_is_taken(rules: ModuleType) -> None:
    read = rules.Simple.model_validate_json(GOOD)
    assert rules.Simple.from_bytes(read.to_bytes()) == read
    assert violations(read) == []


@pytest.mark.parametrize(
    ("field", "value", "where", "kind"),
    [
        ("name", '"a"', (), "string_too_short"),
        ("name", '"abcdef"', (), "string_too_long"),
        ("name", '"ABC"', (), "string_pattern_mismatch"),
        ("count", "0", (), "greater_than_equal"),
        ("count", '"10"', (), "less_than"),
        ("tags", "[]", (), "too_short"),
        ("tags", '["a","b","c","d"]', (), "too_long"),
        ("tags", '["a",""]', (1,), "string_too_short"),
        ("ratio", "0", (), "greater_than"),
        ("ratio", '"Infinity"', (), "less_than_equal"),
        ("wide", '"10"', (), "greater_than"),
        ("raw", '"AA=="', (), "bytes_too_short"),
        ("scores", '{"a":1,"b":2,"c":3}', (), "too_long"),
    ],
)
def test_simple_rules_are_native_constraints(
    rules: ModuleType, field: str, value: str, where: tuple[int, ...], kind: str
) -> None:
    import json

    text = json.dumps({**json.loads(GOOD), field: json.loads(value)})
    found = errors(rules.Simple, text)
    assert list(found) == [(field, *where)]
    assert found[(field, *where)].startswith(f"{kind}: ")


def test_simple_rules_show_in_json_schema(rules: ModuleType) -> None:
    schema = rules.Simple.model_json_schema(mode="validation")
    shown = schema["properties"]
    assert (shown["name"]["minLength"], shown["name"]["maxLength"]) == (2, 5)
    assert shown["name"]["pattern"] == "^[a-z]+$"
    assert (shown["count"]["minimum"], shown["count"]["exclusiveMaximum"]) == (1, 10)
    assert (shown["tags"]["minItems"], shown["tags"]["maxItems"]) == (1, 3)
    assert shown["tags"]["items"]["minLength"] == 1
    assert shown["scores"]["maxProperties"] == 2


def test_defaults_are_held_to_the_rules(rules: ModuleType) -> None:
    assert set(errors(rules.Simple, "{}")) == {("name",), ("count",), ("tags",)}
    with pytest.raises(ValidationError, match="3 validation errors"):
        rules.Simple()
    assert rules.Relaxed().model_dump_json() == "{}"
    assert set(errors(rules.Relaxed, '{"parts":[{}],"port":65536}')) == {
        ("port",), ("parts", 0, "name"), ("parts", 0, "count"), ("parts", 0, "tags")
    }  # fmt: skip


def test_simple_rules_hold_on_assignment(rules: ModuleType) -> None:
    relaxed = rules.Relaxed(port=80)
    with pytest.raises(ValidationError, match="port"):
        relaxed.port = 65536
    assert relaxed.port == 80


def test_what_comes_from_the_wire_is_checked_on_request(rules: ModuleType) -> None:
    found = violations(rules.Simple.from_bytes(b""))
    assert {violation.path for violation in found} == {("name",), ("count",), ("tags",)}
    nested = violations(rules.Relaxed.from_bytes(b"\x12\x00"))
    assert {v.path for v in nested} == {("parts", 0, f) for f in ("name", "count", "tags")}
    assert all(isinstance(violation, Violation) for violation in found)


@pytest.mark.parametrize(
    ("text", "where", "rule"),
    [
        ('{"a":"x","b":"x"}', (), "a must not be b [hard.different]"),
        ('{"mail":"nobody"}', ("mail",), "[string.email]"),
        ('{"even":3}', ("even",), "must be even [even]"),
        ('{"unique":[1,2,1]}', ("unique",), "[repeated.unique]"),
        ('{"outside":7}', ("outside",), "[int32."),
    ],
)
def test_other_rules_are_checked_by_the_library(
    rules: ModuleType, text: str, where: tuple[str, ...], rule: str
) -> None:
    found = errors(rules.Hard, text)
    assert list(found) == [where]
    assert rule in found[where]
    assert found[where].startswith("rule: ")


@pytest.mark.parametrize(
    "text",
    [
        *("{}", '{"mail":""}', '{"mail":"a@b.c"}', '{"never":1}', '{"outside":3}'),
        *('{"outside":11}', '{"even":2,"unique":[1,2]}'),
    ],
)
def test_other_rules_let_pass_what_keeps_them(rules: ModuleType, text: str) -> None:
    assert rules.Hard.model_validate_json(text).model_dump_json() in {text, "{}"}


def test_broken_rules_of_nested_messages_have_the_whole_path(rules: ModuleType) -> None:
    assert set(errors(rules.Hard, '{"inner":{"even":1}}')) == {("inner", "even")}
    assert set(errors(rules.Hard, '{"many":[{},{"mail":"x"}]}')) == {("many", 1, "mail")}
    assert set(errors(rules.Hard, '{"named":{"k":{"even":1}}}')) == {("named", "k", "even")}
    # From the wire the library sees the whole message at once.
    pb = rules.Hard.__pb__()
    pb.many.add()
    pb.many.add().inner.even = 1
    pb.named["k"].even = 1
    found = {violation.path: violation for violation in violations(rules.Hard.from_pb(pb))}
    assert set(found) == {("many", 1, "inner", "even"), ("named", "k", "even")}
    assert found["many", 1, "inner", "even"].rule == "even"
    assert found["many", 1, "inner", "even"].message == "must be even"


def test_required_fields_and_oneofs(rules: ModuleType) -> None:
    assert "[required]" in errors(rules.Needed, "{}")["relaxed",]
    assert rules.Needed(relaxed=rules.Relaxed()).model_dump_json() == '{"relaxed":{}}'
    assert "[required]" in next(iter(errors(rules.OneOfThem, "{}").values()))
    assert ("text",) in errors(rules.OneOfThem, '{"text":"ab"}')
    assert rules.OneOfThem(number=0).which_oneof("choice") == "number"


def test_other_rules_hold_on_assignment(rules: ModuleType) -> None:
    hard = rules.Hard(a="x")
    with pytest.raises(ValidationError, match="a must not be b"):
        hard.b = "x"


def test_without_the_library_the_extra_is_named(
    rules: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    from protoplane_base import rules as implementation

    implementation._validator.cache_clear()  # pyright: ignore[reportPrivateUsage]
    for name in [name for name in sys.modules if name.partition(".")[0] == "protovalidate"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "protovalidate", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'protoplane\[validate\]'"):
        rules.Hard()
    with pytest.raises(MissingExtraError, match=r"pip install 'protoplane\[validate\]'"):
        violations(rules.Relaxed())
    assert rules.Simple.model_validate_json(GOOD).count == 3, "native rules need no library"
