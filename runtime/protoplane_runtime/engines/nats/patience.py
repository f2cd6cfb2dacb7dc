"""Asks a server that may be away until it answers."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from protoplane_base import PlaneError
from protoplane_runtime.engines.nats.connection import Connection

_log = logging.getLogger("protoplane.engines")

_FIRST_RETRY_S = 0.1
_LAST_RETRY_S = 2.0
_T = TypeVar("_T")


async def until_answered(connection: Connection, ask: Callable[[], Awaitable[_T]]) -> _T:
    """Ask again and again, ever more seldom, until there is an answer.

    Raises:
        PlaneError: UNAVAILABLE where the connection is over for good.
    """
    delay_s = _FIRST_RETRY_S
    while True:
        await connection.wait_connected()
        try:
            return await ask()
        except PlaneError as error:
            await connection.wait_connected()
            _log.info("a watcher of NATS waits: %s", error.message)
        await asyncio.sleep(delay_s * random.uniform(0.5, 1))  # noqa: S311
        delay_s = min(2 * delay_s, _LAST_RETRY_S)
