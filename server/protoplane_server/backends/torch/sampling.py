"""Chooses the next token of many texts at once, each by its own rules and its own seed.

It does what `protoplane_server.backends.sampling` does, where the scores are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from protoplane_server.backends.sampling import Rules, uniform

_GREEDY = 1e-6


@dataclass(frozen=True, slots=True)
class Choice:
    """A token that is to be chosen.

    Attributes:
        rules: How.
        tokens: Prompt and text so far; empty where the rules have no penalties.
        prompt_tokens: How many of them are the prompt.
        number: How many tokens were chosen before it.
    """

    rules: Rules
    tokens: Sequence[int]
    prompt_tokens: int
    number: int


def has_penalties(rules: Rules) -> bool:
    """Whether it matters to a choice what was written before."""
    return (rules.repetition, rules.presence, rules.frequency) != (1.0, 0.0, 0.0)


def choose(scores: torch.Tensor, choices: Sequence[Choice]) -> list[int]:
    """The next token of each text.

    Args:
        scores: Float32, ``[texts, vocabulary]``; they are changed.
        choices: How to choose each.

    Returns:
        The tokens; -1 where the scores are not numbers.
    """
    for row, choice in enumerate(choices):
        if has_penalties(choice.rules):
            _penalize(scores[row], choice)
    best = scores.argmax(1)
    rows = [row for row, each in enumerate(choices) if each.rules.temperature >= _GREEDY]
    if rows:
        drawn = [choices[row] for row in rows]
        some = scores[rows] if len(rows) < len(choices) else scores
        best[rows] = _draw(some, [choice.rules for choice in drawn], _aims(drawn))
    chosen: list[int] = torch.where(scores.isfinite().all(1), best, -1).tolist()
    return chosen


def _aims(choices: Sequence[Choice]) -> list[float]:
    seeds = np.array([choice.rules.seed for choice in choices], np.uint64)
    numbers = np.array([choice.number for choice in choices], np.uint64)
    aims: list[float] = uniform(seeds, numbers).tolist()
    return aims


def _draw(scores: torch.Tensor, rules: Sequence[Rules], aims: Sequence[float]) -> torch.Tensor:
    where = scores.device
    vocabulary = scores.shape[1]
    temperatures = torch.tensor([each.temperature for each in rules], device=where)
    scores = scores - scores.amax(1, keepdim=True)
    chances = (scores / temperatures[:, None]).double().softmax(1)
    cut = [row for row, each in enumerate(rules) if 0 < each.top_k < vocabulary or each.top_p < 1.0]
    if cut:
        chances[cut] = _cut(chances[cut], [rules[row] for row in cut])
    sums = chances.cumsum(1)
    wanted = torch.tensor(aims, dtype=torch.float64, device=where)[:, None] * sums[:, -1:]
    return torch.searchsorted(sums, wanted, right=True)[:, 0].clamp(max=vocabulary - 1)


def _cut(chances: torch.Tensor, rules: Sequence[Rules]) -> torch.Tensor:
    """Take the chance of all but the likeliest."""
    where = chances.device
    vocabulary = chances.shape[1]
    ranked, order = chances.sort(dim=1, descending=True, stable=True)
    before = ranked.cumsum(1) - ranked
    most = torch.tensor([each.top_k or vocabulary for each in rules], device=where)
    share = torch.tensor([each.top_p for each in rules], dtype=torch.float64, device=where)
    ranks = torch.arange(vocabulary, device=where)
    dropped = (ranks >= most[:, None]) | (before >= share[:, None])
    dropped[:, 0] = False
    return torch.zeros_like(chances).scatter(1, order, ranked.masked_fill(dropped, 0.0))


def _penalize(scores: torch.Tensor, choice: Choice) -> None:
    rules = choice.rules
    tokens = torch.tensor(choice.tokens, dtype=torch.int64, device=scores.device)
    occurred = tokens.bincount(minlength=len(scores)) > 0
    written = tokens[choice.prompt_tokens :].bincount(minlength=len(scores))
    softer = torch.where(scores > 0, scores / rules.repetition, scores * rules.repetition)
    taken = rules.presence * (written > 0).float() + rules.frequency * written.float()
    scores.copy_(torch.where(occurred, softer, scores) - taken)
