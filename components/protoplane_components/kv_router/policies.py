"""Who gets a request: one interface, and the policies that need no index.

The cost of the policy that does is in `cost`.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from protoplane_components.kv_router.load import LoadTable

Row = NDArray[np.float64]
"""A figure for each target."""


@dataclass(frozen=True, slots=True)
class View:
    """What a policy knows when it chooses. Arrays have a row for each target of `loads`.

    Attributes:
        loads: How busy each is.
        device: Blocks of the prompt that each has in device memory.
        host: How many more it has in its host's memory.
        disk: How many more it has on disk.
        prompt_tokens: Tokens of the prompt.
        block_size: Tokens in a block.
        rows: Rows to choose from, at least one.
        random: Where chance comes from.
        tiered: Whether any of them has blocks elsewhere than in device memory.
        replicas: How many routers place requests on these targets, this one included.
    """

    loads: LoadTable
    device: Row
    host: Row
    disk: Row
    prompt_tokens: int
    block_size: int
    rows: NDArray[np.intp]
    random: Random
    tiered: bool = True
    replicas: int = 1

    @property
    def prompt_blocks(self) -> float:
        """Blocks that the prompt takes up, a last one that is not full included."""
        return -(-self.prompt_tokens // self.block_size)


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a policy found. Costs are in blocks, and have a row for each target.

    Attributes:
        row: Whom it chose.
        cost: The whole cost.
        prefill_tokens: Tokens to compute before the answer begins.
        prefill: Part of the cost for them.
        decode: Part of the cost for blocks in use.
        active: Part of the cost for requests at work.
        bias: What else was counted.
        probability: How likely each was to be chosen.
    """

    row: int
    cost: Row
    probability: Row
    prefill_tokens: Row | None = None
    prefill: Row | None = None
    decode: Row | None = None
    active: Row | None = None
    bias: Row | None = None


class Policy(Protocol):
    """Chooses among targets. It may remember what it chose."""

    @property
    def name(self) -> str:
        """What it is called in requests and in tables."""
        ...

    @property
    def needs_index(self) -> bool:
        """Whether it asks what is cached."""
        ...

    def judge(self, view: View) -> Judgement:
        """Choose one of `view.rows`."""
        ...


class RoundRobin:
    """One after the other."""

    name = "round-robin"
    needs_index = False

    def __init__(self) -> None:
        self._turn = 0

    def judge(self, view: View) -> Judgement:
        """Choose the next one."""
        row = int(view.rows[self._turn % len(view.rows)])
        self._turn += 1
        return _certain(view, row)


class RandomChoice:
    """Any, each as likely as the others."""

    name = "random"
    needs_index = False

    def judge(self, view: View) -> Judgement:
        """Choose one by chance."""
        row = int(view.rows[view.random.randrange(len(view.rows))])
        probability = np.zeros(len(view.loads.targets))
        probability[view.rows] = 1 / len(view.rows)
        return Judgement(row, np.zeros_like(probability), probability)


class PowerOfTwo:
    """The less busy of two that chance names.

    Source: M. Mitzenmacher, The Power of Two Choices in Randomized Load Balancing, IEEE TPDS
        12(10).
    """

    name = "p2c"
    needs_index = False

    def judge(self, view: View) -> Judgement:
        """Choose the less busy of two."""
        cost = _busy(view)
        count = len(view.rows)
        pair = view.random.sample(range(count), min(2, count))
        row = min((int(view.rows[at]) for at in pair), key=lambda row: float(cost[row]))
        probability = np.zeros(len(cost))
        # The k-th of n in the order of load is the less busy one of 2 (n - k) / (n (n - 1)) pairs.
        order = view.rows[np.argsort(cost[view.rows], kind="stable")]
        ranks = np.arange(1, count + 1)
        probability[order] = 2 * (count - ranks) / (count * (count - 1)) if count > 1 else 1.0
        return Judgement(row, cost, probability, active=cost)


class LeastLoaded:
    """The one with the fewest tokens to compute and blocks in use; chance breaks ties."""

    name = "least-loaded"
    needs_index = False

    def judge(self, view: View) -> Judgement:
        """Choose the least busy."""
        cost = _busy(view)
        row, probability = draw(cost, view.rows, 0, view.random)
        return Judgement(row, cost, probability, active=cost)


def draw(cost: Row, rows: NDArray[np.intp], temperature: float, random: Random) -> tuple[int, Row]:
    """Choose a row by its cost.

    Args:
        cost: Cost of each row.
        rows: Rows to choose from.
        temperature: 0 takes the least, and one of those by chance where several have it. Above,
            chance
            decides: the likelihood falls by e with each such share of the distance from the least
                to
            the greatest cost.
        random: Where chance comes from.

    Returns:
        The row, and how likely each was.
    """
    among = cost[rows]
    least = among.min()
    if temperature > 0:
        spread = among.max() - least
        weights = np.exp((least - among) / (spread * temperature)) if spread else np.ones(len(rows))
        weights /= weights.sum()
        at = int(np.searchsorted(weights.cumsum(), random.random(), side="right"))
        at = min(at, len(rows) - 1)
    else:
        least_ones = (among == least).nonzero()[0]
        weights = np.zeros(len(rows))
        weights[least_ones] = 1 / len(least_ones)
        at = least_ones.item(random.randrange(len(least_ones)) if len(least_ones) > 1 else 0)
    probability = np.zeros(len(cost))
    probability[rows] = weights
    return int(rows[at]), probability


def _certain(view: View, row: int) -> Judgement:
    probability = np.zeros(len(view.loads.targets))
    probability[row] = 1
    return Judgement(row, np.zeros_like(probability), probability)


def _busy(view: View) -> Row:
    loads = view.loads
    return loads.prefill_tokens / view.block_size + loads.decode_blocks + loads.active_requests
