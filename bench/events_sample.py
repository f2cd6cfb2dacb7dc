"""The event that `bench/events*.py` publish: a typed one, whose JSON has 190 bytes."""

from __future__ import annotations

from forge.captioner.v1 import CaptionFinished

KEY = "forge/captions/42"
EXPRESSION = "forge/**"
TYPE = "forge.captioner.v1.CaptionFinished"
EVENT_BYTES = 190
"""Bytes of its JSON."""

_FIRST = 1_000_000
_REQUEST = "the caption of a lighthouse in the fog, seen from the sea ".ljust(157, ".")


def event(number: int) -> CaptionFinished:
    """Event ``number``, which is less than a million; all have the same size."""
    return CaptionFinished(request_id=_REQUEST, words=_FIRST + number)


def number_of(words: int) -> int:
    """Which event it is that has so many words."""
    return words - _FIRST
