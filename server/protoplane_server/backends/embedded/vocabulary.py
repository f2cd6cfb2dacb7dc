"""What the character model reads and writes: printable ASCII, a line's end, and an end of text."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence

END = 0
"""Token that ends a text; it stands for no character."""

_CHARACTERS = "\n" + "".join(map(chr, range(32, 127)))
_TOKENS = {character: token for token, character in enumerate(_CHARACTERS, start=1)}

SIZE = len(_CHARACTERS) + 1
"""How many tokens there are."""

_PLAIN = str.maketrans({"–": "-", "—": "-", "…": "...", "‘": "'", "’": "'", "“": '"', "”": '"'})


def encode(text: str) -> list[int]:
    """The tokens of a text, one a character.

    Characters that the vocabulary lacks become their closest ASCII, or a space where there is none.
    """
    if not text.isascii():
        text = unicodedata.normalize("NFKD", text.translate(_PLAIN))
        text = "".join(each for each in text if not unicodedata.combining(each))
    space = _TOKENS[" "]
    return [_TOKENS.get(character, space) for character in text]


def decode(tokens: Iterable[int]) -> str:
    """The text of tokens; `END` is nothing."""
    return "".join(_CHARACTERS[token - 1] for token in tokens if token != END)


def unknown(tokens: Sequence[int]) -> int | None:
    """The first token that is none of the vocabulary's; ``None`` where all are."""
    return next((token for token in tokens if not 0 <= token < SIZE), None)
