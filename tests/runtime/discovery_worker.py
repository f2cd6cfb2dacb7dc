"""A process in which instances live until it is terminated; the tests start and kill it.

python -m tests.runtime.discovery_worker <folder> <name>... [--fork]

It says when they were registered, and with --fork the process id of a child that lives on.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path

from protoplane_runtime.engines.discovery import Instance
from protoplane_runtime.engines.local.discovery import LocalDiscovery


async def live(folder: str, names: list[str], fork: bool) -> None:
    """Register the instances and wait."""
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    discovery = LocalDiscovery(Path(folder))
    async with AsyncExitStack() as stack:
        begun = time.time()
        for name in names:
            await stack.enter_async_context(discovery.register(Instance(name)))
        sys.stdout.write(f"{begun}\n")
        if fork:
            child = os.fork()
            if child == 0:
                signal.pause()
                os._exit(0)
            sys.stdout.write(f"{child}\n")
        sys.stdout.flush()
        await ended.wait()
    await discovery.close()


if __name__ == "__main__":
    arguments = sys.argv[2:]
    asyncio.run(
        live(sys.argv[1], [each for each in arguments if each != "--fork"], "--fork" in arguments)
    )
