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

from protoplane_base import Code, PlaneError
from protoplane_components.kv_router.policies import Judgement, Row, View, draw


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
        self.weights = weights

    def judge(self, view: View) -> Judgement:
        """Choose the one with the least cost."""
        weights, loads, size = self.weights, view.loads, view.block_size
        saved = view.device * (weights.device * size)
        if view.tiered:
            saved += view.host * (weights.host * size) + view.disk * (weights.disk * size)
        np.minimum(saved, view.prompt_tokens, out=saved)
        own = view.prompt_tokens - saved
        queued = loads.prefill_tokens
        tokens = queued + own
        prefill = (queued + own * weights.fresh) * (weights.prefill / size)
        decode = (loads.decode_blocks + view.prompt_blocks) * weights.decode
        active = loads.active_requests * weights.active
        cost = prefill + decode + active
        bias = self._bias(view, saved)
        if bias is not None:
            cost += bias
        row, probability = draw(cost, view.rows, weights.temperature, view.random)
        return Judgement(row, cost, probability, tokens, prefill, decode, active, bias)

    def _bias(self, view: View, saved: Row) -> Row | None:
        weights = self.weights
        bias: Row | None = None
        if weights.warm_requests:
            cold = view.loads.placed < weights.warm_requests
            if cold.any() and not cold.all():
                best = saved[view.rows].max()
                lacking = (best - saved) * (weights.prefill * weights.fresh / view.block_size)
                share = 1 - view.loads.placed / weights.warm_requests
                bias = np.where(cold, -lacking * share, 0.0)
        replicas = max(weights.replicas, view.replicas)
        if replicas > 1:
            lacking = (view.prompt_tokens - saved) * (weights.prefill / view.block_size)
            words = np.frombuffer(view.random.randbytes(4 * len(lacking)), np.uint32)
            chance = words * lacking * (sqrt(replicas - 1) / (1 << 32))
            bias = chance if bias is None else bias + chance
        return bias
