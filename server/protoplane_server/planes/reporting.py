"""Tells others every few seconds how an instance does: an event, and its load in discovery."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator

from protoplane.v1 import InstanceStats
from protoplane_base import PlaneError
from protoplane_runtime.engines.discovery import Registration
from protoplane_runtime.engines.interface import EventLog
from protoplane_server.planes.stats import Stats

STATS_PREFIX = "@protoplane/stats"
"""Begins the keys of these events, before the path of the instance; ``**`` does not match them."""

_LEAST_CHANGE = 0.1
"""Whoever watches discovery is not told of less."""

_log = logging.getLogger("protoplane.server")


@contextlib.asynccontextmanager
async def reporting(
    stats: Stats, events: EventLog, registration: Registration, interval_s: float
) -> AsyncGenerator[None, None]:
    """Report for as long as the block runs.

    An engine that is away is no reason to end; the next report is another try.

    Args:
        stats: The numbers.
        events: Where to publish them.
        registration: Whose load to update.
        interval_s: Seconds between two reports.
    """
    task = asyncio.create_task(_report(stats, events, registration, interval_s))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def _report(
    stats: Stats, events: EventLog, registration: Registration, interval_s: float
) -> None:
    heard = True
    while True:
        await asyncio.sleep(interval_s)
        taken = stats.take()
        try:
            async with asyncio.timeout(interval_s):
                await _publish(taken, events)
                if abs(taken.load - registration.instance.load) >= _LEAST_CHANGE:
                    await registration.update(load=taken.load)
        except (PlaneError, TimeoutError) as error:
            if heard:
                _log.warning("nobody hears the stats of %s: %s", taken.instance, error)
            heard = False
        else:
            heard = True


async def _publish(stats: InstanceStats, events: EventLog) -> None:
    await events.publish(
        f"{STATS_PREFIX}/{stats.instance}",
        InstanceStats.__pb__.DESCRIPTOR.full_name,
        stats.to_bytes(),
        stats.model_dump_json(),
    )
