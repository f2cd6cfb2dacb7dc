"""Names that mean something to Python, and packages that import each other."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from google.protobuf.empty_pb2 import Empty
from google.protobuf.unknown_fields import UnknownFieldSet
from tests.codegen.project import python

from protoplane_base import DecodeError

pytestmark = pytest.mark.codegen

PACKAGES = (
    "odd.import_.v1",
    "json_",
    "import_",
    "copy_",
    "nopkg",
    "crossed.a",
    "crossed.b",
)

ALONE = """
import importlib, os, sys, traceback
import protoplane_base, google.protobuf.struct_pb2, google.protobuf.any_pb2

failed = 0
for name in sys.argv[1:]:
    child = os.fork()
    if not child:
        try:
            module = importlib.import_module(name)
            for exported in getattr(module, "__all__", ()):
                getattr(module, exported)
        except BaseException:
            print("importing", name, file=sys.stderr)
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
        os._exit(0)
    failed += os.waitpid(child, 0)[1] != 0
sys.exit(failed)
"""


def modules(out: Path) -> list[str]:
    return [
        path.relative_to(out).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")
        for path in sorted(out.rglob("*.py"))
    ]


def messages(package: ModuleType) -> list[Any]:
    exported = (getattr(package, name) for name in package.__all__)
    return [value for value in exported if hasattr(value, "model_validate_json")]


def test_every_module_can_be_the_first_that_is_imported(odd_out: Path) -> None:
    found = modules(odd_out)
    assert len(found) > 25
    done = python(ALONE, odd_out, arguments=found)
    assert done.returncode == 0, done.stderr


def test_every_module_is_python(odd_out: Path) -> None:
    for path in odd_out.rglob("*.py*"):
        if path.suffix in {".py", ".pyi"}:
            ast.parse(path.read_text(encoding="utf-8"), str(path))


def test_standard_modules_stay_what_they_are(odd_out: Path) -> None:
    done = python(
        "import json_, copy_, import_, json, copy; json.loads('1'); copy.copy(1);"
        "print(json_.json(json='x').model_dump_json())",
        odd_out,
    )
    assert (done.returncode, done.stdout) == (0, '{"json":"x"}\n'), done.stderr


@pytest.mark.parametrize("package", PACKAGES)
def test_every_empty_message_round_trips(odd_out: Path, package: str) -> None:
    module = importlib.import_module(package)
    for model in messages(module):
        if model.__name__ == "Required":
            continue
        empty = model.model_validate_json("{}")
        assert empty == model()
        assert empty.model_dump_json() == "{}"
        assert model.from_bytes(empty.to_bytes()) == empty
        model.model_json_schema()


def test_every_field_keeps_its_names_and_value(odd: ModuleType) -> None:
    descriptor = odd.Fields.__pb__.DESCRIPTOR
    special = {"list": ["l"], "dict": {"k": 1}, "bytes": "AAE=", "bool": True, "float": 0.5}
    special |= {"int": 13}
    by_name = {field.name: special.get(field.name, field.name) for field in descriptor.fields}
    by_json_name = {field.json_name: by_name[field.name] for field in descriptor.fields}
    model = odd.Fields.model_validate_json(json.dumps(by_json_name))
    assert json.loads(model.model_dump_json()) == by_json_name
    assert odd.Fields.model_validate_json(json.dumps(by_name)) == model
    assert odd.Fields.from_bytes(model.to_bytes()) == model
    # The wire has each field's own value under its own number.
    fields: Any = UnknownFieldSet(Empty.FromString(model.to_bytes()))
    on_wire = {field.field_number: field.data for field in fields}
    for field in descriptor.fields:
        if field.name not in {*special, "dict"}:
            assert on_wire[field.number] == field.name.encode()
    assert len(on_wire) == len(descriptor.fields)


def test_names_of_protobuf_methods_do_not_spoil_errors(odd: ModuleType) -> None:
    with pytest.raises(DecodeError, match=r"odd\.import\.v1\.Fields"):
        odd.Fields.from_bytes(b"\xff")


def test_python_names_take_an_underscore_only_where_they_must(odd: ModuleType) -> None:
    names = set(odd.Fields.model_fields)
    assert {"import_", "None_", "copy_", "json_", "schema_", "model_config_", "class__"} <= names
    assert {"lead_", "lead__", "list_", "dict_", "to_pb_", "from_bytes_", "async_"} <= names
    assert {"int", "str", "bytes", "type", "print", "self", "cls", "pb", "match"} <= names


def test_nested_and_flat_types_of_one_spelling_are_two(odd: ModuleType) -> None:
    outer = odd.Outer(
        inner=odd.Outer.Inner(nested=1, up=odd.Outer()),
        outer_inner=odd.OuterInner(flat=2),
        inners={-3: odd.Outer.Inner(nested=3)},
    )
    assert outer.model_dump_json() == (
        '{"inner":{"nested":1,"up":{}},"outerInner":{"flat":2},"inners":{"-3":{"nested":3}}}'
    )
    assert odd.Outer.from_bytes(outer.to_bytes()) == outer


def test_messages_that_hold_themselves_and_each_other(odd: ModuleType) -> None:
    text = '{"Bar":{"foo":{"Foo":{"foos":[{},{"Bar":{}}]}}}}'
    foo = odd.Foo.model_validate_json(text)
    assert isinstance(foo.Bar, odd.Bar)
    assert foo.Bar.foo.Foo.foos[1].Bar == odd.Bar()
    assert foo.model_dump_json() == text
    assert odd.Foo.from_bytes(foo.to_bytes()) == foo
    tree = odd.list_(list_=[odd.list_(), odd.list_(list_=[odd.list_()])])
    assert tree.model_dump_json() == '{"list":[{},{"list":[{}]}]}'


def test_messages_called_as_what_generated_code_uses(odd: ModuleType) -> None:
    text = '{"value":null,"Message":{"String":"s"},"struct":{"a":[1,null]}}'
    assert odd.String.model_validate_json(text).model_dump_json() == text
    assert odd.None_(None_="n").model_dump_json() == '{"None":"n"}'
    assert odd.class_(class_=1).model_dump_json() == '{"class":1}'
    assert odd.Under_(a=1).model_dump_json() == '{"a":1}'
    assert odd.DESCRIPTOR(DESCRIPTOR=4).model_dump_json() == '{"DESCRIPTOR":4}'
    assert odd.DESCRIPTOR.from_bytes(b"\x08\x04") == odd.DESCRIPTOR(DESCRIPTOR=4)


def test_packages_import_each_other_in_both_directions(odd_out: Path) -> None:
    a = importlib.import_module("crossed.a")
    b = importlib.import_module("crossed.b")
    value = b.B0(a=a.A1(b=b.B1(a=a.A2(number=1)), b1_models=2, implicit=3))
    assert value.model_dump_json() == '{"a":{"b":{"a":{"number":1}},"b1Models":2,"implicit":3}}'
    assert b.B0.from_bytes(value.to_bytes()) == value
    assert a.A1().implicit == 0
    assert a.A1().b1_models is None


def test_a_file_with_only_enums_and_a_file_without_a_package(odd_out: Path) -> None:
    only = importlib.import_module("copy_")
    assert only.__all__ == ["OnlyEnum"]
    assert only.OnlyEnum.ONLY_ENUM_ONE == 1
    assert importlib.import_module("nopkg").Hello(to="you").model_dump_json() == '{"to":"you"}'


def test_an_empty_file_makes_no_package(odd_out: Path) -> None:
    assert not (odd_out / "empty").exists()
    assert (odd_out / "empty_pb2.py").exists()


def test_enum_members_keep_their_proto_names(odd: ModuleType) -> None:
    Kind = odd.Kinds.Kind
    values = {
        value.name: value.number for value in odd.Kinds.__pb__.DESCRIPTOR.enum_types[0].values
    }
    assert {member.proto_name: int(member) for member in Kind} == values
    for name, number in values.items():
        read = odd.Kinds.model_validate_json(f'{{"kinds":["{name}",{number}]}}')
        assert read.kinds == [Kind(number)] * 2
        assert read.model_dump_json() == f'{{"kinds":["{name}","{name}"]}}'
        assert odd.Kinds.from_bytes(read.to_bytes()) == read
    by_flag = '{"byFlag":{"true":"import","false":"B"}}'
    assert odd.Kinds.model_validate_json(by_flag).model_dump_json() == by_flag


def test_aliases_of_an_enum_are_one_member(odd: ModuleType) -> None:
    assert odd.Color.CRIMSON is odd.Color.RED
    read = odd.UseColor.model_validate_json('{"many":["CRIMSON","RED",1],"Color":"lower_a"}')
    assert read.model_dump_json() == '{"many":["RED","RED","RED"],"Color":"lower_a"}'
    assert read.chosen is None


@pytest.mark.parametrize("name", ["Name", "NameService", "Service"])
def test_services_and_clients_have_names_of_their_own(odd: ModuleType, name: str) -> None:
    assert odd.NameClient().model_dump_json() == "{}"
    service = getattr(odd, name)
    assert service.spec.full_name == f"odd.import.v1.{name}"
    clients = [
        getattr(odd, exported)
        for exported in odd.__all__
        if getattr(getattr(odd, exported), "spec", None) is service.spec
    ]
    assert len(clients) == 2, "a base and a client"


def test_rpcs_of_every_name_can_be_implemented_and_called(odd: ModuleType) -> None:
    spec = odd.Name.spec
    assert list(spec.methods) == [
        *("import", "Import", "None", "copy", "__class__", "__init__", "spec", "_channel"),
        *("float", "HTTPServer2Go"),
    ]
    python_names = [method.python_name for method in spec.methods.values()]
    assert len(set(python_names)) == len(python_names)
    assert python_names[-1].startswith("http_server")
    client = next(
        getattr(odd, name)
        for name in odd.__all__
        if name != "Name" and getattr(getattr(odd, name), "spec", None) is spec
    )
    for name in python_names:
        assert name.isidentifier()
        assert inspect.iscoroutinefunction(getattr(odd.Name, name)) or inspect.isasyncgenfunction(
            getattr(odd.Name, name)
        )
        assert callable(getattr(client, name))
    assert client.__init__ is not odd.Name.__init__
