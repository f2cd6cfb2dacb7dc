"""Faults of schemas: file, line and what to do; exit 2, no traceback, nothing written."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.codegen.project import generate_command, protoplane, write_schemas

pytestmark = pytest.mark.codegen

HEAD = 'syntax = "proto3";\npackage bad.v1;\n'
EVENT = HEAD + 'import "protoplane/v1/annotations.proto";\n'


def event(key: str, fields: str = "string id = 1;") -> str:
    return EVENT + (
        "message Done {\n"
        f'  option (protoplane.v1.event).key = "{key}";\n'
        f"  {fields}\n"
        "  repeated string many = 8;\n"
        "  Done inner = 9;\n"
        "}\n"
    )


def component(name: str) -> str:
    return EVENT + (
        "message M {}\n"
        "service S {\n"
        f'  option (protoplane.v1.component).name = "{name}";\n'
        "  rpc A(M) returns (M);\n"
        "}\n"
    )


FAULTS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "syntax": (HEAD + "message M {\n  string a 1;\n}\n", ":4:12:", ('Missing field number',)),
    "unknown type": (HEAD + "message M {\n  Nothing a = 1;\n}\n", ":4:3:", ('"Nothing"',)),
    "one number twice": (
        HEAD + "message M {\n  string a = 1;\n  string b = 1;\n}\n", ":5:", ("already been used",)
    ),
    "one name twice": (
        HEAD + "message M {}\nenum M {\n  Z = 0;\n}\n", ":4:6:", ('"M" is already defined',)
    ),
    "one JSON name twice": (
        HEAD + "message M {\n  string a_b = 1;\n  string aB = 2;\n}\n", ":5:", ("aB",)
    ),
    "unknown import": (
        HEAD + 'import "not/there.proto";\n', ":3:1:",
        ("not/there.proto is imported but stands in no import folder", "-I"),
    ),
    "unknown option": (
        HEAD + "message M {\n  option (nobody.knows) = 1;\n}\n", ":4:", ("nobody.knows",)
    ),
    "key without a field": (
        event("done/{nobody}"), ":4:", ("{nobody} names no field", "fields are: id, many, inner")
    ),
    "key of a list": (event("done/{many}"), ":4:", ("{many} is no single scalar or enum",)),
    "key of a message": (event("done/{inner}"), ":4:", ("{inner} is no single scalar",)),
    "key of bytes": (event("done/{id}", "bytes id = 1;"), ":4:", ("{id} is no single scalar",)),
    "key with a slash": (event("/done/{id}"), ":4:", ("neither starts nor ends", "write it as in")),
    "key of nothing": (event(""), ":4:", ("neither starts nor ends",)),
    "key with a hole": (event("done//x"), ":4:", ("no empty segment",)),
    "key with a star": (event("done/*"), ":4:", ("key expression",)),
    "key with one brace": (event("done/{id"), ":4:", ("braces do not match",)),
    "component in capitals": (component("Forge/X"), ":5:", ("'Forge/X' is no component name",)),
    "component with a slash": (component("forge/"), ":5:", ("is no component name",)),
    "component with a space": (component("a b"), ":5:", ("for example forge/captioner",)),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_says_where_it_is_and_what_to_do(tmp_path: Path, name: str) -> None:
    schema, line, said = FAULTS[name]
    root = write_schemas(tmp_path / "proto", {"bad/v1/bad.proto": schema})
    done = generate_command(root, "--out", tmp_path / "out")
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert f"bad/v1/bad.proto{line}" in done.stderr
    for words in said:
        assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_faults_are_the_same_under_check(tmp_path: Path) -> None:
    root = write_schemas(tmp_path / "proto", {"bad.proto": event("done/{nobody}")})
    done = protoplane("generate", root, "--out", tmp_path / "out", "--check")
    assert done.returncode == 2
    assert "bad.proto:4" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("schemas", "said"),
    [
        ({"a-b.proto": "package one;", "a_b.proto": "package two;"}, "Python module a_b_pb2"),
        ({"a.proto": "package json;", "b.proto": "package json_;"}, "Python package json_"),
        ({"x/a.proto": "", "b.proto": "package x.a;"}, "Python package x.a"),
    ],
)
def test_two_schemas_of_one_python_name(tmp_path: Path, schemas: dict[str, str], said: str) -> None:
    texts = {
        name: f'syntax = "proto3"; {package} message M {{}}' for name, package in schemas.items()
    }
    root = write_schemas(tmp_path / "proto", texts)
    done = generate_command(root, "--out", tmp_path / "out")
    assert done.returncode == 2, done.stdout
    assert said in done.stderr
    assert "rename one" in done.stderr
    for name in schemas:
        assert name in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["missing", "empty", "file"])
def test_a_root_without_schemas(tmp_path: Path, kind: str) -> None:
    root = tmp_path / "proto"
    if kind == "empty":
        root.mkdir()
    elif kind == "file":
        root.write_text(HEAD)
    done = generate_command(root, "--out", tmp_path / "out")
    assert done.returncode == 2
    assert str(root) in done.stderr
    assert ".proto file" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_output_that_is_a_file(tmp_path: Path) -> None:
    root = write_schemas(tmp_path / "proto", {"good.proto": HEAD + "message M {}\n"})
    (tmp_path / "out").write_text("mine")
    done = generate_command(root, "--out", tmp_path / "out")
    assert done.returncode == 2
    assert str(tmp_path / "out") in done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "out").read_text() == "mine"


def test_options_that_do_not_exist(tmp_path: Path) -> None:
    root = write_schemas(tmp_path / "proto", {"good.proto": HEAD + "message M {}\n"})
    done = generate_command(root, "--out", tmp_path / "out", "--models", "attrs")
    assert done.returncode == 2
    assert "msgspec" in done.stderr
    assert generate_command(root).returncode == 2
