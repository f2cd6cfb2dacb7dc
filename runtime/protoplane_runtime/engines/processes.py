"""Processes of this machine: which of them can be told apart by their ids, and when one ends."""

from __future__ import annotations

import os
import select
import sys
from functools import lru_cache
from pathlib import Path


@lru_cache(1)
def here() -> str:
    """Names the processes whose ids mean the same: those of one boot and one namespace of ids.

    Empty where that cannot be told.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}/{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return ""


def watch_process(pid: int) -> int | None:
    """A file descriptor that becomes readable when a process ends; ``None`` where there is none.

    Source: pidfd_open(2), Linux 5.3.
    """
    if sys.platform != "linux":
        return None
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None


def has_ended(pid: int) -> bool:
    """Whether a process has surely ended; one that nobody has waited for yet has."""
    if sys.platform == "win32":
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    watched = watch_process(pid)
    if watched is None:
        return False
    try:
        poll = select.poll()
        poll.register(watched, select.POLLIN)
        return bool(poll.poll(0))
    finally:
        os.close(watched)
