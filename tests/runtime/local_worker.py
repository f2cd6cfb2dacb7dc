"""A process that publishes into a local log, or reads from it; the tests start and kill it.

python -m tests.runtime.local_worker publish <folder> <key> <count> <durable: 0 or 1>
python -m tests.runtime.local_worker read <folder>
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from protoplane_runtime.engines.interface import Event
from protoplane_runtime.engines.local.log import LocalLog


async def publish(folder: str, key: str, count: int, durable: bool) -> None:
    """Publish in eight tasks; say each id once it is acknowledged."""
    log = await LocalLog.open(Path(folder))
    numbers = iter(range(count))

    async def some() -> None:
        for number in numbers:
            event_id = await log.publish(
                f"{key}/{number}", "test.v1.Text", b"", f'"{number}"', durable=durable
            )
            sys.stdout.write(f"{event_id}\n")
            sys.stdout.flush()

    await asyncio.gather(*(some() for _ in range(8)))
    await log.close()


async def read(folder: str) -> None:
    """Say `ready`, then each id that comes."""
    log = await LocalLog.open(Path(folder))
    reader = log.read(["**"])
    waiting = asyncio.ensure_future(anext(reader))
    await asyncio.sleep(0)
    sys.stdout.write("ready\n")
    while True:
        sys.stdout.flush()
        for event in await waiting:
            sys.stdout.write(f"{event.id if isinstance(event, Event) else event}\n")
        waiting = asyncio.ensure_future(anext(reader))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["publish", folder, key, count, durable]:
            asyncio.run(publish(folder, key, int(count), durable == "1"))
        case ["read", folder]:
            asyncio.run(read(folder))
        case _:
            sys.exit(__doc__)
