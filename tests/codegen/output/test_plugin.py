"""`protoc-gen-protoplane` under protoc and buf: the same output as `protoplane generate`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.compiler.plugin_pb2 import CodeGeneratorRequest, CodeGeneratorResponse
from google.protobuf.descriptor_pb2 import Edition
from tests.codegen.project import SCHEMAS, contents, write_schemas
from tools.schemas import build_image

from protoplane_codegen import Outputs, generate
from protoplane_codegen.compiler import compile_schemas, find_schemas, include_folders

pytestmark = pytest.mark.codegen

BIN = Path(sys.executable).parent
PLUGIN = BIN / "protoc-gen-protoplane"
BAD_KEY = """syntax = "proto3";
package bad.v1;
import "protoplane/v1/annotations.proto";
message Done {
  option (protoplane.v1.event).key = "done/{nobody}";
}
"""


def run(*command: str | Path, **environment: str) -> None:
    done = subprocess.run(
        [*map(str, command)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


def ours(out: Path) -> dict[str, bytes]:
    """What the plugin makes; protoc's own modules come from protoc's own generators."""
    return {path: data for path, data in contents(out).items() if "_pb2.py" not in path}


def respond(request: CodeGeneratorRequest) -> CodeGeneratorResponse:
    done = subprocess.run(
        [str(PLUGIN)],
        input=request.SerializeToString(),
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    return CodeGeneratorResponse.FromString(done.stdout)


def request_for(root: Path, parameter: str = "") -> CodeGeneratorRequest:
    schemas = find_schemas(root)
    return CodeGeneratorRequest(
        file_to_generate=schemas,
        proto_file=compile_schemas(root, schemas).file,
        parameter=parameter,
    )


def test_the_plugin_says_what_it_supports() -> None:
    response = respond(CodeGeneratorRequest())
    assert response.supported_features == (
        CodeGeneratorResponse.FEATURE_PROTO3_OPTIONAL
        | CodeGeneratorResponse.FEATURE_SUPPORTS_EDITIONS
    )
    assert response.minimum_edition == Edition.EDITION_PROTO2
    assert response.maximum_edition == Edition.EDITION_2024
    assert not response.file
    assert not response.HasField("error")


@pytest.mark.parametrize("name", ["odd", "kinds", "parley"])
def test_protoc_makes_the_same(tmp_path: Path, name: str) -> None:
    root = SCHEMAS / name
    out = tmp_path / "protoc"
    out.mkdir()
    run(
        *(sys.executable, "-m", "grpc_tools.protoc"),
        *(f"-I{folder}" for folder in (root, *include_folders())),
        f"--plugin=protoc-gen-protoplane={PLUGIN}",
        f"--protoplane_out={out}",
        *find_schemas(root),
    )
    generate(root, tmp_path / "generate")
    assert contents(out) == ours(tmp_path / "generate")


def test_protoc_passes_the_parameter(tmp_path: Path) -> None:
    root = SCHEMAS / "kinds"
    run(
        *(sys.executable, "-m", "grpc_tools.protoc"),
        *(f"-I{folder}" for folder in (root, *include_folders())),
        f"--plugin=protoc-gen-protoplane={PLUGIN}",
        f"--protoplane_out=documents=false:{tmp_path}",
        "kinds/v1/proto3.proto",
    )
    assert set(contents(tmp_path)) == {
        f"kinds/v1/{name}" for name in ("__init__.py", "proto3_models.py", "py.typed")
    }


@pytest.mark.parametrize("name", ["odd", "kinds"])
def test_buf_makes_the_same(tmp_path: Path, name: str) -> None:
    buf = BIN / "buf"
    if not buf.exists():
        pytest.skip("buf is not installed in this environment: pip install buf-bin")
    image = tmp_path / "image.binpb"
    build_image(SCHEMAS / name, image)
    template = {
        "version": "v2",
        # All files in one request, as protoc does it; buf's own way is a request for each folder.
        "plugins": [{"local": str(PLUGIN), "out": str(tmp_path / "buf"), "strategy": "all"}],
    }
    run(
        *(buf, "generate", image, "--template", json.dumps(template)),
        BUF_CACHE_DIR=str(tmp_path / "cache"),
    )
    generate(SCHEMAS / name, tmp_path / "generate")
    assert contents(tmp_path / "buf") == ours(tmp_path / "generate")


def test_a_fault_of_a_schema_is_an_answer(tmp_path: Path) -> None:
    response = respond(request_for(write_schemas(tmp_path, {"bad/v1/bad.proto": BAD_KEY})))
    assert response.error.startswith("bad/v1/bad.proto:4: ")
    assert "{nobody} names no field" in response.error
    assert not response.file


@pytest.mark.parametrize("parameter", ["nothing=1", "documents=maybe", "models=attrs", "x"])
def test_a_parameter_that_does_not_exist(tmp_path: Path, parameter: str) -> None:
    root = write_schemas(tmp_path, {"a.proto": 'syntax = "proto3"; message A {}'})
    response = respond(request_for(root, parameter))
    assert "use " in response.error
    assert not response.file


def test_outputs_read_the_parameter() -> None:
    assert Outputs.parse("") == Outputs(documents=True, models="")
    assert Outputs.parse("models=msgspec,documents=false") == Outputs(False, "msgspec")
