"""Chooses the next token of many texts at once, each by its own rules and its own seed.

The chance of a choice comes from the seed and the number of the token alone, so what else is
chosen at the same time changes nothing. Source of the mixing: SplitMix64 (Steele et al. 2014).
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from protoplane_base import Code, PlaneError
from protoplane_server.backends.embedded.gru import Floats, Indexes
from protoplane_server.backends.embedded.vocabulary import SIZE
from protoplane_server.backends.interface import Sampling

MAX_TOKENS = 4096
"""Most tokens of one answer."""

DEFAULT_TOKENS = 256
"""Tokens of an answer whose caller does not say."""

MAX_STOPS = 16
MAX_STOP_CHARS = 256

Doubles = NDArray[np.float64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


@dataclass(frozen=True, slots=True)
class Rules:
    """A `Sampling` with all that was left open filled in; see there."""

    temperature: float
    top_p: float
    top_k: int
    seed: int
    max_tokens: int
    stop: tuple[str, ...]
    stop_tokens: frozenset[int]
    repetition: float
    presence: float
    frequency: float

    @classmethod
    def of(cls, asked: Sampling, *, vocabulary: int = SIZE, longest: int = MAX_TOKENS) -> Self:
        """The rules that a caller asked for.

        Args:
            asked: What the caller said.
            vocabulary: How many tokens there are.
            longest: Most tokens of one answer.

        Raises:
            PlaneError: INVALID_ARGUMENT with the field, its value and what it may be.
        """
        for token in asked.stop_tokens:
            if not 0 <= token < vocabulary:
                raise _refused("stop_token_ids", token, f"each is 0 to {vocabulary - 1}")
        if len(asked.stop) > MAX_STOPS:
            raise _refused("stop", f"{len(asked.stop)} texts", f"{MAX_STOPS} are the most")
        for text in asked.stop:
            if not 0 < len(text) <= MAX_STOP_CHARS:
                raise _refused("stop", repr(text[:20]), f"each has 1 to {MAX_STOP_CHARS} letters")
        seed = secrets.randbits(63) if asked.seed is None else asked.seed
        if not 0 <= seed < 1 << 64:
            raise _refused("seed", seed, "it is 0 to 2**64 - 1")
        top_k = asked.top_k or 0
        if top_k < 0:
            raise _refused("top_k", top_k, "it is 0 or more")
        most = min(DEFAULT_TOKENS, longest) if asked.max_tokens is None else asked.max_tokens
        if not 0 < most <= longest:
            raise _refused("max_tokens", most, f"it is 1 to {longest}")
        return cls(
            temperature=_between("temperature", asked.temperature, 1.0, 0.0, 100.0),
            top_p=_between("top_p", asked.top_p, 1.0, 0.0, 1.0),
            top_k=top_k,
            seed=seed,
            max_tokens=most,
            stop=asked.stop,
            stop_tokens=frozenset(asked.stop_tokens),
            repetition=_between("repetition_penalty", asked.repetition_penalty, 1.0, 0.01, 100.0),
            presence=_between("presence_penalty", asked.presence_penalty, 0.0, -100.0, 100.0),
            frequency=_between("frequency_penalty", asked.frequency_penalty, 0.0, -100.0, 100.0),
        )


class Chooser:
    """The rules of the texts that are being written, one in each slot.

    Args:
        slots: Most texts at once.
    """

    def __init__(self, slots: int) -> None:
        self._temperature = np.ones(slots)
        self._top_p = np.ones(slots)
        self._top_k = np.zeros(slots, np.intp)
        self._seed = np.zeros(slots, np.uint64)
        self._number = np.zeros(slots, np.uint64)
        self._penalties = np.zeros((slots, 3))
        self._read = np.zeros((slots, SIZE), np.int32)
        self._written = np.zeros((slots, SIZE), np.int32)

    def begin(self, slot: int, rules: Rules, prompt: list[int]) -> None:
        """A slot is for a new text."""
        self._temperature[slot] = rules.temperature
        self._top_p[slot] = rules.top_p
        self._top_k[slot] = rules.top_k
        self._seed[slot] = rules.seed
        self._number[slot] = 0
        self._penalties[slot] = (rules.repetition, rules.presence, rules.frequency)
        self._read[slot] = np.bincount(prompt, minlength=SIZE)
        self._written[slot] = 0

    def choose(self, slots: Indexes, scores: Floats) -> Indexes:
        """The next token of the texts in some slots, by the scores of each, ``[slots, SIZE]``."""
        logits = self._penalized(slots, scores.astype(np.float64))
        temperature = self._temperature[slots]
        greedy = temperature < 1e-6
        logits -= logits.max(axis=1, keepdims=True)
        chances = np.exp(logits / np.where(greedy, 1.0, temperature)[:, None])
        self._cut(slots, chances)
        sums = np.cumsum(chances, axis=1)
        aims = self._uniform(slots) * sums[:, -1]
        chosen: Indexes = np.minimum((sums <= aims[:, None]).sum(axis=1), SIZE - 1).astype(np.intp)
        chosen[greedy] = logits[greedy].argmax(axis=1)
        self._number[slots] += np.uint64(1)
        self._written[slots, chosen] += 1
        return chosen

    def _penalized(self, slots: Indexes, logits: Doubles) -> Doubles:
        penalties = self._penalties[slots]
        if (penalties == (1.0, 0.0, 0.0)).all():
            return logits
        repetition, presence, frequency = (penalties[:, [each]] for each in range(3))
        written = self._written[slots]
        occurred = (written + self._read[slots]) > 0
        softer: Doubles = np.where(logits > 0, logits / repetition, logits * repetition)
        logits = np.where(occurred, softer, logits)
        taken: Doubles = presence * (written > 0) + frequency * written
        return np.subtract(logits, taken)

    def _cut(self, slots: Indexes, chances: Doubles) -> None:
        """Take the chance of all but the likeliest, where a text asks for that."""
        top_k, top_p = self._top_k[slots], self._top_p[slots]
        rows = np.flatnonzero(((top_k > 0) & (top_k < SIZE)) | (top_p < 1.0))
        if not len(rows):
            return
        some = chances[rows]
        order = np.argsort(-some, axis=1, kind="stable")
        ranked = np.take_along_axis(some, order, axis=1)
        before = np.cumsum(ranked, axis=1) - ranked
        most = np.where(top_k[rows] > 0, top_k[rows], SIZE)
        share = top_p[rows] * ranked.sum(axis=1)
        dropped = (np.arange(SIZE) >= most[:, None]) | (before >= share[:, None])
        dropped[:, 0] = False
        np.put_along_axis(some, order, np.where(dropped, 0.0, ranked), axis=1)
        chances[rows] = some

    def _uniform(self, slots: Indexes) -> Doubles:
        return uniform(self._seed[slots], self._number[slots])


def uniform(seeds: NDArray[np.uint64], numbers: NDArray[np.uint64]) -> Doubles:
    """A number from 0 to 1 for each text, by its seed and how many tokens it has chosen."""
    bits = seeds + (numbers + np.uint64(1)) * _GOLDEN
    bits = (bits ^ (bits >> np.uint64(30))) * _MIX[0]
    bits = (bits ^ (bits >> np.uint64(27))) * _MIX[1]
    mixed = (bits ^ (bits >> np.uint64(31))) >> np.uint64(11)
    chances: Doubles = mixed.astype(np.float64)
    chances *= 2.0**-53
    return chances


def _between(name: str, value: float | None, default: float, low: float, high: float) -> float:
    if value is None:
        return default
    if not low <= value <= high:
        raise _refused(name, value, f"it is {low:g} to {high:g}")
    return value


def _refused(name: str, value: object, allowed: str) -> PlaneError:
    return PlaneError(Code.INVALID_ARGUMENT, f"{name} is {value}; {allowed}")
