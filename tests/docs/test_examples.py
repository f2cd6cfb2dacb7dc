"""Every example in the docs, run as a reader would: files written, commands typed, code run."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^```(\w+)[ \t]*(?:file=(\S+))?[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block of a page."""

    language: str
    file: str
    text: str


def blocks(page: Path) -> list[Block]:
    return [Block(*match) for match in FENCE.findall(page.read_text(encoding="utf-8"))]


class Reader:
    """Somebody who follows a page in an empty folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        tools = Path(sys.executable).parent
        self.environment = {
            **os.environ,
            "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(folder / "generated"),
            "PYTHONWARNINGS": "error",
        }
        self.python = ""

    def follow(self, block: Block) -> None:
        if block.file:
            path = self.folder / block.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
        elif block.language == "console":
            self._type(block.text)
        elif block.language == "python":
            # Later examples of a page use what earlier ones made.
            self.python += block.text
            self._run([sys.executable, "-c", self.python])

    def _type(self, text: str) -> None:
        for step in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
            command, _, expected = step.partition("\n")
            output = self._run(shlex.split(command))
            assert output == expected, f"{command!r} printed {output!r}, the page says {expected!r}"

    def _run(self, command: list[str]) -> str:
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{command[0]} failed:\n{done.stdout}{done.stderr}"
        return done.stdout


@pytest.mark.codegen
def test_schemas_and_codegen(tmp_path: Path) -> None:
    reader = Reader(tmp_path)
    for block in blocks(ROOT / "docs" / "schemas-and-codegen.md"):
        reader.follow(block)
