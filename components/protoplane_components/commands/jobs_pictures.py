"""Pictures in a terminal: by kitty's protocol, as sixels, or as half blocks of colour."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from protoplane_components.commands.jobs_terminal import Screen, pictures
from protoplane_components.jobs import png

KINDS = ("auto", "kitty", "sixel", "blocks", "none")
"""How a picture can be shown."""

_KITTY_TERMS = ("kitty", "ghostty", "wezterm")
_SIXEL_TERMS = ("foot", "mlterm", "contour", "sixel", "yaft")
_PIECE = 4096
_MOST_COLUMNS = 48
_ID = 7_305_066
"""kitty's number of the preview: the next one of that number takes its place."""


def kind_for(
    wanted: str,
    environment: Mapping[str, str] | None = None,
    ask: Callable[[], Sequence[str] | None] = pictures,
) -> str:
    """How pictures are shown where ``auto`` is wanted.

    The terminal is asked, which also tells what one within another (tmux, screen, ssh) lets
    through. It may wait for an answer, so not on an event loop.

    Args:
        wanted: One of `KINDS`.
        environment: Its variables, for a terminal that does not answer; those of this process where
            absent.
        ask: Asks the terminal.
    """
    if wanted != "auto":
        return wanted
    known = os.environ if environment is None else environment
    words = f"{known.get('TERM', '')} {known.get('TERM_PROGRAM', '')}".lower()
    if "dumb" in words:
        return "none"
    shown = ask()
    if shown is not None:
        return shown[0] if shown else "blocks"
    if not known.keys().isdisjoint(("TMUX", "STY")):
        # What the variables say of the terminal around it does not get through.
        return "blocks"
    if "KITTY_WINDOW_ID" in known or any(name in words for name in _KITTY_TERMS):
        return "kitty"
    return "sixel" if any(name in words for name in _SIXEL_TERMS) else "blocks"


class Easel:
    """Shows one preview after the other at the same place of a terminal.

    The cursor is at the beginning of the line below the picture, before and after.

    Args:
        kind: As `picture` takes it.
        screen: The terminal's size.
    """

    def __init__(self, kind: str, screen: Screen) -> None:
        self._kind = kind
        self._screen = screen
        self._rows = 0

    def show(self, data: bytes) -> str:
        """The text that shows a PNG instead of the one before."""
        # One line is left for what stands below.
        text = picture(data, self._kind, self._screen.lines - 2, number=_ID)
        if not text:
            return ""
        if self._kind == "blocks":
            rows = text.count("\n") + 1
        else:
            rows = -(-png.decode(data).shape[0] // self._screen.cell_px)
        more, self._rows = max(0, rows - self._rows), max(rows, self._rows)
        # Where a terminal leaves the cursor after a picture is for each to choose.
        return "\n" * more + f"\x1b[{self._rows}A\x1b7{text}\x1b8\x1b[{self._rows}B"

    def clear(self) -> str:
        """The text that takes the preview away, and leaves the cursor where it began."""
        if not self._rows:
            return ""
        kept = f"\x1b_Ga=d,d=I,i={_ID},q=2\x1b\\" if self._kind == "kitty" else ""
        rows, self._rows = self._rows, 0
        # Line by line: where a whole screen is cleared, tmux puts what was there into its history.
        return f"{kept}\x1b[{rows}A" + "\x1b[2K\n" * rows + f"\x1b[{rows}A"


def can_show(data: bytes) -> bool:
    """Whether bytes are a PNG that can be read here, which not each generator makes."""
    try:
        png.decode(data)
    except ValueError:
        return False
    return True


def picture(data: bytes, kind: str, most_lines: int | None = None, *, number: int = 0) -> str:
    """The text that makes a terminal show a PNG.

    Source: kitty's "Terminal graphics protocol"; DEC STD 070, chapter 9, for sixels.

    Args:
        data: The PNG.
        kind: ``kitty``, ``sixel`` or ``blocks``; nothing for all others.
        most_lines: Most lines that blocks take.
        number: What kitty is to know it by; 0 for nothing.

    Raises:
        ValueError: It is a PNG that cannot be read here.
    """
    match kind:
        case "kitty":
            return _kitty(data, number)
        case "sixel":
            return _sixel(png.decode(data))
        case "blocks":
            return _blocks(png.decode(data), most_lines)
        case _:
            return ""


def _kitty(data: bytes, number: int) -> str:
    text = base64.standard_b64encode(data).decode()
    pieces = [text[at : at + _PIECE] for at in range(0, len(text), _PIECE)]
    last = len(pieces) - 1
    head = f"f=100,a=T,q=2,{f'i={number},' if number else ''}"
    return "".join(
        f"\x1b_G{head if index == 0 else ''}m={int(index < last)};{piece}\x1b\\"
        for index, piece in enumerate(pieces)
    )


def _sixel(pixels: png.Pixels) -> str:
    height, width, _ = pixels.shape
    # A cube of 6 levels of each colour: 216 of the 256 colours that every sixel terminal has.
    levels = (pixels.astype(np.int64) * 5 + 127) // 255
    colours = levels[..., 0] * 36 + levels[..., 1] * 6 + levels[..., 2]
    used = np.unique(colours)
    parts = [f'\x1bPq"1;1;{width};{height}']
    parts += [
        f"#{each};2;{each // 36 * 20};{each // 6 % 6 * 20};{each % 6 * 20}"
        for each in used.tolist()
    ]
    for top in range(0, height, 6):
        band = colours[top : top + 6]
        bits = (1 << np.arange(len(band)))[:, None]
        for colour in np.unique(band).tolist():
            values = ((band == colour) * bits).sum(axis=0)
            parts.append(f"#{colour}{bytes((values + 63).astype(np.uint8)).decode()}$")
        parts.append("-")
    return "".join(parts) + "\x1b\\"


def _blocks(pixels: png.Pixels, most_lines: int | None) -> str:
    height, width, _ = pixels.shape
    columns = min(width, _MOST_COLUMNS)
    if most_lines is not None:
        columns = max(1, min(columns, 2 * most_lines * width // height))
    rows = max(2, height * columns // width // 2 * 2)
    across = np.arange(columns, dtype=np.intp) * width // columns
    down = np.arange(rows, dtype=np.intp) * height // rows
    small = pixels[down[:, None], across[None, :]].tolist()
    lines = [
        "".join(
            f"\x1b[38;2;{above[0]};{above[1]};{above[2]};48;2;{below[0]};{below[1]};{below[2]}m▀"
            for above, below in zip(small[row], small[row + 1], strict=True)
        )
        for row in range(0, rows, 2)
    ]
    return "\x1b[0m\n".join(lines) + "\x1b[0m"
