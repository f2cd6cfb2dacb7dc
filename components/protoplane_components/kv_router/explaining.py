"""Says in words why a request goes where it goes."""

from __future__ import annotations

from collections import Counter

from protoplane_components.kv_router.cost import KvPolicy
from protoplane_components.kv_router.router import Router
from protoplane_components.kv_router.selection import Selection

FORMULA = (
    "cost = weights.prefill"
    " * (tokens queued + weights.fresh * (prompt tokens - tokens saved)) / block size"
    " + weights.decode * (blocks in use + blocks of the prompt)"
    " + weights.active * requests + bias"
)
"""The cost under the policy ``kv``, see `protoplane_components.kv_router.cost`."""


def steps(selection: Selection, router: Router, *, warm: bool) -> list[str]:
    """How a choice came about, one step a line.

    Args:
        selection: The choice.
        router: Who made it.
        warm: Whether its index was ready.
    """
    scores = selection.scores()
    barred = Counter(score.barred for score in scores if score.barred)
    cached = [score for score in scores if score.overlap.blocks]
    most = max((score.overlap.blocks for score in cached), default=0)
    told = [
        (
            f"The prompt has {selection.prompt_tokens} tokens, {selection.prompt_blocks} full "
            f"blocks of {router.block_size}."
        ),
        (
            f"{len(cached)} of {len(scores)} ranks have its first block in their cache; the most "
            f"that one has are {most} blocks."
        ),
    ]
    told += [f"{count} are left out: {why}." for why, count in sorted(barred.items())]
    if selection.degraded:
        told.append(
            f"The index is not ready, so the policy {selection.policy}, which needs none, chooses."
        )
    elif not warm:
        told.append("The index is not ready, which this policy does not mind.")
    told.append(
        f"The policy {selection.policy} chooses {selection.target.worker}, rank "
        f"{selection.target.dp_rank}, which has {selection.overlap.blocks} of the blocks."
    )
    chosen = scores[0]
    if selection.sticky:
        told.append("The session has been there before, so it stays.")
    elif selection.policy == KvPolicy.name:
        others = [score.cost for score in scores[1:] if not score.barred]
        beaten = f"; the next best costs {min(others):.2f}" if others else ""
        told.append(
            f"It costs {chosen.cost:.2f} there: {chosen.prefill:.2f} to compute, "
            f"{chosen.decode:.2f} for blocks in use, {chosen.active:.2f} for requests, "
            # Without it a small negative one would be "-0.00".
            f"{round(chosen.bias, 2) + 0.0:.2f} else{beaten}."
        )
    return told
