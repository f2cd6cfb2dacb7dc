"""Which components run on this machine: one small file for each, in a folder of the user's own.

Until discovery exists, this is what ``protoplane ps`` shows. An instance holds a lock on its file,
which the kernel drops when the process dies, so that a stale file is known for what it is even when
the process id has been given to another.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import tempfile
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Instance:
    """A running component.

    Attributes:
        name: ``<component>/<id>``.
        pid: Its process.
        endpoints: Address of each door, for example ``{"grpc": "127.0.0.1:50051"}``.
        services: Full names of what it serves.
        started_s: When it started, in seconds since 1970.
    """

    name: str
    pid: int
    endpoints: Mapping[str, str]
    services: tuple[str, ...] = ()
    started_s: float = field(default_factory=time.time)


def folder() -> Path:
    """Where the files lie: ``$XDG_RUNTIME_DIR/protoplane``, else a folder under the temporary one.

    Raises:
        OSError: It cannot be made, or it belongs to someone else.
    """
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    path = (
        Path(runtime) / "protoplane"
        if runtime
        else Path(tempfile.gettempdir()) / f"protoplane-{os.getuid()}"
    )
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.stat().st_uid != os.getuid():
        raise PermissionError(f"{path} belongs to another user; set XDG_RUNTIME_DIR")
    return path


@contextmanager
def announce(
    component: str, endpoints: Mapping[str, str], services: tuple[str, ...] = ()
) -> Generator[Instance]:
    """Say that a component runs here, for as long as the block runs.

    Raises:
        OSError: The file cannot be written.
    """
    instance = Instance(
        f"{component}/{secrets.token_hex(4)}", os.getpid(), dict(endpoints), services
    )
    final = folder() / f"{instance.name.replace('/', '.')}.json"
    draft = final.with_suffix(".tmp")
    with draft.open("x", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        json.dump(asdict(instance), file)
        file.flush()
        # The lock is on the file, not on its name: who sees the name finds it locked.
        draft.rename(final)
        try:
            yield instance
        finally:
            final.unlink(missing_ok=True)


def running() -> list[Instance]:
    """All components that run for this user, oldest first; files of dead ones are removed.

    Raises:
        OSError: The folder cannot be read.
    """
    found: list[Instance] = []
    for path in folder().glob("*.json"):
        with suppress(OSError, ValueError, TypeError, KeyError):
            if _is_dead(path):
                path.unlink(missing_ok=True)
                continue
            content = json.loads(path.read_text(encoding="utf-8"))
            content["services"] = tuple(content["services"])
            found.append(Instance(**content))
    return sorted(found, key=lambda instance: instance.started_s)


def _is_dead(path: Path) -> bool:
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True
