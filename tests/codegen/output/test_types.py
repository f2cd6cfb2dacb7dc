"""Generated code under mypy and pyright, both strict, and the code that uses it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.codegen.project import SCHEMAS

from protoplane_codegen import generate

pytestmark = pytest.mark.codegen

BASE = Path(__file__).resolve().parents[3] / "base"
USER = """
from typing import assert_type

from parley.v1 import AskRequest, AskResponse, ParleyClient, ParleyService
from protoplane_base import AsyncIterator, Channel, Context


class Parley(ParleyService):
    async def ask_once(self, request: AskRequest, ctx: Context) -> AskResponse:
        return AskResponse(text=request.topic)

    async def ask_many(self, request: AskRequest, ctx: Context) -> AsyncIterator[AskResponse]:
        yield AskResponse(text=request.topic)


async def call(channel: Channel) -> None:
    client = ParleyClient(channel)
    assert_type(await client.ask_once(AskRequest(topic="t"), timeout_s=1.0), AskResponse)
    async for answer in client.ask_many(AskRequest()):
        assert_type(answer, AskResponse)
        assert_type(answer.text, str)
"""
WRONG = """
from parley.v1 import AskRequest

AskRequest(topic=1)
AskRequest(nothing="x")
AskRequest().nothing
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything generated that the tests have, and a user's code."""
    folder = tmp_path_factory.mktemp("typed")
    for name in ("odd", "kinds", "rules", "parley"):
        # One folder for each: a run takes away what the one before it has made.
        generate(SCHEMAS / name, folder / name)
    (folder / "user").mkdir()
    (folder / "user" / "mine.py").write_text(USER)
    (folder / "wrong").mkdir()
    (folder / "wrong" / "bad.py").write_text(WRONG)
    return folder


Check = Callable[..., subprocess.CompletedProcess[str]]
NAMES = ("odd", "kinds", "rules", "parley")


def mypy(project: Path, *folders: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--strict", "--no-error-summary"),
            *("--explicit-package-bases", "--namespace-packages", "--config-file", ""),
            *("--cache-dir", str(project / ".mypy_cache"), "--exclude", r"_pb2\.pyi?$"),
            *folders,
        ],
        cwd=project,
        env={**os.environ, "MYPYPATH": os.pathsep.join([*NAMES, "user", "wrong", str(BASE)])},
        capture_output=True,
        text=True,
        check=False,
    )


def pyright(project: Path, *folders: str) -> subprocess.CompletedProcess[str]:
    config = {
        "include": folders,
        "exclude": ["**/*_pb2.py", "**/*_pb2.pyi"],
        "extraPaths": [*NAMES, str(BASE)],
        "typeCheckingMode": "strict",
        "reportMissingTypeStubs": False,
    }
    (project / "pyrightconfig.json").write_text(json.dumps(config))
    return subprocess.run(
        [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "-p", str(project)],
        env={**os.environ, "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("check", [mypy, pyright])
def test_generated_code_is_strictly_typed(project: Path, check: Check) -> None:
    done = check(project, *NAMES, "user")
    assert done.returncode == 0, done.stdout + done.stderr


def test_wrong_use_is_found(project: Path) -> None:
    done = mypy(project, "wrong")
    assert done.returncode == 1
    errors = [line for line in done.stdout.splitlines() if ": error: " in line]
    lines = [error.partition(": error: ")[0] for error in errors]
    assert lines == ["wrong/bad.py:4", "wrong/bad.py:5", "wrong/bad.py:6"], done.stdout
