"""A circuit breaker: leaves an instance alone that answers with failures."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from time import monotonic

from protoplane_base import Code, PlaneError
from protoplane_client.backoff import Backoff
from protoplane_runtime.link.errors import UnsentError

HEALTHY_ERRORS = frozenset(
    {
        Code.ABORTED,
        Code.CANCELLED,
        Code.INVALID_ARGUMENT,
        Code.NOT_FOUND,
        Code.ALREADY_EXISTS,
        Code.PERMISSION_DENIED,
        Code.FAILED_PRECONDITION,
        Code.OUT_OF_RANGE,
        Code.RESOURCE_EXHAUSTED,
        Code.UNIMPLEMENTED,
        Code.UNAUTHENTICATED,
    }
)
"""Errors that a healthy instance answers with: because of what it was asked, or because it has all
that it can do, which balancing and its hint when to retry see to."""


class BreakerState(Enum):
    """Where a breaker stands."""

    CLOSED = "closed"
    """Calls go through."""
    OPEN = "open"
    """No call goes through, until its time is over."""
    HALF_OPEN = "half_open"
    """One call goes through, to see whether the instance has recovered."""


# Every call asks for the state, and looking up a member of an Enum costs more than the question.
_CLOSED, _OPEN, _HALF_OPEN = BreakerState


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """When a breaker opens, and for how long.

    Attributes:
        consecutive: Failures in a row that open it.
        ratio: Part of the latest calls that must have failed to open it.
        window: How many the latest calls are.
        minimum: Calls before which the ratio opens nothing.
        open_s: Longest time that it stays open at first; each probe that fails doubles it, and
            chance takes up to half away, so that clients do not come back all at once.
        limit_s: Longest time that it ever stays open.
    """

    consecutive: int = 5
    ratio: float = 0.5
    window: int = 100
    minimum: int = 20
    open_s: float = 1.0
    limit_s: float = 30.0


class Breaker:
    """The breaker of one route.

    Whoever makes a call asks `allows`, takes a number from `begin`, and says with it how the call
    ended. The number tells calls apart that began before the breaker last moved: how those end
    says nothing any more.

    What a healthy instance answers with (`HEALTHY_ERRORS`) counts as a success. An `UnsentError`
    counts as nothing: no handler saw the call, and the state of the connection tells of it.

    Source: Nygard, Release It!, "Circuit Breaker".

    Args:
        policy: When it opens, and for how long.
        clock: Seconds that only grow.
    """

    __slots__ = (
        "_backoff",
        "_calls",
        "_clock",
        "_consecutive",
        "_failures",
        "_generation",
        "_policy",
        "_probing",
        "_reopens_at",
        "_state",
        "last_error",
    )

    def __init__(
        self, policy: BreakerPolicy | None = None, *, clock: Callable[[], float] = monotonic
    ) -> None:
        self._policy = policy or BreakerPolicy()
        self._clock = clock
        self._backoff = Backoff(self._policy.open_s, self._policy.limit_s)
        self._state = _CLOSED
        self._generation = 0
        self._probing = False
        self._reopens_at = 0.0
        self._calls = 0
        self._consecutive = 0
        self._failures: deque[int] = deque()
        self.last_error = ""

    @property
    def state(self) -> BreakerState:
        """Where it stands; an open one becomes half open when a call begins after its time."""
        return self._state

    @property
    def remaining_s(self) -> float:
        """Seconds until an open one lets a call through; zero otherwise."""
        if self._state is not _OPEN:
            return 0.0
        return max(0.0, self._reopens_at - self._clock())

    def allows(self) -> bool:
        """Whether a call may go through now."""
        if self._state is _CLOSED:
            return True
        if self._state is _OPEN:
            return self._clock() >= self._reopens_at
        return not self._probing

    def begin(self) -> int:
        """Note that a call goes through; gives the number to say its end with."""
        if self._state is _CLOSED:
            return self._generation
        if not self.allows():
            return -1
        self._move(_HALF_OPEN)
        self._probing = True
        return self._generation

    def answered(self, number: int) -> int:
        """A stream has begun to answer, which is all that a probe asks; gives its new number."""
        if number == self._generation and self._state is _HALF_OPEN:
            self._close()
            return self._generation
        return number

    def ended(self, number: int, error: PlaneError | None) -> None:
        """A call ended, with its answer or with an error."""
        if number != self._generation:
            return
        if error is None or error.code in HEALTHY_ERRORS:
            self._calls += 1
            self._consecutive = 0
            if self._state is not _CLOSED:
                self._close()
        elif isinstance(error, UnsentError):
            self.abandoned(number)
        else:
            self._failed(error)

    def abandoned(self, number: int) -> None:
        """A call ended in a way that says nothing of the instance: its caller left it."""
        if number == self._generation:
            self._probing = False

    def _close(self) -> None:
        self._backoff.reset()
        self._move(_CLOSED)

    def _failed(self, error: PlaneError) -> None:
        self._calls += 1
        self._consecutive += 1
        self.last_error = str(error)
        policy, failures = self._policy, self._failures
        failures.append(self._calls)
        while failures[0] <= self._calls - policy.window:
            failures.popleft()
        seen = min(self._calls, policy.window)
        if (
            self._state is _HALF_OPEN
            or self._consecutive >= policy.consecutive
            or (seen >= policy.minimum and len(failures) >= policy.ratio * seen)
        ):
            self._move(_OPEN)
            self._reopens_at = self._clock() + self._backoff.next_s()

    def _move(self, state: BreakerState) -> None:
        self._state = state
        self._generation += 1
        self._probing = False
        self._calls = self._consecutive = 0
        self._failures.clear()
