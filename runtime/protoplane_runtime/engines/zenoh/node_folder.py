"""The folder of a node: what it published, and a copy of what it heard; for one process."""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Self

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.local.faults import translated
from protoplane_runtime.engines.zenoh.settings import ZenohSettings

_MOST = 10_000


class NodeFolder:
    """A folder that this process holds until `release`, or its end; get one from `take`.

    Attributes:
        path: Where it is.
        id: What tells it from the folders of all nodes; it stays.
    """

    def __init__(self, path: Path, lock: int, identity: str) -> None:
        self.path = path
        self.id = identity
        self._lock = lock

    @classmethod
    def take(cls, settings: ZenohSettings) -> Self:
        """Take the folder that is named, or the first free one of this machine; blocks.

        Who starts again thus finds what it left behind, where no other took its place.

        Raises:
            PlaneError: FAILED_PRECONDITION where another process has the folder,
                PERMISSION_DENIED or RESOURCE_EXHAUSTED where it cannot be used.
        """
        for path in _candidates(settings):
            with translated(path):
                path.mkdir(mode=0o700, parents=True, exist_ok=True)
                lock = os.open(path / "node.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return cls(path, lock, _identity(lock))
                except BlockingIOError:
                    os.close(lock)
                except BaseException:
                    os.close(lock)
                    raise
        if settings.folder is not None:
            raise PlaneError(
                Code.FAILED_PRECONDITION,
                f"another process is the node of {settings.folder}; each needs a folder of its own",
            )
        raise PlaneError(
            Code.RESOURCE_EXHAUSTED,
            f"{_MOST} nodes of {settings.nodes_folder} run already; name a folder=",
        )

    def release(self) -> None:
        """Let another process have it; twice does nothing more."""
        lock, self._lock = self._lock, -1
        if lock >= 0:
            with suppress(OSError):
                os.close(lock)


def _candidates(settings: ZenohSettings) -> Iterator[Path]:
    if settings.folder is not None:
        yield settings.folder
    else:
        for number in range(_MOST):
            yield settings.nodes_folder / str(number)


def _identity(lock: int) -> str:
    found = os.pread(lock, 64, 0).decode("ascii", "replace").strip()
    if not found:
        found = secrets.token_hex(8)
        os.pwrite(lock, found.encode(), 0)
        os.fsync(lock)
    return found
