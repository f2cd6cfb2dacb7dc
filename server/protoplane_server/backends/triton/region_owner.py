"""Whose a region of shared memory is, and whether that process still lives.

Triton keeps a region until it is told to let go of it, even when the process that shared it was
killed. So each process holds a lock on a file beside its regions, which the kernel drops with the
process, and whoever starts later finds the regions that nobody has any more.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
from itertools import count
from pathlib import Path

FOLDER = Path("/dev/shm")  # noqa: S108  # where POSIX shared memory is

_REGION = re.compile(r"(protoplane-\d+-[0-9a-f]{16})-\d+")


class RegionOwner:
    """Names regions, and says by a lock that their owner lives; `close` it when they are gone.

    Raises:
        OSError: There is no place for the lock.
    """

    def __init__(self) -> None:
        self._name = f"protoplane-{os.getpid()}-{secrets.token_hex(8)}"
        self._numbers = count()
        self._path = _lock_of(self._name)
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def next_name(self) -> str:
        """The name of a new region."""
        return f"{self._name}-{next(self._numbers)}"

    def close(self) -> None:
        """Let go of the lock; twice does no more."""
        file, self._file = self._file, -1
        if file >= 0:
            self._path.unlink(missing_ok=True)
            os.close(file)


def is_orphan(region: str) -> bool:
    """Whether a region in the shared memory of this machine was left by a process that has ended.

    Args:
        region: Its name; names that no `RegionOwner` gave are nobody's business.
    """
    found = _REGION.fullmatch(region)
    if found is None:
        return False
    try:
        file = os.open(_lock_of(found[1]), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    except OSError:
        # Another user's, who may be there.
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(file)
    return True


def forget_orphan(region: str) -> None:
    """Remove what is left of the owner of a region that `is_orphan`."""
    found = _REGION.fullmatch(region)
    if found is not None:
        _lock_of(found[1]).unlink(missing_ok=True)


def _lock_of(owner: str) -> Path:
    return FOLDER / f"{owner}.owner"
