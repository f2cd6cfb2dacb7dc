"""The files of the instances in a folder: who writes one holds its lock, which dies with him.

An instance has two files: ``<id>.lock``, which its process holds a lock on, and ``<id>.json``,
which says what it is and is replaced as a whole. The kernel drops the lock when the process dies,
so a file that is not locked is one of the dead; who finds it removes it. Everything here blocks.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from weakref import WeakSet

from protoplane_base import PlaneError
from protoplane_runtime.engines.discovery import Instance
from protoplane_runtime.engines.processes import here
from protoplane_runtime.engines.roster import place_of, taken

_LOCK_TIMEOUT_S = 0.5
"""Others hold the lock of a file only to find out whether its owner lives: some microseconds."""


@dataclass(frozen=True, slots=True)
class Found:
    """An instance that lives.

    Attributes:
        key: What its files are called.
        instance: What it says of itself.
        near: Whether its process id means here what it means there.
    """

    key: str
    instance: Instance
    near: bool


class Claim:
    """The files of one instance, which this process owns from `take` to `release`.

    Args:
        folder: Where the files lie.
        instance: Whose they are.
    """

    def __init__(self, folder: Path, instance: Instance) -> None:
        self._folder = folder
        self._instance = instance
        key = _key(instance)
        self._lock = folder / f"{key}.lock"
        self._text = folder / f"{key}.json"
        self._fd = -1

    def take(self) -> None:
        """Become their owner and tell what there is to be told.

        Raises:
            PlaneError: ALREADY_EXISTS; another is.
            OSError: They cannot be written.
        """
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        until = time.monotonic() + _LOCK_TIMEOUT_S
        while self._fd < 0:
            fd = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Whoever swept the file of a dead one away left us the lock of a file without name.
                if os.fstat(fd).st_ino == self._lock.stat().st_ino:
                    self._fd, fd = fd, -1
                    _claims.add(self)
            except FileNotFoundError:
                continue
            except BlockingIOError:
                if time.monotonic() > until:
                    raise taken(self._instance) from None
                time.sleep(0.001)
            finally:
                if fd >= 0:
                    os.close(fd)
        self.tell(self._instance)

    def tell(self, instance: Instance) -> None:
        """Tell others what the instance says of itself now.

        Raises:
            OSError: It cannot be written.
        """
        self._instance = instance
        draft = self._text.with_suffix(".tmp")
        text = json.dumps({"at": here(), "instance": json.loads(instance.to_json())})
        draft.write_text(text, encoding="utf-8")
        draft.replace(self._text)

    def release(self) -> None:
        """Remove them, if they are owned."""
        if self._fd < 0:
            return
        _claims.discard(self)
        fd, self._fd = self._fd, -1
        try:
            for path in (self._text, self._text.with_suffix(".tmp"), self._lock):
                with suppress(OSError):  # Then it lies there, unlocked, until somebody sweeps.
                    path.unlink()
        finally:
            os.close(fd)

    def disown(self) -> None:
        """Close the copy of the lock that a fork made: it would outlive its owner."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


_claims: WeakSet[Claim] = WeakSet()


def _forked() -> None:
    for claim in tuple(_claims):
        claim.disown()
    _claims.clear()
    here.cache_clear()


os.register_at_fork(after_in_child=_forked)


class InstanceFiles:
    """All files of a folder, as one who reads them again and again sees them.

    Args:
        folder: Where they lie; none need be there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[str, tuple[tuple[int, int], Found]] = {}

    def look(self, *, alive: Collection[str] = ()) -> Sequence[Found]:
        """All instances that live.

        Args:
            alive: Keys of those that need no proof, because their processes are watched.

        Raises:
            OSError: The folder cannot be read.
        """
        before, self._known = self._known, {}
        try:
            entries = list(os.scandir(self._folder))
        except FileNotFoundError:
            return ()
        for entry in entries:
            key, dot, suffix = entry.name.partition(".")
            if not dot or suffix != "json":
                continue
            try:
                status = entry.stat()
            except FileNotFoundError:
                continue
            stamp = status.st_ino, status.st_mtime_ns
            known = before.get(key)
            if known is None or known[0] != stamp:
                found = self._read(key)
                if found is None:
                    continue
                known = stamp, found
            elif key in alive:
                self._known[key] = known
                continue
            if self._lives(key):
                self._known[key] = known
        return [found for _, found in self._known.values()]

    def _read(self, key: str) -> Found | None:
        try:
            data = json.loads((self._folder / f"{key}.json").read_bytes())
            return Found(key, Instance.from_data(data["instance"]), data["at"] == here())
        except (OSError, ValueError, LookupError, TypeError, PlaneError):
            # It went meanwhile, or is what another version wrote, which says nothing to us.
            return None

    def _lives(self, key: str) -> bool:
        """Whether the owner lives; sweeps up after one who does not."""
        path = self._folder / f"{key}.lock"
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            with suppress(OSError):
                path.with_suffix(".json").unlink()
            return False
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            # Ours now, so nobody can have claimed it anew, unless it was swept already.
            with suppress(OSError):
                if os.fstat(fd).st_ino == path.stat().st_ino:
                    path.with_suffix(".json").unlink(missing_ok=True)
                    path.unlink()
            return False
        finally:
            os.close(fd)


def _key(instance: Instance) -> str:
    return blake2b("/".join(place_of(instance)).encode(), digest_size=16).hexdigest()
