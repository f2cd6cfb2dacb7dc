"""Texts to stop at, in a text that comes in pieces."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from protoplane_server.backends.stops import StopText

letters = st.text("ab", max_size=30)
stops = st.lists(st.text("ab", min_size=1, max_size=4), max_size=3)


def passed(pieces: list[str], stops: list[str]) -> tuple[str, bool]:
    stop = StopText(stops)
    text = "".join(stop.add(piece) for piece in pieces)
    return text + stop.end(), stop.stopped


def expected(text: str, stops: list[str]) -> tuple[str, bool]:
    """What a reader sees that looks at the whole text after each letter."""
    for end in range(1, len(text) + 1):
        begins = [end - len(stop) for stop in stops if text[:end].endswith(stop)]
        if begins:
            return text[: min(begins)], True
    return text, False


@settings(deadline=None)
@given(letters, stops)
def test_letter_by_letter(text: str, stops: list[str]) -> None:
    assert passed(list(text), stops) == expected(text, stops)


@settings(deadline=None)
@given(st.lists(st.text("ab", max_size=5)), stops)
def test_piece_by_piece_is_the_same(pieces: list[str], stops: list[str]) -> None:
    assert passed(pieces, stops) == expected("".join(pieces), stops)


@settings(deadline=None)
@given(letters)
def test_without_stops_nothing_is_held_back(text: str) -> None:
    stop = StopText([])
    assert [stop.add(letter) for letter in text] == list(text)


def test_only_what_may_begin_a_stop_is_held_back() -> None:
    stop = StopText(["\n\n"])
    assert [stop.add(piece) for piece in ("a", "\n", "b", "\n", "\n", "c")] == [
        "a", "", "\nb", "", "", "",
    ]  # fmt: skip
    assert stop.stopped
    assert stop.end() == ""
