"""Processes by more than their ids, which are given again to strangers: by when they began, too."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from protoplane_runtime.engines.processes import watch_process


def born(pid: int) -> int:
    """When a process began, in ticks of the clock since boot; 0 where it has ended.

    One that has ended, and that nobody has waited for yet, has ended.

    Source: proc_pid_stat(5), fields 3 and 22.
    """
    try:
        # The name, in brackets, may hold anything.
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0
    fields = text.rpartition(")")[2].split()
    return 0 if fields[0] in "ZX" else int(fields[19])


class KnownProcess:
    """A process that is surely the one that was meant; made by `known`.

    Args:
        pid: Its id.
        watched: Its pidfd; ``None`` where the system has none.
    """

    def __init__(self, pid: int, watched: int | None) -> None:
        self.pid = pid
        self._watched = watched

    def send(self, number: signal.Signals) -> None:
        """Send it a signal, where it has not ended yet."""
        with contextlib.suppress(ProcessLookupError):
            if sys.platform == "linux" and self._watched is not None:
                signal.pidfd_send_signal(self._watched, number)
            else:
                os.kill(self.pid, number)

    def ended(self, within_s: float = 0.0) -> bool:
        """Whether it has ended; blocks for as long as it has not, at most for some seconds."""
        if self._watched is None:
            return born(self.pid) == 0
        poll = select.poll()
        poll.register(self._watched, select.POLLIN)
        return bool(poll.poll(within_s * 1000))


@contextmanager
def known(pid: int, began: int) -> Generator[KnownProcess | None]:
    """A process by its id and by when it began, held so that its id cannot be given to another.

    Args:
        pid: Its id.
        began: What `born` said when it was noted.

    Yields:
        The process; ``None`` where it has ended, even if another has its id now.
    """
    watched = watch_process(pid)
    try:
        # Looked at after it is held: from here on, the id means the same process.
        there = pid > 0 and began > 0 and born(pid) == began
        yield KnownProcess(pid, watched) if there else None
    finally:
        if watched is not None:
            os.close(watched)
