"""Several processes on the same ports: forks workers, passes signals on, replaces the dead."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from typing import NoReturn

from protoplane_runtime.engines.opening import shares_events
from protoplane_runtime.sockets import Address, bind
from protoplane_server.options import Options

_log = logging.getLogger("protoplane.server")

Work = Callable[[Options, int], None]
"""Serves with the given options until SIGTERM, or until the given file descriptor is at its end."""

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)
_SHORT_LIFE_S = 2.0
_MAX_SHORT_LIVES = 5
_EXTRA_GRACE_S = 10.0


def supervise(work: Work, options: Options, count: int) -> int:
    """Run workers until SIGTERM or SIGINT.

    It must be called before the process has an event loop, gRPC channels or threads.

    Args:
        work: What each worker does.
        options: Of the workers; ports 0 are picked here, once for all.
        count: How many workers.

    Returns:
        The exit code: 0 when all workers drained in time.

    Raises:
        OSError: A port is taken.
    """
    with contextlib.ExitStack() as held:
        options = _hold_ports(options, held)
        if options.http is not None and not shares_events(options.engine):
            _log.warning(
                "each of the %d workers has an event log of its own, so a subscriber sees only the "
                "events of the worker that it is connected to; with --engine local: they share one",
                count,
            )
        alive_read, alive_write = os.pipe()
        held.callback(os.close, alive_read)
        held.callback(os.close, alive_write)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        held.callback(signal.pthread_sigmask, signal.SIG_SETMASK, before)
        return _Supervisor(work, options, alive_read, alive_write, before).run(count)


class _Supervisor:
    """Keeps a number of workers alive; a pipe that only it writes to tells them that it lives."""

    def __init__(
        self,
        work: Work,
        options: Options,
        alive_read: int,
        alive_write: int,
        mask: set[int] | set[signal.Signals],
    ) -> None:
        self._work = work
        self._options = options
        self._alive = (alive_read, alive_write)
        self._mask = mask
        self._started: dict[int, float] = {}
        self._short_lives = 0
        self._stopping = False
        self._failed = False

    def run(self, count: int) -> int:
        for _ in range(count):
            self._fork()
        deadline: float | None = None
        while self._started:
            wait_s = 60.0 if deadline is None else max(0.0, deadline - time.monotonic())
            received = signal.sigtimedwait(_SIGNALS, wait_s)
            if received is None:
                if deadline is not None:
                    _log.error("%d workers do not end; killed", len(self._started))
                    self._failed = True
                    self._send(signal.SIGKILL)
                    deadline = None
            elif received.si_signo == signal.SIGCHLD:
                self._reap()
                if self._failed and not self._stopping:
                    self._stop()
                    deadline = time.monotonic() + self._options.grace_s + _EXTRA_GRACE_S
            else:
                # Sent again, a signal makes the workers hurry.
                self._stop()
                if deadline is None:
                    deadline = time.monotonic() + self._options.grace_s + _EXTRA_GRACE_S
        return int(self._failed)

    def _stop(self) -> None:
        self._stopping = True
        self._send(signal.SIGTERM)

    def _send(self, number: int) -> None:
        for pid in self._started:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _reap(self) -> None:
        for pid in tuple(self._started):
            done, status = os.waitpid(pid, os.WNOHANG)
            if not done:
                continue
            lived_s = time.monotonic() - self._started.pop(pid)
            code = os.waitstatus_to_exitcode(status)
            if self._stopping:
                self._failed |= code != 0
                continue
            _log.error("worker %d ended with %d; another takes its place", pid, code)
            self._short_lives = self._short_lives + 1 if lived_s < _SHORT_LIFE_S else 0
            if self._short_lives >= _MAX_SHORT_LIVES:
                _log.error("workers end as soon as they start; giving up")
                self._failed = True
                return
            if self._short_lives > 1:
                time.sleep(0.1 * 2**self._short_lives)
            self._fork()

    def _fork(self) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid:
            self._started[pid] = time.monotonic()
        else:
            self._be_worker()

    def _be_worker(self) -> NoReturn:
        code = 1
        try:
            os.close(self._alive[1])
            signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
            self._work(self._options, self._alive[0])
            code = 0
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
        except BaseException:  # noqa: BLE001  # never return into the code of the parent
            traceback.print_exc()
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)


def _hold_ports(options: Options, held: contextlib.ExitStack) -> Options:
    """Make sure that no other program has the ports, and keep them for the workers."""

    def hold(text: str | int | None) -> str | None:
        if text is None:
            return None
        address = Address.parse(text)
        if address.path:
            raise ValueError(f"{address}: several workers cannot share a unix socket")
        if address.port:
            try:
                bind(address).close()
            except OSError:
                if not options.pick_free_port:
                    raise
                _log.warning("%s is taken; another port is used", address)
                address = address.with_port(0)
        holder = held.enter_context(bind(address, reuse_port=True))
        return str(address.with_port(int(holder.getsockname()[1])))

    return replace(
        options,
        grpc=hold(options.grpc),
        http=hold(options.http),
        reuse_port=True,
        pick_free_port=False,
    )
