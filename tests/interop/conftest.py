"""Fixtures of the tests that call a component from what others wrote."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf import any_pb2
from google.rpc import status_pb2
from tests.interop.callers import SERVICE, Caller
from tests.interop.chromium import Chromium
from tests.interop.programs import ROOT, Component, Program
from tests.interop.tools import chromium_or_skip, go_caller, node_and_npm, node_folder

from protoplane_codegen.compiler import compile_schemas, include_folders

SCHEMA = "forge/captioner/v1/captioner.proto"


@pytest.fixture(scope="session")
def component() -> Iterator[Component]:
    """A component with both doors, which all tests of the session share."""
    with Component() as component:
        print(f"gRPC at {component.grpc}, HTTP at {component.url}")
        yield component


@pytest.fixture
def lone_component() -> Iterator[Component]:
    """A component that a test may end and start again; it has an HTTP door."""
    with Component(with_grpc=False) as component:
        yield component


@pytest.fixture(scope="session")
def descriptors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The schema as a descriptor set, which is a buf image too."""
    files = compile_schemas(ROOT / "proto", [SCHEMA])
    known = {file.name for file in files.file}
    for module in (any_pb2, status_pb2):
        if module.DESCRIPTOR.name not in known:
            module.DESCRIPTOR.CopyToProto(files.file.add())
    path = tmp_path_factory.mktemp("interop") / "schema.binpb"
    path.write_bytes(files.SerializeToString())
    return path


@pytest.fixture(scope="session")
def modules() -> Path:
    """The programs for Node, beside the modules that they need."""
    return node_folder()


@pytest.fixture(
    scope="session",
    params=[
        "node grpc-js",
        "go grpc",
        "node connect json",
        "node connect binary",
        "node grpc-web binary",
        "node grpc binary",
    ],
)
def caller(
    request: pytest.FixtureRequest, component: Component, descriptors: Path
) -> Iterator[Caller]:
    """A client of the component."""
    name: str = request.param
    if name == "go grpc":
        command = [str(go_caller()), str(descriptors), SERVICE, component.grpc]
    else:
        folder: Path = request.getfixturevalue("modules")
        node, _ = node_and_npm()
        if name == "node grpc-js":
            includes = map(str, include_folders())
            command = [node, str(folder / "grpc.mjs"), component.grpc, SERVICE, SCHEMA, *includes]
        else:
            _, protocol, form = name.split()
            url = f"http://{component.grpc}" if protocol == "grpc" else component.url
            shape = [protocol, form, url, SERVICE, str(descriptors)]
            command = [node, str(folder / "connect.mjs"), *shape]
    with Program(command) as program:
        # Connect and gRPC-Web are spoken over HTTP/1.1 here, which goes one way at a time.
        yield Caller(name, program, full_duplex=name in ("node grpc-js", "go grpc"))


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    """A browser without a window."""
    with Chromium(chromium_or_skip(), tmp_path_factory.mktemp("chromium")) as chromium:
        yield chromium
