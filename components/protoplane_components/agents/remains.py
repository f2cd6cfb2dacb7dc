"""Processes of an agent that nobody watches over any more."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

MARK = "PROTOPLANE_AGENT"
"""The variable that each agent has: its folder, the last part of which is its id."""


def end_remains(folder: Path) -> None:
    """Kill what an agent left behind whose supervisor died.

    The kernel ends the agent's own process; its children are known by their environment.

    Args:
        folder: The agent's.
    """
    mark = f"{MARK}={folder}".encode()
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        # One that has just ended, or is somebody else's.
        with contextlib.suppress(OSError):
            if mark in (process / "environ").read_bytes().split(b"\0"):
                os.kill(int(process.name), signal.SIGKILL)
