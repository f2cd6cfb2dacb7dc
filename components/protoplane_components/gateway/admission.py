"""Whether a request may begin: how many run, how many there were, and how many tokens are left."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo

from protoplane_base import Code, PlaneError
from protoplane_components.gateway.callers import Caller
from protoplane_components.gateway.rates import Rates, Window
from protoplane_components.gateway.settings import GatewaySettings

DOMAIN = "gateway.protoplane"
"""Domain of the ``google.rpc.ErrorInfo`` that says which limit it was."""

EXCEEDED = "RATE_LIMIT_EXCEEDED"
"""Its reason."""

_BUSY_S = 1.0
"""When to try again where it is not known when there is room."""

Tell = Callable[[str, str], None]
"""Takes the name and the value of a header."""


class Admission:
    """Lets requests begin, and counts those that are open.

    Args:
        settings: Limits of callers who have none of their own.
        rates: Counts.

    Attributes:
        open: Requests that are open, by caller.
    """

    def __init__(self, settings: GatewaySettings, rates: Rates) -> None:
        self._settings = settings
        self._rates = rates
        self.open: Counter[str] = Counter()
        self._all = 0

    async def enter(self, caller: Caller, who: str, tell: Tell, *, counted: bool) -> None:
        """Begin a request; `leave` ends it.

        Args:
            caller: Whose it is.
            who: Whom it is counted for: their name, or where they call from.
            tell: Told what is left of their limits, also where the request is refused.
            counted: Whether it is one of the requests that they have so many of.

        Raises:
            PlaneError: RESOURCE_EXHAUSTED with ``google.rpc.RetryInfo``.
        """
        settings = self._settings
        most = settings.concurrent if caller.concurrent is None else caller.concurrent
        if settings.max_concurrent and self._all >= settings.max_concurrent:
            raise _too_many(
                "concurrency",
                f"the gateway has {self._all} requests open, the most that it takes",
                _BUSY_S,
            )
        if most and self.open[who] >= most:
            raise _too_many("concurrency", f"{most} requests of yours are open, the most", _BUSY_S)
        # Before anything is awaited, so that two cannot take the last place.
        self.open[who] += 1
        self._all += 1
        try:
            if counted:
                await self._count(caller, who, tell)
        except BaseException:
            self.leave(who)
            raise

    def leave(self, who: str) -> None:
        """End a request."""
        self._all -= 1
        self.open[who] -= 1
        if not self.open[who]:
            del self.open[who]

    async def used(self, caller: Caller, who: str, tokens: int) -> None:
        """Count the tokens of a request that is over."""
        rate = self._token_rate(caller)
        if rate and tokens:
            await self._rates.hit(rate, "tokens", who, tokens)

    async def left(self, caller: Caller, who: str) -> dict[str, tuple[str, Window]]:
        """The limits of a caller that has any, and what is left of each: of requests and tokens."""
        return {
            what: (rate, await self._rates.look(rate, what, who))
            for what, rate in (
                ("requests", self._request_rate(caller)),
                ("tokens", self._token_rate(caller)),
            )
            if rate
        }

    async def _count(self, caller: Caller, who: str, tell: Tell) -> None:
        if rate := self._request_rate(caller):
            window = await self._rates.hit(rate, "requests", who)
            _show(window, "requests", tell)
            if window.remaining < 0:
                raise _too_many(
                    "requests", f"the limit of requests, {rate}, is reached", window.reset_s
                )
        if rate := self._token_rate(caller):
            window = await self._rates.look(rate, "tokens", who)
            _show(window, "tokens", tell)
            if window.remaining <= 0:
                raise _too_many(
                    "tokens", f"the limit of tokens, {rate}, is reached", window.reset_s
                )

    def _request_rate(self, caller: Caller) -> str:
        return self._settings.requests if caller.requests is None else caller.requests

    def _token_rate(self, caller: Caller) -> str:
        return self._settings.tokens if caller.tokens is None else caller.tokens


def _show(window: Window, what: str, tell: Tell) -> None:
    tell(f"x-ratelimit-limit-{what}", str(window.limit))
    tell(f"x-ratelimit-remaining-{what}", str(max(0, window.remaining)))
    tell(f"x-ratelimit-reset-{what}", _duration(window.reset_s))


def _duration(seconds: float) -> str:
    """Seconds as OpenAI writes them: ``6m0s``, ``1.5s``, ``20ms``."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    if seconds < 60:
        return f"{seconds:.3g}s"
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{rest}s" if hours else f"{minutes}m{rest}s"


def _too_many(what: str, reason: str, after_s: float) -> PlaneError:
    delay = Duration()
    delay.FromMilliseconds(max(1, math.ceil(after_s * 1000)))
    return PlaneError(
        Code.RESOURCE_EXHAUSTED,
        f"{reason}; try again in {after_s:.3g} s",
        [
            RetryInfo(retry_delay=delay),
            ErrorInfo(reason=EXCEEDED, domain=DOMAIN, metadata={"limit": what}),
        ],
    )
