"""The planes of a component, used from Node with nothing but the .proto files."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pytest
from tests.interop.programs import Program
from tests.interop.tools import node_and_npm

from protoplane.v1 import ObjectsClient, ObjectsGetRequest, StateClient, StateGetRequest
from protoplane_client import connect_sync
from protoplane_codegen.compiler import include_folders

COMMAND = [sys.executable, "-c", "from protoplane_runtime.cli import main; main()", "serve"]
CAPTIONER = "protoplane_components.captioner:Captioner"


def serve(*arguments: str) -> tuple[Program, str]:
    """A component in a process of its own, and where its gRPC door is."""
    program = Program(
        [*COMMAND, "--grpc", "0", "--http", "0", *arguments],
        errors_too=True,
        env={"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    lines = program.until(lambda lines: any("HTTP at " in line for line in lines), 60)
    said = re.search(r"gRPC at (\S+)", "\n".join(lines))
    assert said
    return program, said[1]


@pytest.fixture
def engine(tmp_path: Path) -> str:
    return f"local:{tmp_path}"


@pytest.fixture
def planes(engine: str) -> Iterator[str]:
    """Where the planes of an engine are, served alone."""
    program, address = serve("--planes", "--engine", engine, "--no-link")
    with program:
        yield address
        assert program.end() == 0


def test_node_uses_every_plane(modules: Path, planes: str, engine: str) -> None:
    node, _ = node_and_npm()
    includes = map(str, include_folders())
    with Program([node, str(modules / "planes.mjs"), planes, *includes]) as program:

        def step(name: str) -> dict[str, Any]:
            lines = program.until(lambda lines: any(f'"{name}"' in line for line in lines), 60)
            found: list[dict[str, Any]] = [json.loads(line) for line in lines]
            return next(each for each in found if each["step"] == name)

        assert step("events")["count"] == 100
        assert step("group")["count"] >= 100
        assert step("state")["revision"] > 0
        kept = step("objects")
        assert 0 < kept["resumedAt"] <= 1_000_000
        [gateway] = step("watching")["instances"]
        assert gateway.startswith("protoplane/planes/")
        other, _ = serve(CAPTIONER, "--engine", engine, "--name", "forge/captioner/one")
        with other:
            joined = step("joined")
            assert joined["kind"] == "INSTANCE_CHANGE_KIND_JOINED"
            assert joined["name"] == "forge/captioner/one"
            assert other.end() == 0
    with connect_sync(f"grpc://{planes}") as plane:
        entry = plane.client(StateClient).get(StateGetRequest(key="mill/plan")).entry
        assert entry.value == b"second"
        asked = ObjectsGetRequest(key="mill/flour")
        data = b"".join(answer.data for answer in plane.client(ObjectsClient).get(asked))
    assert len(data) == kept["size"] == 3_000_000
    assert blake2b(data, digest_size=32).hexdigest() == kept["digest"]
