"""Entries of the state plane that say something of a process, and go when it does."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.state import StateStore, check_put

LEASE_S = 60.0
"""Seconds for which an entry outlives a process that was killed, at most."""

_RETRY_S = 1.0

_log = logging.getLogger("protoplane.state")


class StateLease:
    """Puts entries that it renews until it is closed; should the process die, they expire.

    An entry has one lease. It holds one task while it has entries. Watchers see each renewal as the
    same value with a new revision, three times in a ``ttl_s``. An entry that was lost while the
    store was away is put again.

    Args:
        state: The store, which is not closed here.
        ttl_s: Seconds after which an entry goes that is not renewed.
    """

    def __init__(self, state: StateStore, *, ttl_s: float = LEASE_S) -> None:
        self._state = state
        self._ttl_s = ttl_s
        self._values: dict[str, bytes] = {}
        # So that nothing is renewed that is deleted meanwhile.
        self._turn = asyncio.Lock()
        self._renewing: asyncio.Task[None] | None = None
        self._closed = False

    async def put(self, key: str, value: bytes) -> int:
        """Give a key a value, and keep it; see `StateStore.put`.

        Where that fails it is tried again with the next renewal, unless no store could take it.
        """
        check_put(key, value, None, self._ttl_s)
        async with self._turn:
            if not self._closed:
                self._values[key] = value
                if self._renewing is None:
                    self._renewing = asyncio.create_task(self._renew(), name="state lease")
            return await self._state.put(key, value, ttl_s=self._ttl_s)

    async def delete(self, key: str) -> bool:
        """Take the value of a key away, and renew it no more; see `StateStore.delete`."""
        async with self._turn:
            self._values.pop(key, None)
            return await self._state.delete(key)

    async def close(self) -> None:
        """Delete its entries; where the store is away, they expire. Twice does nothing more."""
        self._closed = True
        renewing, self._renewing = self._renewing, None
        if renewing is not None:
            renewing.cancel()
            await asyncio.wait([renewing])
        for key in tuple(self._values):
            with suppress(PlaneError):
                await self.delete(key)

    async def _renew(self) -> None:
        wait_s = self._ttl_s / 3
        while True:
            await asyncio.sleep(wait_s)
            wait_s = self._ttl_s / 3
            for key in tuple(self._values):
                try:
                    async with self._turn:
                        value = self._values.get(key)
                        if value is not None:
                            await self._state.put(key, value, ttl_s=self._ttl_s)
                except PlaneError as error:
                    _log.warning("%s is not renewed for a moment: %s", key, error.message)
                    wait_s = min(_RETRY_S, wait_s)
                    if error.code is Code.UNAVAILABLE:
                        break  # So are the others, and each may take its time to say so.
