"""How long an engine takes for a step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class TimingModel(Protocol):
    """How long the steps of an engine take; times in seconds."""

    def prefill_s(self, tokens: int) -> float:
        """What a step takes longer for the prompt tokens that it computes."""
        ...

    def decode_s(self, context_tokens: int, growth: int, steps: int) -> float:
        """What a run of steps takes that only write.

        Args:
            context_tokens: Tokens that the requests of the batch attend to in the first step,
                added up.
            growth: By how many tokens that sum grows with each step: the size of the batch.
            steps: How many steps.
        """
        ...


@dataclass(frozen=True, slots=True)
class PolynomialTiming:
    """A polynomial for each phase; a step that does both takes the sum.

    Prefill is bound by computing, so it goes by the prompt tokens of the step; the square is what
    attention adds. Decode is bound by memory, so it goes by the share of the cache that has to be
    read. The defaults are those of NVIDIA Dynamo's mocker (``lib/mocker``, its polynomial model, up
    to release 1.5), so that figures can be compared.

    Attributes:
        capacity_tokens: Tokens that the cache holds.
        prefill_ms: Coefficients by tokens: constant, linear, square.
        decode_ms: Coefficients by the share of the cache, from 0 to 1: constant, linear, square.
    """

    capacity_tokens: int = 16384 * 64
    prefill_ms: tuple[float, float, float] = (16.50142, 1.518344e-02, 4.209989e-07)
    decode_ms: tuple[float, float, float] = (5.74, 54.01, -25.74)

    def prefill_s(self, tokens: int) -> float:
        """See `TimingModel.prefill_s`."""
        if not tokens:
            return 0.0
        constant, linear, square = self.prefill_ms
        return (constant + (linear + square * tokens) * tokens) / 1000

    def decode_s(self, context_tokens: int, growth: int, steps: int) -> float:
        """See `TimingModel.decode_s`; the sum of the steps in closed form."""
        if not growth or not steps:
            return 0.0
        constant, linear, square = self.decode_ms
        share = context_tokens / self.capacity_tokens
        if share + growth * steps / self.capacity_tokens > 1:
            # Requests share what they have in common, so together they can attend to more than the
            # cache holds; the parabola says nothing of that.
            return steps * (constant + linear + square) / 1000
        each = growth / self.capacity_tokens
        # Sums of i and of its square, for i from 0 to steps - 1.
        ones = steps * (steps - 1) / 2
        squares = ones * (2 * steps - 1) / 3
        return (
            steps * constant
            + linear * (steps * share + each * ones)
            + square * (steps * share * share + 2 * share * each * ones + each * each * squares)
        ) / 1000
