"""The state folder of a stack, and the lock that says whose it is: the kernel drops it at death."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from protoplane_base import Code, PlaneError
from protoplane_components.stack.identity import born
from protoplane_components.stack.records import Owner, StackRecord
from protoplane_runtime.engines.processes import here

_T = TypeVar("_T")

_LOOK_S = 0.5
"""Others hold the lock only to see whether a stack does: some microseconds."""

_WRITE_S = 2.0
"""How long a supervisor that took the lock may need to write who it is."""


class StackPlace:
    """The state folder of a stack.

    Args:
        engine_folder: Folder of the engine that the stack uses.
    """

    def __init__(self, engine_folder: Path) -> None:
        self.folder = engine_folder / "stack"
        self.logs = self.folder / "logs"
        self._lock = self.folder / "up.pid"
        self._record = self.folder / "stack.json"

    def take(self) -> int | None:
        """Become the stack of this folder.

        Returns:
            The open file whose lock says so, also to a process that inherits it; ``None`` where
            there is a stack already.

        Raises:
            PlaneError: PERMISSION_DENIED; the folder cannot be used.
        """
        try:
            self.logs.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise PlaneError(
                Code.PERMISSION_DENIED,
                f"the state of a stack cannot be kept in {self.folder}: {error.strerror}; name "
                "another folder with --folder",
            ) from error
        until = time.monotonic() + _LOOK_S
        while not _locked(lock, fcntl.LOCK_EX):
            if time.monotonic() > until:
                os.close(lock)
                return None
            time.sleep(0.005)
        return lock

    def is_held(self, lock: int) -> bool:
        """Whether who looks for the stack of this folder finds the holder of a lock.

        It is not where the folder was deleted.
        """
        try:
            return os.path.samestat(os.fstat(lock), self._lock.stat())
        except OSError:
            return False

    def write_owner(self, lock: int) -> Owner:
        """Say that this process holds the lock."""
        owner = Owner(pid=os.getpid(), born=born(os.getpid()), machine=here())
        os.ftruncate(lock, 0)
        os.pwrite(lock, owner.model_dump_json().encode(), 0)
        return owner

    def owner(self) -> Owner | None:
        """Who holds the lock; ``None`` where there is no stack.

        Raises:
            PlaneError: UNAVAILABLE; somebody holds it and does not say who he is.
        """
        until = time.monotonic() + _WRITE_S
        while True:
            try:
                lock = os.open(self._lock, os.O_RDWR | os.O_CLOEXEC)
            except FileNotFoundError:
                return None
            try:
                if _locked(lock, fcntl.LOCK_SH):
                    return None
                text = os.pread(lock, 4096, 0)
            finally:
                os.close(lock)
            found = _read(Owner.model_validate_json, text)
            # What the one before has left there is not true any more.
            if found is not None and (found.machine != here() or born(found.pid) == found.born):
                return found
            if time.monotonic() > until:
                raise PlaneError(
                    Code.UNAVAILABLE, f"{self._lock} is locked, and does not say by whom"
                )
            time.sleep(0.02)

    def write(self, record: StackRecord) -> None:
        """Say how the stack does; readers see all of it or what was there before."""
        new = self._record.with_suffix(".new")
        new.write_text(record.model_dump_json(indent=1), encoding="utf-8")
        new.replace(self._record)

    def read(self) -> StackRecord | None:
        """What the stack said last; it may be gone by now. ``None`` where nothing was said."""
        try:
            text = self._record.read_bytes()
        except FileNotFoundError:
            return None
        return _read(StackRecord.model_validate_json, text)

    def read_of(self, owner: Owner) -> StackRecord | None:
        """What the stack of an owner said last."""
        record = self.read()
        return record if record is not None and record.owner == owner else None

    def clear(self) -> None:
        """Forget what was said by a stack that is gone; logs stay."""
        for path in (self._record, *self.folder.glob("*.sock")):
            path.unlink(missing_ok=True)
        with suppress(FileNotFoundError):
            os.truncate(self._lock, 0)

    def log(self, role: str) -> Path:
        """File of what a process prints."""
        return self.logs / f"{role}.log"


def _locked(lock: int, kind: int) -> bool:
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read(parse: Callable[[bytes], _T], text: bytes) -> _T | None:
    try:
        return parse(text)
    except ValidationError:
        return None
