"""What SQLite and the file system refuse, as errors that say what to do."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from protoplane_base import Code, PlaneError

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_NO_FOLDER = frozenset({errno.ENOTDIR, errno.EEXIST})
_REFUSED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_TOO_MANY = frozenset({errno.EMFILE, errno.ENFILE})
_SPARE_FILES = 16
"""Who cannot open so many more cannot open databases: each takes four, and the one that failed has
given its own back."""


@contextmanager
def translated(path: Path) -> Generator[None]:
    """Turn what goes wrong with a file of the engine into a `PlaneError`."""
    try:
        yield
    except sqlite3.Error as error:
        raise from_sqlite(error, path) from error
    except OSError as error:
        raise from_os(error, path) from error


def from_sqlite(error: sqlite3.Error, path: Path) -> PlaneError:
    """The error that SQLite's stands for (https://www.sqlite.org/rescode.html)."""
    # The low byte is the kind, the rest tells it more closely.
    kind = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    if kind == sqlite3.SQLITE_FULL:
        return _full(path)
    if kind == sqlite3.SQLITE_CANTOPEN and (cause := _why_not_opened(path)) is not None:
        return from_os(cause, path)
    if kind in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        return _refused(path)
    if kind in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return PlaneError(
            Code.DATA_LOSS,
            f"{path} is damaged ({error}); move it away with the files beside it, and a new log "
            "with a new epoch begins",
        )
    if kind in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return PlaneError(
            Code.UNAVAILABLE, f"another program keeps {path} locked; end its transaction"
        )
    if kind == sqlite3.SQLITE_IOERR:
        return PlaneError(
            Code.UNAVAILABLE,
            f"{path} cannot be read or written ({error}, {_name(error)}); look at the disk: it may "
            "be full, over its quota or broken",
        )
    return PlaneError(Code.INTERNAL, f"{path}: {error} ({_name(error)})")


def from_os(error: OSError, path: Path) -> PlaneError:
    """The error that the system's stands for."""
    if error.errno in _FULL:
        return _full(path)
    if error.errno in _REFUSED:
        return _refused(path)
    if error.errno in _TOO_MANY:
        return PlaneError(
            Code.RESOURCE_EXHAUSTED,
            f"{path} cannot be opened: this process has as many files and connections as it may; "
            "let it have more (ulimit -n), or serve fewer clients with it",
        )
    if error.errno in _NO_FOLDER:
        return PlaneError(
            Code.UNAVAILABLE,
            f"{path} is not in a folder: a file is in its way; move that away, or name another "
            "folder",
        )
    return PlaneError(
        Code.UNAVAILABLE,
        f"{path} cannot be used ({error.strerror or error}); look at its disk, or name another "
        "folder",
    )


def _why_not_opened(path: Path) -> OSError | None:
    """Why a database cannot be opened where too many files are, which SQLite does not tell."""
    opened: list[int] = []
    try:
        while len(opened) < _SPARE_FILES:
            opened.append(os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        return error if error.errno in _TOO_MANY else None
    finally:
        for fd in opened:
            os.close(fd)
    return None


def _name(error: sqlite3.Error) -> str:
    return getattr(error, "sqlite_errorname", "no code")


def _full(path: Path) -> PlaneError:
    return PlaneError(
        Code.RESOURCE_EXHAUSTED,
        f"the disk of {path} is full; make room, or keep less by a retention",
    )


def _refused(path: Path) -> PlaneError:
    return PlaneError(
        Code.PERMISSION_DENIED,
        f"{path} cannot be written; give this user the right to, or name another folder",
    )
