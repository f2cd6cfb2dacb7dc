"""Schemas written in a test, compiled."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from google.protobuf.compiler.plugin_pb2 import CodeGeneratorRequest
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from protoplane_codegen.api import Api
from protoplane_codegen.compiler import compile_schemas
from protoplane_codegen.read import read


@pytest.fixture(scope="session")
def compile_set(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[dict[str, str]], FileDescriptorSet]:
    """Compiles schemas, texts by path, and all that they import."""
    compiled: dict[tuple[tuple[str, str], ...], FileDescriptorSet] = {}

    def compile_set(files: dict[str, str]) -> FileDescriptorSet:
        known = tuple(files.items())
        if known not in compiled:
            root = tmp_path_factory.mktemp("proto")
            for name, text in files.items():
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).write_text(text)
            compiled[known] = compile_schemas(root, list(files))
        return compiled[known]

    return compile_set


@pytest.fixture
def compile_api(
    compile_set: Callable[[dict[str, str]], FileDescriptorSet],
) -> Callable[[dict[str, str]], Api]:
    """Reads schemas, texts by path, into the model of an API that generates code for them."""

    def compile_api(files: dict[str, str]) -> Api:
        found = compile_set(files)
        return read(CodeGeneratorRequest(file_to_generate=list(files), proto_file=found.file))

    return compile_api
