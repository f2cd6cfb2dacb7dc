"""The supervisor of a stack: forks its processes, starts again what dies, ends them in order.

It has no event loop and no threads, as it forks for as long as it lives. What it waits for are
signals, what its processes tell, and the end of a lifeline.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Generator, Sequence

from protoplane_components.stack.child import HANDLED, Birth, live
from protoplane_components.stack.place import StackPlace
from protoplane_components.stack.preload import preload
from protoplane_components.stack.process import Process
from protoplane_components.stack.records import Owner, Phase, StackRecord
from protoplane_components.stack.roles import GATEWAY, Role
from protoplane_components.stack.settings import StackSettings

_log = logging.getLogger("protoplane.stack")

_MAX_SAID, _MAX_SILENT = 2, 4
"""How often a process may end before it is ready, with an exit code or by a signal, before the
stack was ready once. Those that start together may be in each other's way: once is no proof."""

_LOOK_S = 2.0
"""How often it looks whether its state folder is still there."""

_EXTRA_GRACE_S = 5.0
"""What a process has, beyond the grace of its calls, before it is killed."""


def _ignore(number: int, frame: object) -> None:
    """The wake-up file tells of the signal."""


class Supervisor:
    """Keeps the processes of a stack alive until it is told to end them.

    Args:
        place: Its state folder.
        settings: What the stack is to be.
        roles: Its processes.
        lock: Open file whose lock says that the stack is up.
        line: Gets a byte when there is something new to read in the state folder.
        attached: Whether the stack ends when the other end of the line is gone.
    """

    def __init__(
        self,
        place: StackPlace,
        settings: StackSettings,
        roles: Sequence[Role],
        *,
        lock: int,
        line: socket.socket,
        attached: bool,
    ) -> None:
        self._place = place
        self._settings = settings
        self._roles = roles
        self._lock = lock
        self._line = line
        self._attached = attached
        self._owner: Owner = place.write_owner(lock)
        self._processes = [Process(role, str(place.log(role.name))) for role in roles]
        self._started_s = time.time()
        self._phase = Phase.STARTING
        self._reason = ""
        self._noted: StackRecord | None = None
        self._selector = selectors.DefaultSelector()
        self._alive_read, self._alive_write = os.pipe()
        self._wake_read, self._wake_write = os.pipe()
        self._order = -1
        self._kill_at: float | None = None

    def run(self) -> int:
        """Run the stack to its end.

        Returns:
            The exit code: 0 where it was told to end, and did in time.
        """
        with self._listening():
            self._note()
            preload(self._roles)
            for process in self._processes:
                self._fork(process)
            self._note()
            while any(process.pid or process.start_at for process in self._processes):
                self._turn()
                self._note()
        if self._phase is not Phase.FAILED:
            self._phase = Phase.ENDED
        self._note()
        return int(self._phase is Phase.FAILED)

    @contextlib.contextmanager
    def _listening(self) -> Generator[None]:
        for number in HANDLED:
            signal.signal(number, _ignore)
        os.set_blocking(self._wake_write, False)
        os.set_blocking(self._wake_read, False)
        signal.set_wakeup_fd(self._wake_write)
        self._selector.register(self._wake_read, selectors.EVENT_READ, self._signalled)
        self._selector.register(self._line, selectors.EVENT_READ, self._cut)
        try:
            yield
        finally:
            signal.set_wakeup_fd(-1)
            self._selector.close()

    def _turn(self) -> None:
        """Wait for something, and do what is due."""
        now = time.monotonic()
        due = [process.start_at for process in self._processes if process.start_at is not None]
        due += [self._kill_at] if self._kill_at is not None else []
        wait_s = max(0.0, min([*due, now + _LOOK_S]) - now)
        for key, _ in self._selector.select(wait_s):
            key.data()
        now = time.monotonic()
        for process in self._processes:
            if process.start_at is not None and process.start_at <= now:
                self._fork(process)
        if self._kill_at is not None and self._kill_at <= now:
            self._fail("some processes did not end in time and were killed")
            self._send(signal.SIGKILL, self._processes)
            self._kill_at = now + 1.0
        if self._order < 0 and not self._place.is_held(self._lock):
            self._fail(f"{self._place.folder} is gone, and with it the way to end this")
            _log.error("%s", self._reason)
            self._stop()

    def _signalled(self) -> None:
        for number in os.read(self._wake_read, 512):
            if number == signal.SIGCHLD:
                self._reap()
            elif number in (signal.SIGTERM, signal.SIGINT):
                self._stop()

    def _cut(self) -> None:
        """The other end of the line is gone; it never says anything."""
        self._selector.unregister(self._line)
        if self._attached:
            self._stop()

    def _fork(self, process: Process) -> None:
        read, write = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        # A signal that came before the child has its own handlers would be told to the parent.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            self._selector.close()
            others = [each.telling for each in self._processes if each.telling is not None]
            ends = [self._line.detach(), self._lock, self._alive_write, read, *others]
            birth = Birth(
                tell=write,
                lifeline=self._alive_read,
                log=self._place.log(process.role.name),
                close=(*ends, self._wake_read, self._wake_write),
                folder=self._place.folder,
                mask=mask,
            )
            live(process.role, self._settings, birth)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.close(write)
        process.started(pid, read)
        self._selector.register(read, selectors.EVENT_READ, lambda: self._hear(process))

    def _hear(self, process: Process) -> None:
        telling = process.telling
        if telling is None:
            return  # It was reaped in the same turn.
        # It is unregistered before it is closed, as epoll asks for.
        key = self._selector.unregister(telling)
        process.hear()
        if process.telling is not None:
            self._selector.register(telling, selectors.EVENT_READ, key.data)
        if self._phase is Phase.STARTING and all(each.was_ready for each in self._processes):
            self._phase = Phase.READY

    def _reap(self) -> None:
        for process in self._processes:
            if process.pid is None:
                continue
            done, status = os.waitpid(process.pid, os.WNOHANG)
            if not done:
                continue
            if process.telling is not None:
                self._hear(process)  # What it told last.
            if process.telling is not None:
                self._selector.unregister(process.telling)
            stopping = self._order >= 0
            process.ended(status, again=not stopping)
            if stopping:
                self._stop_next()
            elif self._phase is Phase.STARTING and self._hopeless(process, status):
                self._fail(f"{process.role.name} does not start: {self._last_words(process)}")
                self._stop()

    def _hopeless(self, process: Process, status: int) -> bool:
        """Whether a process that ended before the stack was ready is not worth another try."""
        said_why = os.waitstatus_to_exitcode(status) > 0
        return process.failures >= (_MAX_SAID if said_why else _MAX_SILENT)

    def _last_words(self, process: Process) -> str:
        try:
            lines = self._place.log(process.role.name).read_text(errors="replace").splitlines()
        except OSError:
            lines = []
        said = [line for line in lines if line.strip()]
        return said[-1].removeprefix("protoplane: ").strip() if said else process.reason

    def _stop(self) -> None:
        """End it, or hurry where it is ending already."""
        limit_s = self._settings.grace_s + _EXTRA_GRACE_S
        if self._order >= 0:
            self._send(signal.SIGTERM, self._processes)
            return
        if self._phase is not Phase.FAILED:
            self._phase = Phase.STOPPING
        self._kill_at = time.monotonic() + limit_s
        for process in self._processes:
            if process.start_at is not None:
                process.start_at = None
                process.become(Phase.ENDED)
        self._order = 0
        self._stop_next()

    def _stop_next(self) -> None:
        """Ask the next ones to end once those that call them have."""
        running = [process for process in self._processes if process.pid is not None]
        if not running:
            self._kill_at = None
            return
        order = min(process.role.order for process in running)
        waiting = [
            each
            for each in running
            if each.role.order == order and each.phase is not Phase.STOPPING
        ]
        self._send(signal.SIGTERM, waiting)

    def _send(self, number: signal.Signals, processes: Sequence[Process]) -> None:
        for process in processes:
            # It is a child that was not waited for, so the id is its own.
            if process.pid is not None:
                os.kill(process.pid, number)
                process.become(Phase.STOPPING)

    def _fail(self, reason: str) -> None:
        self._phase, self._reason = Phase.FAILED, reason

    def _note(self) -> None:
        """Write how all is, where that is new, and say that there is something to read."""
        record = self._record()
        if record == self._noted:
            return
        try:
            self._place.write(record)
        except FileNotFoundError:
            pass  # The folder is gone.
        except OSError as error:
            # A full disk, say: the processes go on, and it is tried again.
            _log.warning("how the stack does cannot be written: %s", error)
            return
        self._noted = record
        with contextlib.suppress(OSError):
            self._line.send(b"!", socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)

    def _record(self) -> StackRecord:
        records = tuple(process.record() for process in self._processes)
        gateway = next((each.http for each in records if each.role == GATEWAY and each.http), "")
        return StackRecord(
            owner=self._owner,
            phase=self._phase,
            started_s=self._started_s,
            folder=str(self._settings.folder),
            http=gateway or f"http://{self._settings.http}",
            workers=self._settings.workers,
            policy=self._settings.policy,
            detached=not self._attached,
            processes=records,
            reason=self._reason,
        )
