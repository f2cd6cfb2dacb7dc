"""Programs that a test runs beside itself, and what they print."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

ROOT = Path(__file__).parents[2]


class Program:
    """A process whose lines are read as they come; leave it to end it.

    Args:
        command: What to run.
        errors_too: Whether the lines of its standard error are read too; they go to the test's
            own otherwise.
        env: Variables to add to those of the test.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        errors_too: bool = False,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.lines: list[str] = []
        self._name = " ".join(Path(part).name for part in command[:3])
        self._changed = threading.Condition()
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if errors_too else None,
            text=True,
            env={**os.environ, **(env or {})},
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end(signal.SIGKILL)

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal, and wait until it has ended.

        Returns:
            Its exit code.
        """
        if self._process.poll() is None:
            self._process.send_signal(number)
        code = self._process.wait(20)
        self._reader.join(5)
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        return code

    def tell(self, line: str) -> None:
        """Write a line to its standard input."""
        pipe = self._process.stdin
        assert pipe is not None
        pipe.write(f"{line}\n")
        pipe.flush()

    def until(self, ready: Callable[[list[str]], bool], timeout_s: float = 20) -> list[str]:
        """Wait for lines.

        Returns:
            All that it has printed.
        """
        with self._changed:
            found = self._changed.wait_for(
                lambda: ready(self.lines) or not self._reader.is_alive(), timeout_s
            )
            text = "\n".join(self.lines)
            if not (found and ready(self.lines)):
                how = "waits in vain for lines of" if self._reader.is_alive() else "ended:"
                raise AssertionError(f"the test {how} {self._name}; it printed:\n{text}")
            return list(self.lines)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._changed:
                self.lines.append(line.rstrip("\n"))
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()


class Component:
    """A real component in a process of its own, until it is left.

    Args:
        with_grpc: Whether it has a gRPC door as well.
        http2: Whether its HTTP door speaks HTTP/2 too.

    Attributes:
        grpc: ``host:port`` of its gRPC door.
        url: Where its HTTP door is; it stays over a restart.
    """

    def __init__(self, *, with_grpc: bool = True, http2: bool = False) -> None:
        self._http2 = ["http2"] if http2 else []
        self._grpc_port = "0" if with_grpc else "-"
        self.grpc = ""
        self.url = ""
        self._program = self._start("0")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._program.end()

    @property
    def host(self) -> str:
        """``host:port`` of its HTTP door."""
        return self.url.removeprefix("http://")

    def stop(self, number: int) -> None:
        """End it by a signal."""
        code = self._program.end(number)
        if number == signal.SIGTERM:
            assert code == 0, self._program.lines

    def start_again(self) -> None:
        """Start it anew, on the same port."""
        self._program = self._start(self.host.rpartition(":")[2])

    def _start(self, http_port: str) -> Program:
        file = str(Path(__file__).with_name("component.py"))
        program = Program(
            [sys.executable, "-W", "error", file, self._grpc_port, http_port, *self._http2],
            errors_too=True,
            env={"PYTHONPATH": os.pathsep.join(sys.path)},
        )
        lines = program.until(lambda lines: any("HTTP at " in line for line in lines))
        said = re.search(r"(?:gRPC at (\S+) and )?HTTP at (\S+)", "\n".join(lines))
        assert said
        self.grpc, self.url = said[1] or "", said[2]
        return program
