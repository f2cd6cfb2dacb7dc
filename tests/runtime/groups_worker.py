"""A process that takes part in the group ``g``; the tests start and kill it.

python -m tests.runtime.groups_worker <url> <hold or acknowledge> <how many>

It prints the id and the key of each event that it was given.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import aclosing

from protoplane_runtime.engines.groups import Delivery, GroupSettings
from protoplane_runtime.engines.interface import Start
from protoplane_runtime.engines.opening import open_engine


async def consume(url: str, how: str, count: int) -> None:
    """Take so many events, hold them or acknowledge them, and wait to be killed."""
    engine = await open_engine(url)
    settings = GroupSettings(start=Start.EARLIEST, visibility_s=3600)
    async with aclosing(engine.groups.consume("g", ["a/*"], settings)) as batches:
        async for batch in batches:
            found = [each for each in batch if isinstance(each, Delivery)]
            if how == "acknowledge":
                await engine.groups.acknowledge([each.token for each in found])
            for each in found:
                sys.stdout.write(f"{each.event.id} {each.event.key}\n")
            sys.stdout.flush()
            count -= len(found)
            if count <= 0:
                await asyncio.sleep(3600)


if __name__ == "__main__":
    asyncio.run(consume(sys.argv[1], sys.argv[2], int(sys.argv[3])))
