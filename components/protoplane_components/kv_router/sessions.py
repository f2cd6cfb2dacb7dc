"""Where sessions are at home: the target that each was sent to last."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from protoplane_components.kv_router.index import Target


class Sessions:
    """Remembers the target of each session for a while.

    Args:
        ttl_s: How long without a request, in seconds.
        most: Most sessions to remember; the ones without requests for longest go first.
        clock: Seconds, from any beginning.
    """

    def __init__(self, ttl_s: float, most: int, clock: Callable[[], float]) -> None:
        self._ttl_s = ttl_s
        self._most = most
        self._clock = clock
        self._homes: OrderedDict[str, tuple[Target, float]] = OrderedDict()

    def home(self, session: str) -> Target | None:
        """Where a session is at home; ``None`` for one that is not known, or not any more."""
        target, until = self._homes.get(session, (None, 0.0))
        return target if until > self._clock() else None

    def stay(self, session: str, target: Target) -> None:
        """Note that a session was sent to a target."""
        self._homes[session] = (target, self._clock() + self._ttl_s)
        self._homes.move_to_end(session)
        if len(self._homes) > self._most:
            self._homes.popitem(last=False)
