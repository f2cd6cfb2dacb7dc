"""A command in a terminal: what is on it, and keys that are typed."""

from __future__ import annotations

import codecs
import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Generator
from contextlib import contextmanager
from select import select

import pytest

LIMIT_S = 30.0
WIDTH, HEIGHT = 250, 30

# It takes the terminal for its own, so that Ctrl-C there means it.
_PROGRAM = """
import fcntl, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
from protoplane_runtime.cli import main
main()
"""


class Terminal:
    """A terminal that a command runs in; made by `terminal`.

    Args:
        arguments: Of ``protoplane``.
    """

    def __init__(self, *arguments: str) -> None:
        self._fd, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", HEIGHT, WIDTH, 0, 0))
        environment = {**os.environ, "TERM": "xterm"}
        for name in ("COLUMNS", "LINES", "NO_COLOR"):
            environment.pop(name, None)
        self.process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            env=environment,
        )
        os.close(theirs)
        self._seen = ""
        self._at = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    def until(self, text: str, again: str = "") -> str:
        """Read until there is a text, after the one before; gives what came in between.

        What is to be typed again and again meanwhile is ``again``.
        """
        end = time.monotonic() + LIMIT_S
        start = self._at
        while (found := self._seen.find(text, start)) < 0:
            left_s = end - time.monotonic()
            assert left_s > 0, self._seen
            self.type(again)
            if select([self._fd], [], [], min(0.5, left_s) if again else left_s)[0]:
                try:
                    self._seen += self._decoder.decode(os.read(self._fd, 65536))
                except OSError:
                    pytest.fail(f"it ended: {self._seen}")
        self._at = found + len(text)
        return self._seen[start : self._at]

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self._fd, text.encode())

    def ends(self) -> int:
        """Wait for its end, and give its exit code."""
        end = time.monotonic() + LIMIT_S
        # What it still writes has to be taken, or it would wait for that.
        while select([self._fd], [], [], max(0.0, end - time.monotonic()))[0]:
            try:
                if not os.read(self._fd, 65536):
                    break
            except OSError:
                break
        return self.process.wait(LIMIT_S)

    def close(self) -> None:
        """Kill it, if it has not ended."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(LIMIT_S)
        os.close(self._fd)


@contextmanager
def terminal(*arguments: str) -> Generator[Terminal]:
    """A command in a terminal, for as long as the block runs."""
    opened = Terminal(*arguments)
    try:
        yield opened
    finally:
        opened.close()
