"""What the terminal is: which pictures it shows, and how large they are in it."""

from __future__ import annotations

import os
import re
import select
import struct
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

_QUESTION = b"\x1b_Gi=31,s=1,v=1,a=q,t=d,f=24;AAAA\x1b\\\x1b[c"
"""Whether it knows kitty's protocol, and what it is: all terminals answer the latter."""

_KITTY = re.compile(rb"\x1b_G[^\x1b]*;OK\x1b\\")
_ATTRIBUTES = re.compile(rb"\x1b\[\?([\d;]*)c")
_SIXEL = b"4"
_WAIT_S = 1.0
_CELL_PX = 10


@dataclass(frozen=True, slots=True)
class Screen:
    """The size of a terminal.

    Attributes:
        columns: Characters across.
        lines: Characters down.
        cell_px: Pixels down of a character; rather too few, where the terminal does not say.
    """

    columns: int = 80
    lines: int = 24
    cell_px: int = _CELL_PX


def pictures(terminal: str = "/dev/tty", wait_s: float = _WAIT_S) -> Sequence[str] | None:
    """Ask a terminal which pictures it shows. It waits for the answer, so not on an event loop.

    Source: kitty's "Terminal graphics protocol", "Querying support and available transmission
    mediums"; DEC STD 070 for the primary device attributes, of which 4 are sixels.

    Args:
        terminal: Its device.
        wait_s: Seconds that it has to answer.

    Returns:
        Of ``kitty`` and ``sixel`` those that it shows; ``None`` where there is no terminal, or it
        does not answer.
    """
    if sys.platform == "win32":
        return None
    import termios
    import tty

    try:
        file = os.open(terminal, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        before = termios.tcgetattr(file)
    except termios.error:
        os.close(file)
        return None
    try:
        # Else it would print the answer, and hold it back for the end of a line.
        tty.setcbreak(file, termios.TCSANOW)
        os.write(file, _QUESTION)
        return _answer(file, time.monotonic() + wait_s)
    except OSError:
        return None
    finally:
        termios.tcsetattr(file, termios.TCSANOW, before)
        os.close(file)


def screen(file: int = 1) -> Screen:
    """The size of the terminal behind a file; a common one where it is none."""
    if sys.platform == "win32":
        size = os.get_terminal_size()
        return Screen(size.columns, size.lines)
    import fcntl
    import termios

    try:
        told = fcntl.ioctl(file, termios.TIOCGWINSZ, bytes(8))
    except OSError:
        return Screen()
    lines, columns, _, pixels = struct.unpack("HHHH", told)
    return Screen(columns or 80, lines or 24, pixels // lines if lines and pixels else _CELL_PX)


def _answer(file: int, until: float) -> Sequence[str] | None:
    told = b""
    while (left_s := until - time.monotonic()) > 0:
        if not select.select([file], [], [], left_s)[0]:
            return None
        told += os.read(file, 1024)
        attributes = _ATTRIBUTES.search(told)
        if attributes is not None:
            kitty = ["kitty"] if _KITTY.search(told) else []
            sixel = ["sixel"] if _SIXEL in attributes[1].split(b";") else []
            return [*kitty, *sixel]
    return None
