"""Serving anew whenever a source file changes; for development."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import click

_POLL_S = 0.4
_SOURCES = frozenset({".py", ".proto"})
_SKIPPED = frozenset({"__pycache__", "node_modules", ".git", ".venv"})


def sources(root: Path) -> dict[Path, int]:
    """When each source file under a folder was last changed, in nanoseconds."""
    found: dict[Path, int] = {}
    folders = [root]
    while folders:
        try:
            entries = list(folders.pop().iterdir())
        except OSError:
            continue
        for entry in entries:
            try:
                if entry.is_dir():
                    if entry.name not in _SKIPPED and not entry.is_symlink():
                        folders.append(entry)
                elif entry.suffix in _SOURCES:
                    found[entry] = entry.stat().st_mtime_ns
            except OSError:
                continue  # Gone in between.
    return found


def serve_and_reload(arguments: list[str], root: Path) -> int:
    """Run ``protoplane`` with arguments in a process of its own, and anew after each change.

    Args:
        arguments: What follows ``protoplane``.
        root: Folder to watch.

    Returns:
        The exit code of the last process, once a signal has ended it.
    """
    command = [
        sys.executable,
        "-c",
        "from protoplane_runtime.cli import main; main()",
        *arguments,
    ]
    stopping: list[int] = []

    def stop(number: int, _frame: object) -> None:
        stopping.append(number)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    while True:
        before = sources(root)
        # A session of its own: Ctrl-C reaches it through us alone.
        child = subprocess.Popen(command, start_new_session=True)
        while not stopping and sources(root) == before:
            time.sleep(_POLL_S)
        if child.poll() is None:
            child.terminate()
        code = child.wait()
        if stopping:
            return code
        click.echo("sources changed; serving anew", err=True)
