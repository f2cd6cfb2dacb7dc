"""Every example in the docs, run as a reader would: files written, commands typed, code run."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

import pytest

ROOT = Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^```(\w+)[ \t]*(?:file=(\S+)|(server))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block of a page."""

    language: str
    file: str
    role: str
    text: str


def blocks(page: Path) -> list[Block]:
    return [Block(*match) for match in FENCE.findall(page.read_text(encoding="utf-8"))]


class Reader:
    """Somebody who follows a page in an empty folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.servers: list[subprocess.Popen[bytes]] = []
        # The pages have the default ports, which another test may be using.
        self.ports = {port: str(free_port()) for port in ("50051", "8080", "8081")}
        tools = Path(sys.executable).parent
        self.environment = {
            **os.environ,
            "XDG_STATE_HOME": str(folder / ".state"),
            "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": f"{folder / 'generated'}{os.pathsep}{folder}",
            "PYTHONWARNINGS": "error",
        }
        self.python = ""
        self.missing: list[str] = []

    def follow(self, block: Block) -> None:
        if block.role == "server":
            self._serve(block.text.removeprefix("$ "))
        elif block.file:
            path = self.folder / block.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(self._ported(block.text), encoding="utf-8")
        elif block.language == "console":
            self._type(block.text)
        elif block.language == "python":
            # Later examples of a page use what earlier ones made.
            self.python += self._ported(block.text)
            self._run([sys.executable, "-c", self.python])

    def leave(self) -> None:
        # What a page detached it also ends, unless it failed before.
        for record in self.folder.glob("*/stack/stack.json"):
            self._run(["protoplane", "down", "--folder", str(record.parents[1])])
        for server in self.servers:
            server.terminate()
            assert server.wait(30) == 0

    def _serve(self, command: str) -> None:
        arguments = shlex.split(self._ported(command))
        self.servers.append(subprocess.Popen(arguments, cwd=self.folder, env=self.environment))
        port = self.ports[match[1] if (match := re.search(r"--http (\d+)", command)) else "8080"]
        until = time.monotonic() + 30
        while time.monotonic() < until:
            with (
                contextlib.suppress(OSError),
                urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5),
            ):
                return
            time.sleep(0.1)
        pytest.fail(f"{command} did not become ready")

    def _ported(self, text: str) -> str:
        for documented, free in self.ports.items():
            text = text.replace(documented, free)
        return text

    def _type(self, text: str) -> None:
        for step in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
            command, _, expected = step.partition("\n")
            tool = command.split()[0]
            if shutil.which(tool, path=self.environment["PATH"]) is None:
                self.missing.append(tool)
                continue
            output = self._run(shlex.split(self._ported(command)))
            expected = self._ported(expected)
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


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


@pytest.mark.codegen
@pytest.mark.parametrize(
    "page",
    [
        "README",
        "docs/schemas-and-codegen",
        "docs/serving",
        "docs/event-streams",
        "docs/events",
        "docs/planes",
        "docs/clients",
        "docs/link",
        "docs/backends",
        "docs/jobs",
        "docs/router",
        "docs/router-component",
        "docs/mocker",
        "docs/kserve",
        "docs/agents",
        "docs/registry",
        "docs/orchestrator",
        "docs/gateway",
        "docs/stack",
        "docs/console",
    ],
)
def test_every_example_of_a_page_works(page: str, tmp_path: Path) -> None:
    reader = Reader(tmp_path)
    try:
        for block in blocks(ROOT / f"{page}.md"):
            reader.follow(block)
    finally:
        reader.leave()
    if reader.missing:
        pytest.skip(f"all else on the page works, but this machine lacks {set(reader.missing)}")
