"""A process in which instances live until it is terminated; the tests start and kill it.

python -m tests.runtime.nats_worker <url> <name>...

It says when they were registered.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from contextlib import AsyncExitStack

from protoplane_runtime.engines.discovery import Instance
from protoplane_runtime.engines.opening import open_discovery


async def live(url: str, names: list[str]) -> None:
    """Register the instances and wait."""
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    discovery = await open_discovery(url)
    async with AsyncExitStack() as stack:
        begun = time.time()
        for name in names:
            await stack.enter_async_context(discovery.register(Instance(name)))
        sys.stdout.write(f"{begun}\n")
        sys.stdout.flush()
        await ended.wait()
    await discovery.close()


if __name__ == "__main__":
    asyncio.run(live(sys.argv[1], sys.argv[2:]))
