"""A real Redis for tests: Debian's, over a socket in a folder of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.interop.tools import locked


@dataclass(frozen=True, slots=True)
class Redis:
    """A server that runs.

    Attributes:
        url: Where.
    """

    url: str
    process: subprocess.Popen[bytes]

    def kill(self) -> None:
        """End it with SIGKILL."""
        self.process.kill()
        self.process.wait(30)


@contextmanager
def redis_or_skip() -> Generator[Redis]:
    """Run a server; the test is skipped where there is none."""
    program = _program()
    with tempfile.TemporaryDirectory(prefix="protoplane-redis-") as folder:
        socket = Path(folder) / "redis.sock"
        options = ["--port", "0", "--unixsocket", str(socket), "--dir", folder]
        options += ["--save", "", "--appendonly", "no"]
        with (Path(folder) / "log").open("wb") as log:
            process = subprocess.Popen([program, *options], stdout=log, stderr=log)
        try:
            until = time.monotonic() + 30
            while not socket.exists():
                assert process.poll() is None, (Path(folder) / "log").read_text()
                assert time.monotonic() < until, (Path(folder) / "log").read_text()
                time.sleep(0.02)
            yield Redis(f"unix://{socket}", process)
        finally:
            process.kill()
            process.wait(30)


def _program() -> str:
    found = shutil.which("redis-server")
    if found is None and os.environ.get("CI") and shutil.which("apt-get"):
        if os.geteuid():
            pytest.skip("Redis is not on this machine, and only root can install it")
        with locked("redis"):
            if shutil.which("redis-server") is None:
                _install()
            found = shutil.which("redis-server")
    return found or pytest.skip("redis-server is not on this machine")


def _install() -> None:
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    install = ["-y", "--no-install-recommends", "install", "redis-server"]
    for command in (["update"], install):
        done = subprocess.run(
            ["apt-get", "-qq", *command],
            env=quiet,
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )
        if done.returncode:
            pytest.skip(f"Redis cannot be installed: {done.stderr.strip().splitlines()[-1:]}")
