"""Starting a stack: the lock, the fork of the supervisor, and the line to it."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NoReturn

from protoplane_base import Code, PlaneError
from protoplane_components.stack.child import print_to
from protoplane_components.stack.place import StackPlace
from protoplane_components.stack.roles import Role, roles_of
from protoplane_components.stack.settings import StackSettings
from protoplane_components.stack.supervisor import Supervisor
from protoplane_runtime.sockets import Address, bind


@dataclass(frozen=True, slots=True)
class Started:
    """A stack that was started by this process.

    Attributes:
        place: Its state folder.
        pid: Its supervisor, a child of this process.
        line: Gives a byte when there is something new in the state folder, and is at its end when
            the supervisor is gone.
    """

    place: StackPlace
    pid: int
    line: socket.socket

    def stop(self) -> None:
        """Ask the stack to end; asked again, it hurries."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)

    def leave(self) -> None:
        """Let it run by itself, if it is not attached."""
        self.line.close()

    def wait(self) -> int:
        """Wait for the supervisor's end; call it once the line is at its end.

        Returns:
            Its exit code.
        """
        self.line.close()
        _, status = os.waitpid(self.pid, 0)
        return os.waitstatus_to_exitcode(status)


class AlreadyUpError(PlaneError):
    """There is a stack in that folder already."""

    def __init__(self, place: StackPlace) -> None:
        super().__init__(Code.ALREADY_EXISTS, f"a stack is up already in {place.folder.parent}")


def start(
    settings: StackSettings, roles: Sequence[Role] | None = None, *, attached: bool
) -> Started:
    """Start a stack, and return while it is starting.

    This process must have no threads and no event loop, as it forks.

    Args:
        settings: What it is to be; a port 0 is picked here, so that it stays the same.
        roles: Its processes, by default those of the settings.
        attached: Whether it ends with this process.

    Raises:
        AlreadyUpError: There is one.
        PlaneError: PERMISSION_DENIED where the state folder cannot be used, UNAVAILABLE where the
            gateway cannot listen where it is to.
    """
    place = StackPlace(settings.folder)
    lock = place.take()
    if lock is None:
        raise AlreadyUpError(place)
    try:
        place.clear()
        settings = replace(
            settings,
            http=_free(settings.http),
            grpc=None if settings.grpc is None else _free(settings.grpc),
        )
        roles = roles_of(settings) if roles is None else roles
        for name in (*(role.name for role in roles), "supervisor"):
            log = place.log(name)
            with contextlib.suppress(FileNotFoundError):
                log.replace(log.with_suffix(".log.1"))
        ours, theirs = socket.socketpair()
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            ours.close()
            _be_supervisor(place, settings, roles, lock=lock, line=theirs, attached=attached)
        theirs.close()
    finally:
        os.close(lock)
    ours.setblocking(False)
    return Started(place, pid, ours)


def _free(address: str) -> str:
    """An address that nobody listens at, with a port that is not 0."""
    wanted = Address.parse(address)
    try:
        with bind(wanted) as probe:
            return str(wanted.with_port(int(probe.getsockname()[1])))
    except OSError as error:
        raise PlaneError(
            Code.UNAVAILABLE, f"{error.strerror}; give the gateway another place by --http"
        ) from error


def _be_supervisor(
    place: StackPlace,
    settings: StackSettings,
    roles: Sequence[Role],
    *,
    lock: int,
    line: socket.socket,
    attached: bool,
) -> NoReturn:
    code = 1
    try:
        # Ctrl-C is for who shows it; that one tells the supervisor.
        os.setsid()
        print_to(place.log("supervisor"))
        logging.basicConfig(
            level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
        )
        supervisor = Supervisor(place, settings, roles, lock=lock, line=line, attached=attached)
        code = supervisor.run()
    except BaseException:  # noqa: BLE001  # never return into the code of who forked it
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
