"""Who gets a request: one interface, and the policies that need no index.

The cost of the policy that does is in `cost`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from random import Random
from typing import Protocol

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from protoplane_components.kv_router.index import Overlap
from protoplane_components.kv_router.levels import Levels
from protoplane_components.kv_router.load import Figures, Row
from protoplane_components.kv_router.portable import cheapest


class View(Struct, frozen=True, eq=False):
    """What a policy knows when it chooses. Arrays have a row for each target.

    Attributes:
        loads: How busy each is.
        levels: What each has of the prompt.
        prompt_tokens: Tokens of the prompt.
        block_size: Tokens in a block.
        rows: Rows to choose from, at least one.
        random: Where chance comes from.
        replicas: How many routers place requests on these targets, this one included.
    """

    loads: Figures
    levels: Levels
    prompt_tokens: int
    block_size: int
    rows: NDArray[np.intp]
    random: Random
    replicas: int = 1

    @property
    def prompt_blocks(self) -> int:
        """Blocks that the prompt takes up, a last one that is not full included."""
        return -(-self.prompt_tokens // self.block_size)

    @property
    def device(self) -> Row:
        """Blocks of the prompt that each has in device memory."""
        return self.row(lambda overlap: overlap.device)

    @property
    def host(self) -> Row:
        """How many more each has in its host's memory."""
        return self.row(lambda overlap: overlap.host)

    @property
    def disk(self) -> Row:
        """How many more each has on disk."""
        return self.row(lambda overlap: overlap.disk)

    def row(self, figure: Callable[[Overlap], float]) -> Row:
        """A figure for each target by what it has of the prompt; 0 for those that have nothing."""
        rows = self.loads.places.rows
        row = np.zeros(len(rows))
        for overlap, group in self.levels:
            row[group.rows(rows)] = figure(overlap)
        return row


class Costs(Struct, frozen=True, eq=False, gc=False):
    """How each target was judged, in blocks.

    Attributes:
        cost: The whole cost.
        probability: How likely each was to be chosen.
        prefill_tokens: Tokens to compute before the answer begins.
        prefill: Part of the cost for them.
        decode: Part of the cost for blocks in use.
        active: Part of the cost for requests at work.
        bias: What else was counted.
    """

    cost: Row
    probability: Row
    prefill_tokens: Row | None = None
    prefill: Row | None = None
    decode: Row | None = None
    active: Row | None = None
    bias: Row | None = None


class Judgement(Struct, frozen=True, eq=False):
    """What a policy found.

    Attributes:
        row: Whom it chose.
        costs: Gives the costs, by the figures of then; few ask. Absent, there are none, and no
            other could have been chosen.
    """

    row: int
    costs: Callable[[], Costs] | None = None


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
        row = view.rows.item(self._turn % len(view.rows))
        self._turn += 1
        return Judgement(row)


class RandomChoice:
    """Any, each as likely as the others."""

    name = "random"
    needs_index = False

    def judge(self, view: View) -> Judgement:
        """Choose one by chance."""
        row = view.rows.item(view.random.randrange(len(view.rows)))
        return Judgement(row, partial(self._costs, view))

    @staticmethod
    def _costs(view: View) -> Costs:
        cost = np.zeros(len(view.loads.placed))
        return Costs(cost, likelihood(cost, view.rows))


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
        row = min((view.rows.item(at) for at in pair), key=cost.item)
        return Judgement(row, partial(self._costs, view, cost))

    @staticmethod
    def _costs(view: View, cost: Row) -> Costs:
        count = len(view.rows)
        probability = np.zeros(len(cost))
        # The k-th of n in the order of load is the less busy one of 2 (n - k) / (n (n - 1)) pairs.
        order = view.rows[np.argsort(cost[view.rows], kind="stable")]
        ranks = np.arange(1, count + 1)
        probability[order] = 2 * (count - ranks) / (count * (count - 1)) if count > 1 else 1.0
        return Costs(cost, probability, active=cost)


class LeastLoaded:
    """The one with the fewest tokens to compute and blocks in use; chance breaks ties."""

    name = "least-loaded"
    needs_index = False

    def judge(self, view: View) -> Judgement:
        """Choose the least busy."""
        cost = _busy(view)
        row = draw(cost, view.rows, view.random)
        return Judgement(row, lambda: Costs(cost, likelihood(cost, view.rows), active=cost))


def draw(cost: Row, rows: NDArray[np.intp], random: Random, temperature: float = 0) -> int:
    """Choose a row by its cost.

    Args:
        cost: Cost of each row.
        rows: Rows to choose from.
        random: Where chance comes from.
        temperature: 0 takes the least, and one of those by chance where several have it. Above,
            chance decides: the likelihood falls by e with each such share of the distance from the
            least to the greatest cost.
    """
    if not temperature:
        return cheapest(cost, rows, random.randrange)
    ends = _weights(cost[rows], temperature).cumsum()
    at = min(int(ends.searchsorted(random.random(), side="right")), len(rows) - 1)
    return rows.item(at)


def likelihood(cost: Row, rows: NDArray[np.intp], temperature: float = 0) -> Row:
    """How likely `draw` chooses each row."""
    probability = np.zeros(len(cost))
    probability[rows] = _weights(cost[rows], temperature)
    return probability


def _weights(cost: Row, temperature: float) -> Row:
    least = cost.min()
    spread = cost.max() - least
    weights: Row = (cost == least).astype(float)
    if temperature > 0 and spread:
        weights = np.exp((least - cost) / (spread * temperature))
    weights /= weights.sum()
    return weights


def _busy(view: View) -> Row:
    loads = view.loads
    return loads.prefill_tokens / view.block_size + loads.decode_blocks + loads.active_requests
