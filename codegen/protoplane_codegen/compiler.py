"""protoc, as grpcio-tools brings it, with the schemas that come with the installed wheels."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory

from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

from protoplane_base import MissingExtraError
from protoplane_codegen.errors import CompilerError, GenerateError

VALIDATE = "buf/validate/validate.proto"


def find_schemas(root: Path) -> list[str]:
    """Paths of the schemas under a folder, relative to it, in order.

    Raises:
        GenerateError: There is no such folder, or no schema in it.
    """
    if not root.is_dir():
        raise GenerateError(f"{root} is no folder; name the one that holds your .proto files")
    found = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.proto"))
    if not found:
        raise GenerateError(f"{root} holds no .proto file; imports are relative to this folder")
    return found


def include_folders() -> list[Path]:
    """Folders with the schemas that can always be imported: ours, Google's, the well-known ones.

    Raises:
        MissingExtraError: grpcio-tools is not installed.
    """
    ours = Path(str(files("protoplane_codegen"))) / "include"
    # In a checkout the schemas stand beside the package rather than in it.
    checkout = Path(__file__).resolve().parents[2] / "proto"
    ours = ours if ours.is_dir() else checkout
    google = importlib.util.find_spec("google.api")
    tools = importlib.util.find_spec("grpc_tools")
    if tools is None or tools.origin is None:
        raise MissingExtraError("codegen", "generating code")
    folders = [Path(tools.origin).parent / "_proto"]
    if google is not None and google.submodule_search_locations:
        folders.insert(0, Path(next(iter(google.submodule_search_locations))).parents[1])
    return [ours, *folders]


def compile_schemas(
    root: Path, schemas: Sequence[str], includes: Iterable[Path] = ()
) -> FileDescriptorSet:
    """Compile schemas and all that they import, comments included.

    Args:
        root: Folder that the schemas are relative to.
        schemas: Their paths.
        includes: More folders to find imports in.

    Raises:
        CompilerError: protoc refused them; the message has its lines.
    """
    paths = [root, *includes, *(p for p in include_folders() if p.resolve() != root.resolve())]
    with TemporaryDirectory() as scratch:
        result = Path(scratch, "out.binpb")
        validate = Path(scratch, "validate.binpb")
        _run(
            [
                *(f"-I{path}" for path in paths),
                *_with_rules(root, schemas, validate),
                "--include_imports",
                "--include_source_info",
                "--retain_options",
                f"--descriptor_set_out={result}",
                *schemas,
            ],
            root,
        )
        return FileDescriptorSet.FromString(result.read_bytes())


def compile_python(descriptors: FileDescriptorSet, names: Sequence[str], out: Path) -> None:
    """Write protoc's own Python modules and their stubs for some of the files in a set."""
    with TemporaryDirectory() as scratch:
        path = Path(scratch, "in.binpb")
        path.write_bytes(descriptors.SerializeToString())
        out.mkdir(parents=True, exist_ok=True)
        _run(
            [f"--descriptor_set_in={path}", f"--python_out={out}", f"--pyi_out={out}", *names],
            out,
        )


def _run(arguments: Sequence[str], root: Path) -> None:
    command = [sys.executable, "-m", "grpc_tools.protoc", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CompilerError("\n".join(_explained(done.stderr, root)))


def _explained(output: str, root: Path) -> list[str]:
    lines = [line for line in output.splitlines() if line.strip()]
    shown: list[str] = []
    for line in lines:
        if "File not found" in line:
            missing = line.partition(": File not found")[0]
            # protoc follows up on the line of the import, which says the rest.
            shown.append(
                f"{missing} is imported but stands in no import folder; "
                f"put it under {root}, or name its folder with -I"
            )
        elif "warning" not in line.lower():
            shown.append(line)
    return shown or lines


def _with_rules(root: Path, schemas: Sequence[str], path: Path) -> list[str]:
    """Make protovalidate's own schema importable, from the descriptor in its library."""
    if not any(VALIDATE.encode() in (root / schema).read_bytes() for schema in schemas):
        return []
    descriptor = validate_descriptor()
    path.write_bytes(FileDescriptorSet(file=[descriptor]).SerializeToString())
    return [f"--descriptor_set_in={path}"]


def validate_descriptor() -> FileDescriptorProto:
    """The descriptor of ``buf/validate/validate.proto``.

    Raises:
        MissingExtraError: protovalidate is not installed.
    """
    try:
        from protovalidate._gen.buf.validate import validate_pb
    except ModuleNotFoundError as error:
        raise MissingExtraError("validate", f"a schema that imports {VALIDATE}") from error
    return FileDescriptorProto.FromString(validate_pb.desc().proto.to_binary())
