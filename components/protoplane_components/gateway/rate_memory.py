"""Counts of limits in this process, for many callers."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Any

from limits.aio.storage import MemoryStorage


class CallerCounts(MemoryStorage):
    """The library's storage, which looks for what has expired now and then.

    By itself it looks through all counts at each request: with ten thousand callers that takes
    longer than all else that a gateway does.

    Args:
        sweep_s: Seconds between two looks.
    """

    STORAGE_SCHEME: list[str] | None = None  # type: ignore[assignment]  # no URL means this one

    def __init__(self, *, sweep_s: float = 10.0) -> None:
        super().__init__()
        self._sweep_s = sweep_s
        self._swept_at = monotonic()
        # It begins a look where this is done.
        never: Any = asyncio.get_running_loop().create_future()
        self.timer = never

    def __len__(self) -> int:
        return len(self.storage)

    async def incr(self, key: str, expiry: float, amount: int = 1) -> int:
        """Count; see the library."""
        now = monotonic()
        if now - self._swept_at >= self._sweep_s:
            self._swept_at = now
            for each in [*self.expirations]:
                # Asked for one that has expired, it forgets it.
                await self.get(each)
        return await super().incr(key, expiry, amount)
