"""`protoplane jobs`, as a program talks to it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.components.stack.terminals import terminal

from protoplane.jobs.v1 import FollowResponse
from protoplane_components.jobs import png

TOOL = Path(sys.executable).with_name("protoplane")


class Shell:
    """Runs commands against the engine of a folder."""

    def __init__(self, folder: Path) -> None:
        self.engine = f"local:{folder}"
        self._environment = {**os.environ, "PROTOPLANE_ENGINE": self.engine}

    def serve(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [TOOL, "serve", "protoplane_components.jobs:Jobs", "--grpc", "0", "--http", "0"],
            env=self._environment,
            text=True,
        )

    def run(self, *arguments: str) -> tuple[int, list[str], str]:
        done = subprocess.run(
            [TOOL, "jobs", *arguments],
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        return done.returncode, done.stdout.splitlines(), done.stderr


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    shell = Shell(tmp_path / "engine")
    server = shell.serve()
    yield shell
    server.terminate()
    assert server.wait(60) == 0


def test_commands(shell: Shell, tmp_path: Path) -> None:
    # The first call waits five seconds for somebody to be there; a busy machine takes longer.
    code, _, wrong = shell.run("list")
    for _ in range(10):
        if code == 0:
            break
        code, _, wrong = shell.run("list")
    assert code == 0, wrong

    picture = tmp_path / "fox.png"
    asked = ("a red fox", "--id", "fox", "--seed", "7", "--steps", "2", "--size", "48x32")
    code, lines, wrong = shell.run("submit", *asked, "--save", str(picture), "--json")
    assert code == 0, wrong
    assert FollowResponse.model_validate_json(lines[-1]).complete is not None
    assert png.decode(picture.read_bytes()).shape == (32, 48, 3)

    code, lines, _ = shell.run("watch", "fox")
    assert (code, len(lines)) == (0, 2)

    code, lines, _ = shell.run("list", "--state", "succeeded", "--json")
    [job] = [json.loads(line) for line in lines]
    assert (code, job["id"], job["request"]["seed"]) == (0, "fox", "7")

    code, lines, wrong = shell.run("cancel", "fox")
    assert (code, lines) == (1, [])
    assert "is finished" in wrong

    code, lines, wrong = shell.run("submit", "a fox", "--size", "big")
    assert code == 2
    assert "WIDTHxHEIGHT" in wrong

    # A terminal that says it shows sixels is shown previews, then the image, as such.
    wanted = ("a red fox", "--steps", "12", "--engine", shell.engine)
    with terminal("jobs", "submit", *wanted) as shown:
        shown.until("\x1b[c")
        shown.type("\x1b[?62;4c")
        shown.until('\x1bPq"1;1;64;64')
        shown.until('\x1bPq"1;1;128;128')
        assert shown.ends() == 0
