"""A trigram model: each word is drawn from those that followed the two before it in a text."""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from importlib.resources import files

_WORD = re.compile(r"[A-Za-z']+|[.,]")


class NgramModel:
    """Counts of which word follows which; falls back from two words of context to one, to none.

    Args:
        text: What to learn from.
    """

    def __init__(self, text: str) -> None:
        words = _WORD.findall(text)
        self._followers: dict[tuple[str, ...], list[str]] = defaultdict(list)
        for index, word in enumerate(words):
            for order in range(3):
                if order <= index:
                    context = tuple(w.lower() for w in words[index - order : index])
                    self._followers[context].append(word)

    def continue_(self, prompt: str, *, vivid: bool, choices: random.Random) -> Iterator[str]:
        """Words and punctuation that go on from a prompt, without end.

        Args:
            prompt: Its last words that the model knows are where it begins.
            vivid: Prefer the rarer of two words, and more often forget the wider context.
            choices: Where chance comes from; the same seed tells the same story.
        """
        known = [w for w in (w.lower() for w in _WORD.findall(prompt)) if (w,) in self._followers]
        context = tuple(known[-2:]) or (".",)
        while True:
            if vivid and choices.random() < 0.3:
                context = context[-1:]
            while context not in self._followers:
                context = context[1:]
            options = self._followers[context]
            word = choices.choice(options)
            if vivid:
                word = min(word, choices.choice(options), key=options.count)
            yield word
            context = (*context, word.lower())[-2:]


@cache
def default_model() -> NgramModel:
    """The model of the page in this package; made when it is first asked for."""
    return NgramModel(files(__package__ or "").joinpath("prose.txt").read_text(encoding="utf-8"))
