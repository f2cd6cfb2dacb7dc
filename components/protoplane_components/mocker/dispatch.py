"""The KV router in front of simulated engines."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import numpy as np
from numpy.typing import NDArray

from protoplane_components.kv_router.approximate import ApproximateIndex
from protoplane_components.kv_router.cost import CostWeights
from protoplane_components.kv_router.hashing import block_hashes
from protoplane_components.kv_router.index import KvIndex, Target
from protoplane_components.kv_router.router import Router
from protoplane_components.kv_router.selection import Request, Worker
from protoplane_components.mocker.blocks import CacheObserver
from protoplane_components.mocker.engine import MockRequest, Written
from protoplane_components.mocker.replay import ReplayOptions

GUESSING = "kv-approximate"
POLICIES = ("kv", GUESSING, "round-robin", "random", "p2c", "least-loaded")
"""Those of the router; ``kv-approximate`` is ``kv`` with an index that no engine tells anything."""

# A replay loses no word of a request's end, however long it takes.
_LEASE_S = 1e12


class RouterDispatch:
    """Asks a router, and tells it what becomes of requests and what the caches hold.

    Args:
        policy: One of `POLICIES`.
        workers: How many engines there are.
        block_size: Tokens in a block of their caches.
        weights: Weights of the cost.
        seed: Of what is left to chance.

    Attributes:
        exact: The index that the caches feed; only that of ``kv`` is fed.
        router: The router.
    """

    def __init__(
        self,
        policy: str,
        workers: int,
        block_size: int,
        weights: CostWeights = CostWeights(),  # noqa: B008  # frozen
        seed: int = 0,
    ) -> None:
        self._now_s = 0.0
        self.exact = KvIndex()
        self._observes = policy == "kv"
        approximate = policy == GUESSING
        self.router = Router(
            block_size=block_size,
            index=ApproximateIndex(clock=self._clock) if approximate else self.exact,
            policy="kv" if approximate else policy,
            weights=weights,
            lease_s=_LEASE_S,
            clock=self._clock,
            random=Random(seed),  # noqa: S311  # no secret
        )
        for worker in range(workers):
            self.router.register(Worker(str(worker), block_size))

    def observer(self, worker: int) -> CacheObserver | None:
        """See `protoplane_components.mocker.replay.Dispatch.observer`."""
        return _Follower(self.exact, Target(str(worker), 0)) if self._observes else None

    def choose(self, request: MockRequest, prompt: Sequence[int], now_s: float) -> int:
        """See `protoplane_components.mocker.replay.Dispatch.choose`."""
        self._now_s = now_s
        asked = Request(
            hashes=_hashes_of(prompt), prompt_tokens=request.prompt_tokens, id=request.id
        )
        _, selection = self.router.reserve(asked)
        return int(selection.target.worker)

    def happened(self, worker: int, written: Written) -> None:
        """See `protoplane_components.mocker.replay.Dispatch.happened`."""
        self._now_s = max(self._now_s, written.at_s)
        if written.first:
            self.router.prefill_completed(written.id)
        if written.finished:
            self.router.release(written.id)

    def _clock(self) -> float:
        return self._now_s


class _Follower:
    """Tells an index what a cache holds."""

    def __init__(self, index: KvIndex, target: Target) -> None:
        self._index = index
        self._target = target

    def stored(self, parent: int | None, hashes: Sequence[int]) -> None:
        self._index.store(self._target, hashes, _hashes_of(hashes), parent=parent)

    def removed(self, hashes: Sequence[int]) -> None:
        self._index.remove(self._target, hashes)

    def cleared(self) -> None:
        self._index.clear(self._target)


def dispatch_by(
    policy: str,
    options: ReplayOptions,
    seed: int = 0,
    weights: CostWeights = CostWeights(),  # noqa: B008  # frozen
) -> RouterDispatch:
    """What routes a replay by a policy.

    Args:
        policy: One of `POLICIES`.
        options: The replay.
        seed: Of what is left to chance.
        weights: Weights of the cost.
    """
    return RouterDispatch(policy, options.workers, options.engine.block_size, weights, seed)


def _hashes_of(blocks: Sequence[int]) -> NDArray[np.uint64]:
    """Hashes of the tokens of blocks: an id stands for them, as for a block of one token."""
    ids = np.array(blocks, np.uint64).astype(np.uint32)
    return block_hashes(ids, 1)
