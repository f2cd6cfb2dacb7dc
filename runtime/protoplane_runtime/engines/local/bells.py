"""Bells: how a process that writes wakes those that wait to read.

A reader hangs up a bell, a datagram socket in a folder of bells; a writer rings all of them after
it wrote. A bell that rings already needs no second stroke, one whose process died refuses
and is taken down, and where there is none nothing is done at all.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from secrets import token_hex

from protoplane_base import Code, PlaneError

_MAX_PATH_BYTES = 100  # What an address of a socket holds, on every system.


class Bell:
    """The bell of one process; hang it up, then look at what there is, then wait for `fileno`.

    Args:
        bells: The folder of bells; made where there is none.

    Raises:
        OSError: It cannot be hung up.
    """

    def __init__(self, bells: Path) -> None:
        bells.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path = bells / f"{os.getpid()}-{token_hex(4)}"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            self._socket.setblocking(False)
            with _address(self.path) as address:
                self._socket.bind(address)
        except BaseException:
            self._socket.close()
            raise

    def fileno(self) -> int:
        """The socket's file descriptor: readable when the bell was rung."""
        return self._socket.fileno()

    def quiet(self) -> None:
        """Take note of all strokes so far."""
        with suppress(BlockingIOError):
            while True:
                self._socket.recv(1)

    def close(self) -> None:
        """Take the bell down."""
        self._socket.close()
        self.path.unlink(missing_ok=True)


class Ringer:
    """Rings the bells of the other processes; only in the thread that writes.

    Args:
        bells: The folder of bells.
        hung: Gives another number once a bell was hung up; without it, each stroke looks for them.
    """

    def __init__(self, bells: Path, hung: Callable[[], int] | None = None) -> None:
        self._folder = bells
        self._hung = hung
        self._seen: int | None = None
        self._bells: list[Path] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)

    def ring(self, own: Path | None) -> None:
        """Ring all bells but one."""
        seen = self._hung() if self._hung is not None else None
        if seen is None or seen != self._seen:
            self._bells = []
            with suppress(OSError):  # There is no folder before the first bell.
                self._bells = list(self._folder.iterdir())
            self._seen = seen
        for bell in tuple(self._bells):
            if bell == own:
                continue
            try:
                with _address(bell) as address:
                    self._socket.sendto(b"!", address)
            except BlockingIOError:
                pass  # It rings, and its process has not got round to it.
            except ConnectionRefusedError:
                self._bells.remove(bell)
                with suppress(OSError):
                    bell.unlink()
            except OSError as error:
                # What was written stays written, whatever became of one that wanted to hear of it.
                if error.errno != errno.ENOBUFS:  # As full as one that would block.
                    self._bells.remove(bell)

    def close(self) -> None:
        """Give the socket back."""
        self._socket.close()


class _address:  # noqa: N801  # used like a function
    """The address of a bell, also where its path is longer than an address may be."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._folder: int | None = None

    def __enter__(self) -> str:
        text = str(self._path)
        if len(os.fsencode(text)) <= _MAX_PATH_BYTES:
            return text
        if not Path("/proc/self/fd").is_dir():
            raise PlaneError(
                Code.INVALID_ARGUMENT,
                f"the folder {self._path.parent.parent} has too long a path for a socket; "
                f"take one of less than {_MAX_PATH_BYTES - 30} bytes",
            )
        self._folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        return f"/proc/self/fd/{self._folder}/{self._path.name}"

    def __exit__(self, *_: object) -> None:
        if self._folder is not None:
            os.close(self._folder)
