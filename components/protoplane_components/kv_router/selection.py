"""What a router is asked, and what it answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from protoplane_components.kv_router.hashing import Hashes
from protoplane_components.kv_router.index import Overlap, Target
from protoplane_components.kv_router.policies import Judgement, Row

_NOTHING = Overlap()


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker that requests can go to.

    Attributes:
        id: Its id: one path segment, such as the id of its instance.
        block_size: Tokens in a block of its cache; 0 for the router's.
        endpoint: Where it is reached; the router does not read it.
        dp_start: Its lowest data-parallel rank.
        dp_size: How many ranks it has.
        no_events: Whether it tells nothing of its cache: what that holds is guessed from what it
            was given.
    """

    id: str
    block_size: int = 0
    endpoint: str = ""
    dp_start: int = 0
    dp_size: int = 1
    no_events: bool = False

    def targets(self) -> list[Target]:
        """Its ranks."""
        return [Target(self.id, self.dp_start + rank) for rank in range(max(1, self.dp_size))]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request that needs a worker. Give its tokens or its block hashes.

    Attributes:
        tokens: The prompt.
        hashes: Hashes of the prompt's full blocks; they include LoRA name and cache namespace.
        prompt_tokens: Tokens of the prompt where only hashes are given; absent, all blocks are
            full.
        lora: Name of the LoRA adapter.
        cache_namespace: Requests share blocks only within it.
        priority: Those with a higher one leave the queue first.
        session: Requests of one session go to one worker while it can take them.
        pinned: Ids of the only workers to choose from; empty for all.
        excluded: Ids of workers not to choose.
        policy: Name of the policy; empty for the router's own.
        id: Name of its reservation; the router makes one where it is empty.
        overlaps: What each target has of the prompt, where that was looked up already; absent, the
            router asks its index.
    """

    tokens: Sequence[int] | NDArray[np.uint32] | None = None
    hashes: Hashes | None = None
    prompt_tokens: int | None = None
    lora: str = ""
    cache_namespace: str = ""
    priority: int = 0
    session: str = ""
    pinned: frozenset[str] = frozenset()
    excluded: frozenset[str] = frozenset()
    policy: str = ""
    id: str = ""
    overlaps: Mapping[Target, Overlap] | None = None


@dataclass(frozen=True, slots=True)
class Score:
    """How a target was judged. Costs are in blocks; the least wins.

    Attributes:
        target: Who.
        overlap: What it has of the prompt.
        prefill_tokens: Tokens that it would compute before the answer begins.
        prefill: Part of the cost for them.
        decode: Part of the cost for blocks in use.
        active: Part of the cost for requests at work.
        bias: What else was counted.
        cost: The whole cost.
        probability: How likely it was to be chosen.
        barred: Why it could not be chosen: `pinned` to others, `excluded`, `busy`, or empty.
    """

    target: Target
    overlap: Overlap
    prefill_tokens: float
    prefill: float
    decode: float
    active: float
    bias: float
    cost: float
    probability: float
    barred: str


@dataclass(frozen=True, slots=True)
class Selection:
    """A choice.

    Attributes:
        target: Who was chosen.
        worker: Its worker.
        overlap: What it has of the prompt.
        prompt_blocks: Full blocks of the prompt.
        prompt_tokens: Tokens of the prompt.
        prefill_tokens: Those of them that are in no cache of the chosen one.
        policy: Name of the policy that chose.
        degraded: Whether that is not the one that was asked for, because the index is not ready.
        sticky: Whether the session chose, not the policy.
        keys: Keys of the prompt's prefixes.
    """

    target: Target
    worker: Worker
    overlap: Overlap
    prompt_blocks: int
    prompt_tokens: int
    prefill_tokens: int
    policy: str
    degraded: bool
    sticky: bool
    keys: NDArray[np.uint64] = field(repr=False)
    _targets: Sequence[Target] = field(repr=False)
    _overlaps: Mapping[Target, Overlap] = field(repr=False)
    _judgement: Judgement = field(repr=False)
    _barred: Mapping[int, str] = field(repr=False)

    def scores(self) -> list[Score]:
        """How each target was judged: the chosen one first, then by cost, those barred last."""
        judged = self._judgement
        nothing = [0.0] * len(self._targets)

        def column(figures: Row | None) -> list[float]:
            return nothing if figures is None else figures.tolist()

        columns = zip(
            column(judged.prefill_tokens),
            column(judged.prefill),
            column(judged.decode),
            column(judged.active),
            column(judged.bias),
            judged.cost.tolist(),
            judged.probability.tolist(),
            strict=True,
        )
        scores: list[Score] = []
        for row, (tokens, prefill, decode, active, bias, cost, probability) in enumerate(columns):
            target = self._targets[row]
            scores.append(
                Score(
                    target,
                    self._overlaps.get(target, _NOTHING),
                    tokens,
                    prefill,
                    decode,
                    active,
                    bias,
                    cost,
                    probability,
                    self._barred.get(row, ""),
                )
            )
        scores.sort(key=lambda each: (each.target != self.target, bool(each.barred), each.cost))
        return scores
