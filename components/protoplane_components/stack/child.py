"""What a process of a stack does from its fork to its end: it serves its component."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from pydantic import BaseModel

from protoplane_components.stack.roles import Role
from protoplane_components.stack.settings import StackSettings
from protoplane_runtime.engines.opening import VARIABLE
from protoplane_server import NoComponentError, Server, serve
from protoplane_server.component import load
from protoplane_server.serving import announce

HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
"""The signals that the supervisor handles, in its own way."""

_MAX_SOCKET_PATH = 100
"""Longer paths of unix sockets do not fit everywhere; the limit of Linux is 107 bytes."""


class Ready(BaseModel):
    """What a process tells its supervisor once its doors are open.

    Attributes:
        instance: Its name in discovery.
        endpoints: Where it is reached, the best first.
        http: URL of its HTTP door.
    """

    instance: str
    endpoints: tuple[str, ...]
    http: str


@dataclass(frozen=True, slots=True)
class Birth:
    """What a process gets from its supervisor.

    Attributes:
        tell: Where it tells that it is ready, one line; a file descriptor.
        lifeline: What is at its end when the supervisor is gone; a file descriptor.
        log: What it prints goes here.
        close: File descriptors of the supervisor that are not for it.
        folder: For its sockets.
        mask: The signals that it is to have blocked.
    """

    tell: int
    lifeline: int
    log: Path
    close: Iterable[int]
    folder: Path
    mask: Iterable[signal.Signals | int]


def live(role: Role, settings: StackSettings, birth: Birth) -> NoReturn:
    """Be a process of a stack; it never returns into the code of the supervisor."""
    code = 1
    try:
        for number in HANDLED:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, birth.mask)
        for each in birth.close:
            os.close(each)
        print_to(birth.log)
        for name, value in role.defaults.items():
            os.environ.setdefault(name, value)
        os.environ.update({VARIABLE: settings.engine, **role.environment})
        _serve(role, settings, birth)
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except NoComponentError as error:
        print(f"protoplane: {error}", file=sys.stderr)
    except BaseException as error:  # noqa: BLE001  # the log is all that can be told
        traceback.print_exc()
        # The last line is what a person is told.
        words = " ".join(str(error).split())
        print(f"protoplane: {type(error).__name__}: {words}", file=sys.stderr)
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def print_to(log: Path) -> None:
    """Let this process read nothing, and write what it prints to the end of a file."""
    nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    written = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    for source, target in ((nothing, 0), (written, 1), (written, 2)):
        os.dup2(source, target)
    for each in {nothing, written} - {0, 1, 2}:
        os.close(each)


def _serve(role: Role, settings: StackSettings, birth: Birth) -> None:
    def tell(server: Server) -> None:
        said = Ready(instance=server.name, endpoints=server.endpoints, http=server.http_url or "")
        announce(server)  # In its log.
        # Where the supervisor is gone, the lifeline tells.
        with contextlib.suppress(BrokenPipeError):
            os.write(birth.tell, said.model_dump_json().encode() + b"\n")

    serve(
        load(role.component),
        on_ready=tell,
        lifeline=birth.lifeline,
        http=role.http,
        grpc=role.grpc,
        link=(_link(role, birth.folder),),
        engine=settings.engine,
        grace_s=settings.grace_s,
    )


def _link(role: Role, folder: Path) -> str:
    path = folder / f"{role.name}.sock"
    short = len(os.fsencode(path)) <= _MAX_SOCKET_PATH
    return f"link+unix:{path}" if short else "link+tcp://127.0.0.1:0"
