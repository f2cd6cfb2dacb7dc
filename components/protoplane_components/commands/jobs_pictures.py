"""Pictures in a terminal: by kitty's protocol, as sixels, or as half blocks of colour."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping

import numpy as np

from protoplane_components.jobs import png

KINDS = ("auto", "kitty", "sixel", "blocks", "none")
"""How a picture can be shown."""

_KITTY_TERMS = ("kitty", "ghostty", "wezterm")
_SIXEL_TERMS = ("foot", "mlterm", "contour", "sixel", "yaft")
_PIECE = 4096
_MOST_COLUMNS = 48


def kind_for(wanted: str, environment: Mapping[str, str] | None = None) -> str:
    """How pictures are shown where ``auto`` is wanted, by what the terminal says of itself.

    Args:
        wanted: One of `KINDS`.
        environment: Its variables; those of this process where absent.
    """
    if wanted != "auto":
        return wanted
    known = os.environ if environment is None else environment
    words = f"{known.get('TERM', '')} {known.get('TERM_PROGRAM', '')}".lower()
    if "KITTY_WINDOW_ID" in known or any(name in words for name in _KITTY_TERMS):
        return "kitty"
    if any(name in words for name in _SIXEL_TERMS):
        return "sixel"
    return "blocks" if "dumb" not in words else "none"


def picture(data: bytes, kind: str) -> str:
    """The text that makes a terminal show a PNG.

    Source: kitty's "Terminal graphics protocol"; DEC STD 070, chapter 9, for sixels.

    Args:
        data: The PNG.
        kind: ``kitty``, ``sixel`` or ``blocks``; nothing for all others.

    Raises:
        ValueError: It is a PNG that cannot be read here.
    """
    match kind:
        case "kitty":
            return _kitty(data)
        case "sixel":
            return _sixel(png.decode(data))
        case "blocks":
            return _blocks(png.decode(data))
        case _:
            return ""


def _kitty(data: bytes) -> str:
    text = base64.standard_b64encode(data).decode()
    pieces = [text[at : at + _PIECE] for at in range(0, len(text), _PIECE)]
    last = len(pieces) - 1
    return "".join(
        f"\x1b_G{'f=100,a=T,q=2,' if index == 0 else ''}m={int(index < last)};{piece}\x1b\\"
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


def _blocks(pixels: png.Pixels) -> str:
    height, width, _ = pixels.shape
    columns = min(width, _MOST_COLUMNS)
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
