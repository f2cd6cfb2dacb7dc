"""Real processes of the command ``protoplane``."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-c", "from protoplane_runtime.cli import main; main()"]
Run = Callable[..., "subprocess.CompletedProcess[str]"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not entry_points(group="protoplane.commands", name="serve"):
        for item in items:
            if "tests/cli" in item.path.as_posix():
                item.add_marker(pytest.mark.skip(reason="protoplane is not installed here"))


@contextmanager
def shown(environment: dict[str, str], *arguments: str) -> Generator[subprocess.Popen[str]]:
    """Run a command whose output is read as it comes; where a test fails it is killed."""
    with subprocess.Popen(
        [*COMMAND, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**environment, "PYTHONUNBUFFERED": "1"},
    ) as process:
        try:
            yield process
        except BaseException:
            process.kill()
            raise


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    state = str(tmp_path_factory.mktemp("state"))
    return {**os.environ, "XDG_STATE_HOME": state, "COLUMNS": "100"}


@pytest.fixture(scope="session")
def run(environment: dict[str, str]) -> Run:
    def run(
        *arguments: str, stdin: str = "", cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env=environment,
            cwd=cwd,
        )

    return run


class Served:
    """A running ``protoplane serve``."""

    def __init__(
        self, environment: dict[str, str], *arguments: str, cwd: Path | None = None
    ) -> None:
        self.process = subprocess.Popen(
            [*COMMAND, "serve", *arguments],
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=cwd,
        )
        self.grpc = self.http = ""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if " at http://" in line:
                self.http = line.split("HTTP at ")[1].split()[0]
                self.grpc = line.split("gRPC at ")[1].split()[0] if "gRPC at " in line else ""
                return
        raise AssertionError(f"serve exited with {self.process.wait()}")

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(30)
        assert self.process.stderr is not None
        self.process.stderr.close()
        return code


@pytest.fixture(scope="session")
def served(environment: dict[str, str]) -> Iterator[Served]:
    running = Served(
        environment, "protoplane_components.captioner:Captioner", "--grpc", "0", "--http", "0"
    )
    yield running
    assert running.stop() == 0


def eventually(check: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end
        time.sleep(0.05)
