"""Files that are being written; those of a writer that was killed are deleted.

A writer holds a lock on its file, which the kernel drops when the process dies. Who opens the
folder deletes the files that nobody holds.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from contextlib import suppress
from pathlib import Path

FOLDER = ".unfinished"
"""Their folder, beside the objects, so that a rename moves them."""


def create(root: Path) -> tuple[int, Path]:
    """A new file, open and held.

    Raises:
        OSError: It cannot be made.
    """
    folder = root / FOLDER
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / secrets.token_hex(16)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            # One who sweeps may have been faster, between the two.
            if os.fstat(file).st_nlink:
                return file, path
        except BaseException:
            os.close(file)
            raise
        os.close(file)


def discard(file: int, path: Path) -> None:
    """Close a file and delete it."""
    os.close(file)
    with suppress(FileNotFoundError):
        path.unlink()


def sweep(root: Path) -> None:
    """Delete what killed writers left.

    Raises:
        OSError: The folder cannot be read.
    """
    try:
        left = list((root / FOLDER).iterdir())
    except FileNotFoundError:
        return
    for path in left:
        with suppress(OSError):
            _sweep(path)


def _sweep(path: Path) -> None:
    file = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
    finally:
        os.close(file)
