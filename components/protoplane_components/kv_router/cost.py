"""The policy ``kv``: what a request would cost on each worker, in blocks.

    cost = prefill + decode + active + bias

    prefill = weights.prefill
            * (tokens queued there + weights.fresh * (prompt's tokens - tokens saved)) / block size
    saved   = block size
            * (device * weights.device + host * weights.host + disk * weights.disk)
    decode  = weights.decode * (blocks in use there + blocks of the prompt)
    active  = weights.active * requests there

Device, host and disk are the blocks of the prompt that the worker has there. The bias warms
workers that are new, and keeps the replicas of a router apart. After NVIDIA Dynamo's cost of the
same parts.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from protoplane_base import Code, PlaneError
from protoplane_components.kv_router.core import core
from protoplane_components.kv_router.load import Figures, Places, Row
from protoplane_components.kv_router.policies import Costs, Judgement, View, draw, likelihood
from protoplane_components.kv_router.portable import CostInputs, Judged, Share, judged


@dataclass(frozen=True, slots=True)
class CostWeights:
    """The weights of the cost.

    Attributes:
        prefill: Of tokens to compute, for each block of them.
        fresh: Of tokens of the prompt that are in no cache there, as against those that wait there
            already. Both have to be computed, but the first also take the place of blocks that
            another request could have used, and leave one more copy of what is cached elsewhere.
            With 1, as in Dynamo, a replayed trace found less in the caches.
        decode: Of blocks in use, for each. To read a block costs far less than to compute one: with
            1, as in Dynamo, a replayed trace was answered later and written more slowly.
        active: Of requests at work, in blocks for each: they share the steps of the engine.
        device: Share of a block's tokens that need not be computed where it is in device memory.
        host: The same for memory of the host, from which it is copied.
        disk: The same for a disk.
        temperature: How much chance decides; 0 takes the least cost, see `policies.draw`.
        warm_requests: A worker that had fewer requests than this is judged as if it had some of
            the best worker's blocks: all at first, then less with each request. Otherwise one that
            joins a warm fleet would stay cold. 0 warms nobody.
        replicas: How many routers at least place requests on these workers; those that are heard
            of count by themselves. With ``n`` of them, chance adds up to ``sqrt(n - 1)`` times the
            blocks to compute, so that those who know the same do not all choose the same. A worker
            that has the prompt has nothing to compute, so no chance leads away from it.
    """

    prefill: float = 1.0
    fresh: float = 3.0
    decode: float = 0.1
    active: float = 1.0
    device: float = 1.0
    host: float = 0.75
    disk: float = 0.25
    temperature: float = 0.0
    warm_requests: int = 4
    replicas: int = 1

    def __post_init__(self) -> None:
        for name in (
            "prefill",
            "fresh",
            "decode",
            "active",
            "device",
            "host",
            "disk",
            "temperature",
        ):
            value = getattr(self, name)
            if not 0 <= value < float("inf"):
                raise PlaneError(
                    Code.INVALID_ARGUMENT, f"the weight {name} is {value}; give a number from 0 on"
                )


class KvPolicy:
    """The least cost, with regard to what is cached.

    Args:
        weights: Weights of the cost.
    """

    name = "kv"
    needs_index = True

    def __init__(self, weights: CostWeights = CostWeights()) -> None:
        self._weights = weights
        # Loads, or places of targets, that are known to have nobody to warm.
        self._even: Figures | Places | None = None

    @property
    def weights(self) -> CostWeights:
        """Weights of the cost."""
        return self._weights

    def judge(self, view: View) -> Judgement:
        """Choose the one with the least cost."""
        weights, loads, size = self._weights, view.loads, view.block_size
        shares = self._shares(view)
        replicas = max(weights.replicas, view.replicas)
        inputs = CostInputs(
            loads.work,
            (weights.prefill / size, weights.decode, weights.active, weights.fresh),
            view.prompt_tokens,
            view.prompt_blocks,
            shares,
            self._warming(view, shares),
            view.random.randbytes(4 * len(loads.placed)) if replicas > 1 else None,
            sqrt(replicas - 1) / (1 << 32),
        )
        if weights.temperature:
            row = draw(judged(inputs).cost, view.rows, view.random, weights.temperature)
        else:
            row = core.least_cost(inputs, view.rows, view.random.randrange)
        # Of the figures that it chose by, which do not change.
        return Judgement(row, lambda: self._costs(view, judged(inputs)))

    def _costs(self, view: View, found: Judged) -> Costs:
        probability = likelihood(found.cost, view.rows, self._weights.temperature)
        tokens = view.loads.prefill_tokens + (view.prompt_tokens - found.saved)
        prefill, decode, active = found.parts
        return Costs(found.cost, probability, tokens, prefill, decode, active, found.bias)

    def _shares(self, view: View) -> list[Share]:
        """How many tokens each group need not compute."""
        weights, size, most = self._weights, view.block_size, view.prompt_tokens
        each, places = weights.device * size, view.loads.places.rows
        shares: list[Share] = []
        for (device, host, disk), group in view.levels:
            saved = device * each
            if host or disk:
                saved += host * (weights.host * size) + disk * (weights.disk * size)
            shares.append((min(saved, most), group.rows(places)))
        return shares

    def _warming(self, view: View, shares: list[Share]) -> Row | None:
        """What those that are new are judged better by."""
        cold = self._cold(view.loads)
        if cold is None:
            return None
        weights = self._weights
        saved = np.zeros(len(cold))
        for share, rows in shares:
            saved[rows] = share
        best = saved[view.rows].max()
        lacking = (best - saved) * (weights.prefill * weights.fresh / view.block_size)
        share_of_best = 1 - view.loads.placed / weights.warm_requests
        return np.where(cold, -lacking * share_of_best, 0.0)

    def _cold(self, loads: Figures) -> NDArray[np.bool_] | None:
        """Who is to be warmed: those that are new, if there are others; `None` for nobody."""
        if self._even is loads or self._even is loads.places:
            return None
        cold = loads.placed < self._weights.warm_requests
        if not cold.any():
            # Until somebody joins.
            self._even = loads.places
        elif cold.all():
            self._even = loads
        else:
            return cold
        return None
