"""A process of a stack, as its supervisor keeps it."""

from __future__ import annotations

import os
import signal
import time

from pydantic import ValidationError

from protoplane_components.stack.child import Ready
from protoplane_components.stack.identity import born
from protoplane_components.stack.records import Phase, ProcessRecord
from protoplane_components.stack.roles import Role

_LONG_LIFE_S = 5.0
"""Who was ready and lived longer is started again at once."""

_FIRST_WAIT_S = 0.1
_MAX_WAIT_S = 5.0


class Process:
    """One process of a stack, through all its lives.

    Args:
        role: What it is.
        log: File of what it prints, as the record says it.
    """

    def __init__(self, role: Role, log: str) -> None:
        self.role = role
        self.phase = Phase.STARTING
        self.pid: int | None = None
        self.telling: int | None = None
        """File descriptor at which it tells that it is ready; ``None`` once it has, or ended."""
        self.start_at: float | None = None
        """When it is to be started again, by the monotonic clock."""
        self.was_ready = False
        """Whether it was ready once, in any of its lives."""
        self.failures = 0
        """How often in a row it ended without having been ready."""
        self.reason = ""
        self._log = log
        self._short_lives = 0
        self._restarts = -1
        self._born = 0
        self._started = 0.0
        self._since_s = time.time()
        self._ready: Ready | None = None
        self._told = b""

    def started(self, pid: int, telling: int) -> None:
        """It was forked."""
        self.pid, self.telling = pid, telling
        self.start_at = None
        self._restarts += 1
        self._born = born(pid)
        self._started = time.monotonic()
        self._ready, self._told = None, b""
        self.become(Phase.STARTING)

    def hear(self) -> None:
        """Read what it tells."""
        assert self.telling is not None
        data = os.read(self.telling, 65536)
        self._told += data
        line, end, _ = self._told.partition(b"\n")
        if end:
            try:
                self._ready = Ready.model_validate_json(line)
            except ValidationError:
                self._ready = None
            else:
                self.was_ready = True
                if self.phase is Phase.STARTING:
                    self.become(Phase.READY)
        if end or not data:
            self._hang_up()

    def ended(self, status: int, *, again: bool) -> None:
        """It is gone.

        Args:
            status: As ``os.waitpid`` gives it.
            again: Whether it is to be started again.
        """
        lived_s = time.monotonic() - self._started
        self.pid, self._born = None, 0
        self._hang_up()
        if not again:
            self.become(Phase.ENDED)
            return
        self.reason = _why(os.waitstatus_to_exitcode(status))
        lived_long = self._ready is not None and lived_s >= _LONG_LIFE_S
        self.failures = 0 if self._ready is not None else self.failures + 1
        self._short_lives = 0 if lived_long else self._short_lives + 1
        wait_s = min(_MAX_WAIT_S, _FIRST_WAIT_S * 2 ** min(self._short_lives, 10))
        self.start_at = time.monotonic() + wait_s
        self._ready = None
        self.become(Phase.WAITING)

    def become(self, phase: Phase) -> None:
        """Note how it does."""
        self.phase, self._since_s = phase, time.time()

    def record(self) -> ProcessRecord:
        """It, for others to read."""
        return ProcessRecord(
            role=self.role.name,
            component=self.role.component,
            phase=self.phase,
            instance="" if self._ready is None else self._ready.instance,
            endpoints=() if self._ready is None else self._ready.endpoints,
            http="" if self._ready is None else self._ready.http,
            pid=self.pid,
            born=self._born,
            restarts=max(0, self._restarts),
            since_s=self._since_s,
            reason=self.reason,
            log=self._log,
        )

    def _hang_up(self) -> None:
        if self.telling is not None:
            os.close(self.telling)
            self.telling = None


def _why(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
