"""Pictures in a terminal: which kind it is asked for, and where they are put."""

from __future__ import annotations

import os
import pty
import re
import termios
import threading
from collections.abc import Sequence

import numpy as np
import pytest

from protoplane_components.commands.jobs_pictures import Easel, can_show, kind_for, picture
from protoplane_components.commands.jobs_terminal import Screen, pictures, screen
from protoplane_components.jobs import png

SQUARE = png.encode(np.full((64, 64, 3), 200, np.uint8))


@pytest.mark.parametrize(
    ("environment", "shown", "kind"),
    [
        ({"TERM": "xterm-256color"}, ["kitty", "sixel"], "kitty"),
        ({"TERM": "xterm-256color"}, ["sixel"], "sixel"),
        ({"TERM": "tmux-256color", "KITTY_WINDOW_ID": "1"}, [], "blocks"),
        ({"TERM": "xterm-kitty"}, None, "kitty"),
        ({"TERM": "foot"}, None, "sixel"),
        ({"TERM": "screen-256color", "STY": "1", "KITTY_WINDOW_ID": "1"}, None, "blocks"),
        ({"TERM": "xterm-256color"}, None, "blocks"),
        ({"TERM": "dumb"}, ["sixel"], "none"),
    ],
)
def test_the_kind(environment: dict[str, str], shown: Sequence[str] | None, kind: str) -> None:
    assert kind_for("auto", environment, lambda: shown) == kind
    assert kind_for("none", environment, lambda: shown) == "none"


@pytest.mark.parametrize(
    ("answer", "shown"),
    [
        (b"\x1b_Gi=31;OK\x1b\\\x1b[?62;c", ["kitty"]),
        (b"\x1b[?62;1;4;22c", ["sixel"]),
        (b"\x1b_Gi=31;OK\x1b\\\x1b[?4c", ["kitty", "sixel"]),
        (b"\x1b[?1;2c", []),
        (b"\x1b[?64;14;24c", []),
    ],
)
def test_a_terminal_is_asked(answer: bytes, shown: list[str]) -> None:
    ours, its = pty.openpty()
    before = termios.tcgetattr(its)

    def terminal() -> None:
        asked = b""
        while not asked.endswith(b"\x1b[c"):
            asked += os.read(ours, 1024)
        for at in range(len(answer)):
            os.write(ours, answer[at : at + 1])

    answering = threading.Thread(target=terminal, daemon=True)
    answering.start()
    try:
        assert pictures(os.ttyname(its), wait_s=30) == shown
        answering.join(30)
        assert termios.tcgetattr(its) == before
    finally:
        os.close(ours)
        os.close(its)


def test_a_terminal_that_says_nothing() -> None:
    ours, its = pty.openpty()
    try:
        assert pictures(os.ttyname(its), wait_s=0.05) is None
        assert screen(its) == Screen()
    finally:
        os.close(ours)
        os.close(its)
    assert pictures(os.devnull) is None
    assert pictures("/nowhere") is None


@pytest.mark.parametrize(
    ("kind", "begins"),
    [
        ("kitty", "\x1b_G"),
        ("sixel", "\x1bP"),
        ("blocks", "\x1b[38;2;200;200;200"),
        ("none", ""),
    ],
)
def test_a_picture(kind: str, begins: str) -> None:
    assert picture(SQUARE, kind).startswith(begins)


@pytest.mark.parametrize(
    ("kind", "rows"), [("kitty", 4), ("sixel", 4), ("blocks", 22), ("none", 0)]
)
def test_previews_take_the_place_of_one_another(kind: str, rows: int) -> None:
    easel = Easel(kind, Screen(lines=24, cell_px=16))
    assert easel.clear() == ""
    first, second = easel.show(SQUARE), easel.show(SQUARE)
    if not rows:
        assert (first, second, easel.clear()) == ("", "", "")
        return
    assert first == "\n" * rows + second
    assert second.startswith(f"\x1b[{rows}A\x1b7")
    assert second.endswith(f"\x1b8\x1b[{rows}B")
    cleared = easel.clear()
    assert cleared.endswith(f"\x1b[{rows}A" + "\x1b[2K\n" * rows + f"\x1b[{rows}A")
    if kind == "kitty":
        assert set(re.findall(r"\bi=(\d+)", second + cleared)) == {"7305066"}
    assert easel.show(SQUARE) == first


def test_blocks_stay_within_a_small_terminal() -> None:
    shown = picture(SQUARE, "blocks", 5).split("\n")
    assert len(shown) == 5
    assert {line.count("▀") for line in shown} == {10}


def test_what_is_no_picture_is_not_shown() -> None:
    assert can_show(SQUARE)
    assert not can_show(b"a red fox")
    assert not can_show(b"")
