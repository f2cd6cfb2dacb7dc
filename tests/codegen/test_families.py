"""Other families of Python types: they compile, import, and hold the JSON as it is."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import json
import subprocess
import sys
import typing
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from protoplane_codegen.api import Api
from protoplane_codegen.outputs import FAMILIES
from protoplane_codegen.render.families import render_family
from protoplane_codegen.render.jsonschema import render_json_schema

CompileApi = Callable[[dict[str, str]], Api]

NEEDS = {"msgspec": "msgspec"}

SHAPES = {
    "acme/shapes/v1/shapes.proto": r'''
        // Shapes.
        syntax = "proto3";
        package acme.shapes.v1;
        import "buf/validate/validate.proto";
        import "google/protobuf/any.proto";
        import "google/protobuf/struct.proto";
        import "google/protobuf/timestamp.proto";
        import "google/protobuf/wrappers.proto";

        // A shape with """quotes""", a \ and a #.
        message Shape {
          // How wide.
          double width = 1;
          int64 id = 2;
          bytes data = 3;
          Color color = 4;
          repeated Shape parts = 5;
          map<int32, Outer.Inner> inner = 6;
          google.protobuf.Timestamp made = 7;
          google.protobuf.Struct extra = 8;
          google.protobuf.Value value = 9;
          google.protobuf.Any any = 10;
          google.protobuf.Int32Value boxed = 11;
          oneof one { string a = 12; bool b = 13; }
          int32 small = 14 [(buf.validate.field).int32 = {gte: 1, lte: 9}];
          Leaf leaf = 15;
          google.protobuf.ListValue list = 16;
        }
        message Leaf { Shape back = 1; }
        message Outer { message Inner { string x = 1; } }
        message OuterInner { string y = 1; }
        message Timestamp { string mine = 1; }
        // How it looks.
        enum Color { COLOR_UNSPECIFIED = 0; COLOR_RED = 1; }
        '''
}

# Names that mean something to Python, to these libraries, or to code made for them.
ODD_FIELDS = """
    class None import copy json schema model_config __class__ _x field int str list dict bool float
    Struct Meta UNSET Any self Literal type dataclass NotRequired TypedDict keys items object
    Annotated TypeAlias Odd x__y UPPER_CASE camelCase
"""
ODD_MESSAGES = "None class import field str dict Struct Meta Any Literal Error lower_case"
ODD = {
    "odd.proto": 'syntax = "proto3"; package odd; message Odd {'
    + " ".join(f"string {name} = {n};" for n, name in enumerate(ODD_FIELDS.split(), 1))
    + "}"
    + " ".join(f"message {name} {{ .odd.{name} {name} = 1; }}" for name in ODD_MESSAGES.split())
    + "enum Words { WORDS_ZERO = 0; True = 1; def = 2; }"
    + "message LowerCase { Words words = 1; } message Empty {}"
}

OLD = {
    "old.proto": 'syntax = "proto2"; package old; enum Level { LOW = 1; HIGH = 2; }'
    "message Old { optional Level level = 1 [default = HIGH]; required string name = 2; }"
}

DOCUMENT: dict[str, Any] = {
    "width": "NaN",
    "id": "9223372036854775807",
    "data": "AA==",
    "color": "COLOR_RED",
    "parts": [{"color": 7, "width": 1.5}],
    "inner": {"-1": {"x": "y"}},
    "made": "2026-01-31T12:00:00.123456789Z",
    "extra": {"a": [None]},
    "value": None,
    "any": {"@type": "x/y", "z": 1},
    "boxed": 3,
    "a": "b",
    "small": 9,
    "leaf": {"back": {}},
    "list": [1, "x"],
}


@pytest.fixture
def load(
    compile_api: CompileApi, tmp_path: Path, request: pytest.FixtureRequest
) -> Callable[[dict[str, str], str, str], ModuleType]:
    """Renders a family of a package's types and imports it."""

    def load(files: dict[str, str], package: str, family: str) -> ModuleType:
        if family in NEEDS:
            pytest.importorskip(NEEDS[family])
        path = write(compile_api(files), package, family, tmp_path)
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = module
        request.addfinalizer(lambda: sys.modules.pop(path.stem))
        spec.loader.exec_module(module)
        return module

    return load


Load = Callable[[dict[str, str], str, str], ModuleType]


def write(api: Api, package: str, family: str, folder: Path) -> Path:
    path = folder / f"{package.replace('.', '_')}_{family}.py"
    path.write_text(render_family(render_json_schema(api, package), family))
    return path


def own_classes(module: ModuleType) -> dict[str, Any]:
    return {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, type) and value.__module__ == module.__name__
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_header_and_sameness(compile_api: CompileApi, family: str) -> None:
    document = render_json_schema(compile_api(SHAPES), "acme.shapes.v1")
    before = json.dumps(document)
    code = render_family(document, family)
    assert code == render_family(document, family)
    assert json.dumps(document) == before
    first, second = code.splitlines()[:2]
    assert first.startswith("# DO NOT EDIT: generated by protoplane ")
    assert "acme.shapes.v1" in second
    assert "datamodel-codegen" not in code


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("files", "package"), [(SHAPES, "acme.shapes.v1"), (ODD, "odd"), (OLD, "old")]
)
def test_compiles(
    compile_api: CompileApi, files: dict[str, str], package: str, family: str, tmp_path: Path
) -> None:
    path = write(compile_api(files), package, family, tmp_path)
    compile(path.read_text(), str(path), "exec")


@pytest.mark.parametrize("family", FAMILIES)
def test_no_types(compile_api: CompileApi, family: str) -> None:
    api = compile_api({"none.proto": 'syntax = "proto3"; package none; service S {}'})
    code = render_family(render_json_schema(api, "none"), family)
    assert "DO NOT EDIT" in code
    compile(code, "none", "exec")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("files", "package"), [(SHAPES, "acme.shapes.v1"), (ODD, "odd"), (OLD, "old")]
)
def test_hints_resolve(load: Load, files: dict[str, str], package: str, family: str) -> None:
    classes = own_classes(load(files, package, family))
    assert classes
    for each in classes.values():
        typing.get_type_hints(each)


@pytest.mark.parametrize("family", FAMILIES)
def test_names(load: Load, family: str) -> None:
    """A package's own types keep their names, whatever else would like to have them."""
    module = load(SHAPES, "acme.shapes.v1", family)
    hints = {name: set(typing.get_type_hints(each)) for name, each in own_classes(module).items()}
    assert hints["OuterInner"] == {"y"}
    assert hints["OuterInner2"] == {"x"}
    assert hints["Timestamp"] == {"mine"}
    assert module.GoogleProtobufTimestamp is not None
    odd = load(ODD, "odd", family)
    assert set(typing.get_type_hints(odd.LowerCase)) == {"words"}
    assert set(typing.get_type_hints(odd.LowerCase2)) == {"lowerCase"}


def test_typeddict_has_the_json_names(load: Load) -> None:
    module = load(ODD, "odd", "typeddict")
    assert {"class", "None", "X", "Class", "modelConfig", "camelCase"} <= set(
        typing.get_type_hints(module.Odd)
    )


def test_typeddict_knows_what_is_required(load: Load) -> None:
    old = load(OLD, "old", "typeddict").Old
    assert old.__required_keys__ == {"name"}
    assert old.__optional_keys__ == {"level"}


def test_dataclass_absence_is_none(load: Load) -> None:
    module = load(SHAPES, "acme.shapes.v1", "dataclass")
    shape = module.Shape(width=1.0, parts=[module.Shape(color="COLOR_RED")])
    assert dataclasses.asdict(shape.parts[0]).pop("color") == "COLOR_RED"
    assert shape.id is None
    with pytest.raises(TypeError):
        module.Shape(1.0)
    with pytest.raises(TypeError):
        load(OLD, "old", "dataclass").Old()


def test_enums_are_names_or_numbers(load: Load) -> None:
    color = load(SHAPES, "acme.shapes.v1", "dataclass").Color
    assert set(typing.get_args(color)) == {
        typing.Literal["COLOR_UNSPECIFIED", "COLOR_RED"],
        int,
    }


def test_msgspec_reads_and_writes_the_json(load: Load) -> None:
    module = load(SHAPES, "acme.shapes.v1", "msgspec")
    msgspec = importlib.import_module("msgspec")
    shape = msgspec.json.decode(json.dumps(DOCUMENT), type=module.Shape)
    assert (shape.parts[0].color, shape.data) == (7, "AA==")
    assert json.loads(msgspec.json.encode(shape)) == DOCUMENT
    for wrong in ('{"small": 10}', '{"color": "RED"}', '{"width": "1"}', '{"id": []}'):
        with pytest.raises(msgspec.ValidationError):
            msgspec.json.decode(wrong, type=module.Shape)


def test_msgspec_odd_names(load: Load) -> None:
    module = load(ODD, "odd", "msgspec")
    msgspec = importlib.import_module("msgspec")
    odd = {"class": "a", "None": "b", "self": "c", "field": "d", "UNSET": "e", "X": "f"}
    read = msgspec.json.decode(json.dumps(odd), type=module.Odd)
    assert (read.class_, read.None_, read.X) == ("a", "b", "f")
    assert json.loads(msgspec.json.encode(read)) == odd


@pytest.mark.parametrize("family", ["dataclass", "typeddict"])
@pytest.mark.parametrize(("files", "package"), [(SHAPES, "acme.shapes.v1"), (ODD, "odd")])
def test_mypy_is_content(
    compile_api: CompileApi, files: dict[str, str], package: str, family: str, tmp_path: Path
) -> None:
    pytest.importorskip("mypy")
    path = write(compile_api(files), package, family, tmp_path)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "mypy",
            "--strict",
            "--config-file=",
            "--cache-dir",
            tmp_path / "c",
            path,
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
