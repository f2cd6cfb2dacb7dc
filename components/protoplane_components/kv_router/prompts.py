"""Prompts that were read lately, so that the next turn of a conversation is not read from anew.

A turn begins with all that was said before, byte by byte the same. What a prompt has in common
with one that was read is found by comparing bytes, which takes a hundredth of the time that it
takes to read numbers and to hash them. What is not the same is read, so this may cost time, never
the answer.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic_core import from_json

from protoplane_components.kv_router.hashing import block_hashes

MAX_BYTES = 64 << 20
"""Most bytes of prompts that are remembered, as text."""

_LEAST = 256
_NAME = 48
_COMMA = ord(",")
_Name = tuple[str, str, bytes]


@dataclass(slots=True)
class _Prompt:
    """A prompt that was read.

    Attributes:
        text: Its tokens, as they stand in a list of JSON.
        hashes: Hashes of its full blocks.
        tokens: How many tokens it has.
        ends: Where in the text the comma behind each full block is, once that was asked for; the
            last block may have none.
    """

    text: bytes
    hashes: NDArray[np.uint64]
    tokens: int
    ends: NDArray[np.intp] | None = None


class RecentPrompts:
    """Reads token lists, and remembers them.

    Args:
        block_size: Tokens in a block.
        max_bytes: Most bytes of text to remember; prompts that were not asked for the longest go
            first.
    """

    def __init__(self, block_size: int, max_bytes: int = MAX_BYTES) -> None:
        self._block_size = block_size
        self._max_bytes = max_bytes
        self._bytes = 0
        self._prompts: OrderedDict[_Name, _Prompt] = OrderedDict()

    def __len__(self) -> int:
        return len(self._prompts)

    def read(
        self, text: bytes, lora: str = "", cache_namespace: str = ""
    ) -> tuple[NDArray[np.uint64], int] | None:
        """Hashes of a prompt's full blocks, and how many tokens it has.

        Args:
            text: The tokens as in a list of JSON, without the brackets.
            lora: Name of the LoRA adapter.
            cache_namespace: Cache namespace.

        Returns:
            ``None`` for anything but plain numbers below 2**32.
        """
        if len(text) < _LEAST:
            prompt = self._new(text, lora, cache_namespace)
            return None if prompt is None else (prompt.hashes, prompt.tokens)
        # Some bytes far inside, which the next turns have at the same place.
        place = 1 << ((len(text) - 1).bit_length() - 1)
        name = (lora, cache_namespace, text[place - _NAME : place])
        known = self._prompts.get(name)
        if known is not None:
            if known.text == text:
                self._prompts.move_to_end(name)
                return known.hashes, known.tokens
        else:
            # One more turn, and the prompt may be longer than the next power of two.
            half = place >> 1
            known = self._prompts.get((lora, cache_namespace, text[half - _NAME : half]))
        prompt = self._onward(known, text, lora, cache_namespace) if known is not None else None
        if prompt is None:
            prompt = self._new(text, lora, cache_namespace)
        if prompt is None:
            return None
        self._keep(name, prompt)
        return prompt.hashes, prompt.tokens

    def _new(self, text: bytes, lora: str, cache_namespace: str) -> _Prompt | None:
        tokens = _tokens(text)
        if tokens is None:
            return None
        numbers = np.frombuffer(tokens, np.uint32)
        hashes = block_hashes(numbers, self._block_size, lora=lora, cache_namespace=cache_namespace)
        return _Prompt(text, hashes, len(numbers))

    def _ends(self, prompt: _Prompt) -> NDArray[np.intp]:
        ends = prompt.ends
        if ends is None:
            commas = (np.frombuffer(prompt.text, np.uint8) == _COMMA).nonzero()[0]
            prompt.ends = ends = commas[self._block_size - 1 :: self._block_size]
        return ends

    def _onward(
        self, known: _Prompt, text: bytes, lora: str, cache_namespace: str
    ) -> _Prompt | None:
        """Read from where a prompt that is known ends, or differs."""
        same = min(len(known.text), len(text))
        if not text.startswith(known.text):
            ours, theirs = (np.frombuffer(each, np.uint8, same) for each in (known.text, text))
            differ = ours != theirs
            at = int(differ.argmax())
            same = at if differ[at] else same
        ends = self._ends(known)
        blocks = int(ends.searchsorted(same))
        if not blocks:
            return None
        begin = int(ends[blocks - 1]) + 1
        rest = self._new(text[begin:], lora, cache_namespace)
        if rest is None:
            return None
        return _Prompt(
            text,
            np.concatenate((known.hashes[:blocks], rest.hashes)),
            rest.tokens + blocks * self._block_size,
            np.concatenate((ends[:blocks], self._ends(rest) + begin)),
        )

    def _keep(self, name: _Name, prompt: _Prompt) -> None:
        before = self._prompts.pop(name, None)
        if before is not None:
            self._bytes -= len(before.text)
        self._prompts[name] = prompt
        self._bytes += len(prompt.text)
        while self._bytes > self._max_bytes:
            _, oldest = self._prompts.popitem(last=False)
            self._bytes -= len(oldest.text)


def _tokens(text: bytes) -> array[int] | None:
    # "true", "false" and "1e3" are no tokens, and the first two would count as numbers. What is
    # blank is behind a comma too many, or an empty list, which is nothing to hurry for.
    if b"e" in text or text.isspace() or not text:
        return None
    try:
        return array("I", from_json(b"[%b]" % text))
    except (ValueError, TypeError, OverflowError):
        return None
