"""When a call that failed is made again, and how many such calls there may be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from protoplane_base import CallOptions, Code, Idempotency, MethodSpec, PlaneError
from protoplane_client.backoff import Backoff
from protoplane_runtime.link.errors import UnsentError


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Which calls are made again, how often, and how long apart.

    A call that reached no handler (`UnsentError`) is always safe to repeat. Any other call is
    repeated only where `may_repeat` says so and its error has one of ``codes``. That is
    UNAVAILABLE alone: gRPC's codes mean by ABORTED that a larger piece of work must begin again,
    such as a read and the write that depends on it, which only the caller can do; and who repeats
    after RESOURCE_EXHAUSTED or DEADLINE_EXCEEDED adds load to what is overloaded already.

    Source: gRFC A6, gRPC client retries.

    Attributes:
        max_attempts: Most attempts of one call, the first and hedges included. What reached no
            handler goes on to a route that the call has not tried, even past this.
        first_s: Longest wait before the first repetition; each further one may be twice as long.
        limit_s: Longest wait before any.
        codes: Codes of errors after which a call that may be repeated is.
    """

    max_attempts: int = 4
    first_s: float = 0.1
    limit_s: float = 5.0
    codes: frozenset[Code] = frozenset({Code.UNAVAILABLE})

    def __post_init__(self) -> None:
        if self.max_attempts < 1:
            raise ValueError(f"max_attempts={self.max_attempts} makes no call; 1 is the least")

    def retries(self, error: PlaneError, *, repeatable: bool) -> bool:
        """Whether an error is one to try again after.

        Args:
            error: What the attempt failed with.
            repeatable: Whether the call does no harm when it is made twice; see `may_repeat`.
        """
        return isinstance(error, UnsentError) or (repeatable and error.code in self.codes)

    def backoff(self) -> Backoff:
        """The waits between the attempts of one call."""
        return Backoff(self.first_s, self.limit_s)


class RetryBudget:
    """Keeps repetitions a fraction of all calls, so that an outage is not answered by a storm.

    Each call earns a part of a token, each repetition and each hedge costs a whole one. When there
    is none left, a call fails with the error that it has. Channels may share a budget.

    The ratio is what holds a storm back: it rules as long as calls keep failing. The reserve is
    what an instance may take with it when it dies. Its calls all fail in the same moment, each
    wants one repetition, and none may be lost for want of a token. So the default is the number of
    calls that a link has open at most; gRFC A6 allows 1,000 tokens at most and stops at half of
    them, which loses calls here from 500 in flight on.

    Source: Finagle's RetryBudget; throttling in gRFC A6.

    Args:
        ratio: Repetitions for each call: 0.2 lets one in five be repeated.
        reserve: Tokens at the start.
        limit: Most tokens that can be saved up.
    """

    __slots__ = ("_limit", "_ratio", "_tokens")

    def __init__(
        self, *, ratio: float = 0.2, reserve: float = 10_000.0, limit: float = 10_000.0
    ) -> None:
        if ratio < 0 or reserve < 0 or limit < reserve:
            raise ValueError(
                f"a budget of ratio={ratio:g}, reserve={reserve:g}, limit={limit:g}: none may be "
                "negative, and the limit must hold the reserve"
            )
        self._ratio, self._limit, self._tokens = ratio, limit, reserve

    @property
    def tokens(self) -> float:
        """Repetitions that are left."""
        return min(self._limit, self._tokens)

    def deposit(self) -> None:
        """Note a call that begins."""
        self._tokens += self._ratio  # every call comes by here, so the limit is kept elsewhere

    def withdraw(self) -> bool:
        """Take the token of one repetition; false where there is none."""
        self._tokens = self.tokens
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True


def may_repeat(method: MethodSpec[Any, Any], options: CallOptions) -> bool:
    """Whether a call does no harm when it is made twice: by its schema, or by its key."""
    return method.idempotency is not Idempotency.UNKNOWN or bool(options.get("idempotency_key"))
