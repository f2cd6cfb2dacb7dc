"""How a plane treats its calls: what `connect` is told in one value."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from protoplane_client.balanced import BalancedChannel
from protoplane_client.balancing import Picker, PowerOfTwoChoices
from protoplane_client.breaker import BreakerPolicy
from protoplane_client.hedging import HedgePolicy
from protoplane_client.retrying import RetryBudget, RetryPolicy
from protoplane_client.route import Route


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How calls are balanced, repeated and given up.

    Attributes:
        picker: Chooses among the instances that can take a call.
        retries: Which calls are made again, how often, and how long apart.
        budget: How many may be made again; planes may share one. Each has its own by default.
        hedging: Asks a second instance where the first is slow; by default only for calls that
            say ``hedge_after_s``.
        breaking: When an instance that fails is left alone.
        ready_s: Longest that a call waits for a connection.
    """

    picker: Picker = field(default_factory=PowerOfTwoChoices)
    retries: RetryPolicy = field(default_factory=RetryPolicy)
    budget: RetryBudget | None = None
    hedging: HedgePolicy | None = None
    breaking: BreakerPolicy = field(default_factory=BreakerPolicy)
    ready_s: float = 5.0

    def channel(self, routes: Iterable[Route]) -> BalancedChannel:
        """A channel over routes that keeps to this."""
        return BalancedChannel(
            routes,
            picker=self.picker,
            retries=self.retries,
            budget=self.budget,
            hedging=self.hedging,
            breaking=self.breaking,
            ready_s=self.ready_s,
        )
