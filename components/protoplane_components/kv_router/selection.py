"""What a router is asked, and what it answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from protoplane_components.kv_router.hashing import Hashes
from protoplane_components.kv_router.index import NOTHING, Overlap, Target
from protoplane_components.kv_router.levels import by_target
from protoplane_components.kv_router.load import Row
from protoplane_components.kv_router.policies import Costs, Judgement, View


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


class Request(Struct, frozen=True, kw_only=True, gc=False):
    """A request that needs a worker. Give its tokens, or its block hashes, or keys and length.

    Attributes:
        tokens: The prompt.
        hashes: Hashes of the prompt's full blocks; they include LoRA name and cache namespace.
        keys: Keys of the prompt's prefixes, see `hashing.prefix_keys`.
        prompt_tokens: Tokens of the prompt where they are not given; absent, all blocks are full.
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
    keys: NDArray[np.uint64] | None = None
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


class Score(Struct, frozen=True, gc=False):
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


class Selection(Struct, frozen=True, eq=False):
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
        view: What the policy knew.
        judgement: What it found.
        barred: Why some could not be chosen, by row.
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
    keys: NDArray[np.uint64]
    view: View
    judgement: Judgement
    barred: Mapping[int, str]

    def scores(self) -> list[Score]:
        """How each target was judged: the chosen one first, then by cost, those barred last."""
        targets = self.view.loads.places.targets
        overlaps = by_target(self.view.levels)
        nothing = [0.0] * len(targets)
        judged = self._costs()

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
        scores = [
            Score(
                target,
                overlaps.get(target, NOTHING),
                tokens,
                prefill,
                decode,
                active,
                bias,
                cost,
                probability,
                self.barred.get(row, ""),
            )
            for row, (target, (tokens, prefill, decode, active, bias, cost, probability)) in (
                enumerate(zip(targets, columns, strict=True))
            )
        ]
        scores.sort(key=lambda each: (each.target != self.target, bool(each.barred), each.cost))
        return scores

    def _costs(self) -> Costs:
        costs = self.judgement.costs
        if costs is not None:
            return costs()
        probability = np.zeros(len(self.view.loads.placed))
        probability[self.judgement.row] = 1
        return Costs(np.zeros_like(probability), probability)
