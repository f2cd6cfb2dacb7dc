"""What the instances of a stack say of their calls, asked again and again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from protoplane.v1 import InstanceStats, Metrics
from protoplane_base import PlaneError
from protoplane_components.stack.records import StackRecord
from protoplane_components.stack.table import Traffic

# What asks how they do is no traffic.
_OWN = f"/{Metrics.spec.full_name}/"
_EVERY_S = 1.0
_TIMEOUT_S = 2.0


async def follow_traffic(
    record: Callable[[], StackRecord], seen: Callable[[Mapping[str, Traffic]], None]
) -> None:
    """Ask the processes that are ready for their numbers, once a second, until cancelled.

    Args:
        record: What the stack says of itself now.
        seen: Is told the numbers, by instance.
    """
    # Heavy, and nobody waits for it: the stack starts meanwhile.
    from protoplane_client import connect

    while True:
        ways = {
            each.instance: each.endpoints[0]
            for each in record().processes
            if each.instance and each.endpoints
        }
        if ways:
            try:
                async with connect(ways) as plane:
                    collected = await plane.collect_stats(timeout_s=_TIMEOUT_S)
            except PlaneError:
                # They come and go; the next time may be better.
                await asyncio.sleep(_EVERY_S)
                continue
            seen({name: _traffic(stats) for name, stats in collected.stats.items()})
        await asyncio.sleep(_EVERY_S)


def _traffic(stats: InstanceStats) -> Traffic:
    methods = [each for each in stats.methods if not each.method.startswith(_OWN)]
    return Traffic(
        sum(each.in_flight for each in methods),
        sum(sum(each.ended.values()) for each in methods),
        stats.resident_bytes,
    )
