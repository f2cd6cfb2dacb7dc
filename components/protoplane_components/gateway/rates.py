"""How often callers may call, and how many tokens they may use: windows that begin with a request.

The library `limits <https://limits.readthedocs.io/>`_ counts, in this process or in Redis. A window
begins with its first request and is counted anew when it is over.
"""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from protoplane_base import Code, MissingExtraError, PlaneError

if TYPE_CHECKING:
    from limits import RateLimitItem
    from limits.aio.storage import Storage

_log = logging.getLogger("protoplane.gateway")

_CONNECTIONS = 16
_TIMEOUT_S = 2.0
_AGAIN_S = 5.0


@dataclass(frozen=True, slots=True)
class Window:
    """What is left of a limit.

    Attributes:
        limit: Most that there may be in a window.
        remaining: What is left of this one.
        reset_s: Seconds until it is over; 0 where it has not begun.
    """

    limit: int
    remaining: int
    reset_s: float


class Rates:
    """Counts requests and tokens.

    Where Redis is away, this process counts by itself until it is back: callers are served, and
    each gateway allows them what all together would.

    Args:
        url: Where to count: empty for this process, ``redis://…``, ``rediss://…`` or
            ``unix:///path`` for Redis.

    Raises:
        PlaneError: INVALID_ARGUMENT; the URL has no form that is known.
    """

    def __init__(self, url: str = "") -> None:
        self._own: Storage | None = None
        self._shared: Storage | None = None
        self._pool: Any = None
        self._away_until = 0.0
        if url:
            self._shared = self._redis(url)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._pool is not None:
            await self._pool.aclose()

    async def hit(self, rate: str, what: str, who: str, cost: int = 1) -> Window:
        """Count ``cost`` more, also past the limit.

        Args:
            rate: The limit, for example ``60/minute``.
            what: What is counted.
            who: Whose.
            cost: How many.

        Returns:
            What is left then; below zero where it went past the limit.
        """
        return await self._counted(check_rate(rate), what, who, cost)

    async def look(self, rate: str, what: str, who: str) -> Window:
        """See what is left, and count nothing."""
        return await self._counted(check_rate(rate), what, who, 0)

    async def _counted(self, item: RateLimitItem, what: str, who: str, cost: int) -> Window:
        from limits.errors import StorageError

        if self._shared is not None and monotonic() >= self._away_until:
            try:
                return await _count(self._shared, item, what, who, cost)
            except StorageError as error:
                _log.warning(
                    "the rate store is away, so this process counts by itself for %g s: %s",
                    _AGAIN_S,
                    error.storage_error,
                )
                self._away_until = monotonic() + _AGAIN_S
        if self._own is None:
            from protoplane_components.gateway.rate_memory import CallerCounts

            self._own = CallerCounts()
        return await _count(self._own, item, what, who, cost)

    def _redis(self, url: str) -> Storage:
        try:
            from limits.aio.storage import RedisStorage
            from redis.asyncio import BlockingConnectionPool
        except ModuleNotFoundError as missing:
            raise MissingExtraError("gateway", "rate limits in Redis") from missing
        if not url.startswith(("redis://", "rediss://", "unix://")):
            raise PlaneError(
                Code.INVALID_ARGUMENT,
                f"{url!r} is no rate store; one looks like redis://127.0.0.1:6379/0",
            )
        try:
            # A burst of requests waits for these, rather than connect all at once.
            pool: Any = BlockingConnectionPool
            self._pool = pool.from_url(
                url,
                max_connections=_CONNECTIONS,
                timeout=_TIMEOUT_S,
                socket_timeout=_TIMEOUT_S,
                socket_connect_timeout=_TIMEOUT_S,
            )
        except ValueError as error:
            raise PlaneError(Code.INVALID_ARGUMENT, f"{url!r} is no rate store: {error}") from None
        return RedisStorage(
            "async+redis://",
            wrap_exceptions=True,
            implementation="redispy",
            key_prefix="protoplane/gateway",
            connection_pool=self._pool,
        )


_parsed: dict[str, RateLimitItem] = {}


def check_rate(rate: str) -> RateLimitItem:
    """Read a limit, for example ``60/minute`` or ``1000 per 2 hours``.

    Raises:
        PlaneError: INVALID_ARGUMENT; it has no form that is known.
        MissingExtraError: The library that counts is not installed.
    """
    item = _parsed.get(rate)
    if item is None:
        try:
            from limits import parse
        except ModuleNotFoundError as missing:
            raise MissingExtraError("gateway", "rate limits") from missing
        try:
            item = _parsed[rate] = parse(rate)
        except ValueError:
            raise PlaneError(
                Code.INVALID_ARGUMENT,
                f"{rate!r} is no limit; one looks like 60/minute or 100000 per 1 hour",
            ) from None
    return item


async def _count(storage: Storage, item: RateLimitItem, what: str, who: str, cost: int) -> Window:
    key = item.key_for(what, who)
    expiry_s = item.get_expiry()
    used = await storage.incr(key, expiry_s, amount=cost) if cost else await storage.get(key)
    if not used:
        return Window(item.amount, item.amount, 0.0)
    left_s = await storage.get_expiry(key) - time.time()
    return Window(item.amount, item.amount - used, min(max(left_s, 0.001), math.ceil(expiry_s)))
