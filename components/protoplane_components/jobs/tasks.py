"""Tasks that run for as long as somebody owns them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from protoplane_base import PlaneError

_AGAIN_S = 1.0
_log = logging.getLogger("protoplane.jobs")


class Tasks:
    """Owns tasks: what is started here ends with `close`."""

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[None]] = []

    def keep(self, work: Callable[[], Coroutine[Any, Any, None]], name: str) -> None:
        """Run something until `close`; where an engine is away it begins again, after a second."""
        self._tasks.append(asyncio.create_task(_kept(work, name), name=name))

    async def close(self) -> None:
        """Cancel all, the latest first, and wait until they are done; twice does nothing."""
        while self._tasks:
            task = self._tasks.pop()
            task.cancel()
            await asyncio.wait([task])


async def _kept(work: Callable[[], Coroutine[Any, Any, None]], name: str) -> None:
    while True:
        try:
            await work()
        except PlaneError as error:
            _log.warning("%s goes on in a second: %s", name, error.message)
        except Exception:  # noqa: BLE001  # a fault in one look must not end the looking
            _log.exception("%s failed, and goes on in a second", name)
        await asyncio.sleep(_AGAIN_S)
