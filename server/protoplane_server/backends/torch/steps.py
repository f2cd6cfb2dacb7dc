"""From what a step is to compute to the tensors of it."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from protoplane_server.backends.torch.model import Group, KvCache, Llama, Step
from protoplane_server.backends.torch.sampling import Choice, choose, has_penalties
from protoplane_server.backends.torch.scheduler import Work
from protoplane_server.backends.torch.settings import BLOCK_TOKENS


def compute(model: Llama, cache: KvCache, works: list[Work]) -> list[int | None]:
    """Run a step; it blocks until that is done.

    Returns:
        The next token of each, -1 where the model's scores are not numbers; ``None`` where there is
        more of the prompt to compute first.
    """
    with torch.inference_mode():
        writing, scores = scored(model, cache, works)
        tokens = choose(scores, [_choice(work) for work in writing]) if writing else []
    chosen = {id(work): token for work, token in zip(writing, tokens, strict=True)}
    return [chosen.get(id(work)) for work in works]


def scored(model: Llama, cache: KvCache, works: Iterable[Work]) -> tuple[list[Work], torch.Tensor]:
    """Run a step of a model.

    Returns:
        Those whose next token can be chosen now, and the scores for it: float32,
        ``[those, vocabulary]``.
    """
    groups = _grouped(works)
    writing = [work for group in groups for work in group if work.writes]
    return writing, model.scores(_step(groups, model), cache)


def _choice(work: Work) -> Choice:
    sequence = work.sequence
    rules = sequence.rules
    return Choice(
        rules,
        sequence.tokens if has_penalties(rules) else (),
        sequence.prompt_tokens,
        sequence.written,
    )


def _grouped(works: Iterable[Work]) -> list[list[Work]]:
    """Sequences of like length that compute one token each go together; others go alone."""
    like: dict[int, list[Work]] = {}
    alone: list[list[Work]] = []
    for work in works:
        if work.tokens == 1:
            like.setdefault(_blocks(work).bit_length(), []).append(work)
        else:
            alone.append([work])
    return [*like.values(), *alone]


def _step(groups: list[list[Work]], model: Llama) -> Step:
    device = model.device
    sharing = model.config.num_attention_heads // model.config.kv_heads
    tokens: list[int] = []
    positions: list[int] = []
    slots: list[int] = []
    wanted: list[int] = []
    made: list[Group] = []
    for group in groups:
        start = len(tokens)
        for work in group:
            blocks = work.sequence.blocks
            span = range(work.start, work.start + work.tokens)
            tokens += work.sequence.tokens[span.start : span.stop]
            positions += span
            slots += [blocks[at // BLOCK_TOKENS] * BLOCK_TOKENS + at % BLOCK_TOKENS for at in span]
            if work.writes:
                wanted.append(len(tokens) - 1)
        longest = max(map(_blocks, group))
        tables = [
            (work.sequence.blocks[: _blocks(work)] + [0] * longest)[:longest] for work in group
        ]
        own = torch.tensor(positions[start:], device=device).view(len(group), 1, -1, 1)
        if group[0].tokens > 1:
            own = own.repeat(1, 1, sharing, 1)
        seen = torch.arange(longest * BLOCK_TOKENS, device=device)
        made.append(
            Group(
                start, len(group), group[0].tokens, torch.tensor(tables, device=device), seen <= own
            )
        )
    return Step(
        torch.tensor(tokens, device=device),
        torch.tensor(positions, device=device),
        torch.tensor(slots, device=device),
        made,
        torch.tensor(wanted, dtype=torch.int64, device=device),
    )


def _blocks(work: Work) -> int:
    """How many blocks hold all that the last token of a work looks at."""
    return -(-(work.start + work.tokens) // BLOCK_TOKENS)
