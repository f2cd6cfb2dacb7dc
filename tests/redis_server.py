"""A real Redis for tests: Debian's, over a socket in a folder of its own."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.interop.tools import debian_or_skip


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
    program = debian_or_skip("redis-server", lambda: shutil.which("redis-server"))
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
