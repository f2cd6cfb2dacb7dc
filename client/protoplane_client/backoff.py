"""How long to wait before trying again."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(slots=True)
class Backoff:
    """Delays that double, with full jitter above half.

    Attributes:
        first_s: First delay; ``retry:`` of an event stream raises it.
        limit_s: Longest delay.
    """

    first_s: float = 0.1
    limit_s: float = 30.0
    _failures: int = 0

    def next_s(self) -> float:
        """The next delay: between half and the whole of what the doubling has come to."""
        ceiling = min(self.limit_s, self.first_s * 2.0 ** min(self._failures, 32))
        self._failures += 1
        return ceiling * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, hides nothing

    def reset(self) -> None:
        """Begin again: the last try went well."""
        self._failures = 0
