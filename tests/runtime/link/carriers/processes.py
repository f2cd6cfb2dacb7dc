"""Ends of links in processes of their own, so that they can be killed."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

_CHILD = """
import asyncio, sys
from protoplane_runtime.link.carriers.opening import connector, listener

class Quiet:
    def received(self, data): pass
    def congested(self): pass
    def uncongested(self): pass
    def lost(self, error): pass

def started(carrier):
    carrier.send(b"hello")
    return Quiet()
"""
CONNECTS = (
    _CHILD
    + """
async def main():
    await connector(sys.argv[1])(sys.argv[1], started, None)
    await asyncio.sleep(60)
asyncio.run(main())
"""
)
LISTENS = (
    _CHILD
    + """
async def main():
    listening = await listener(sys.argv[1])(sys.argv[1], started, None)
    print(listening.address, flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""
)


@asynccontextmanager
async def process(program: str, *arguments: str) -> AsyncGenerator[asyncio.subprocess.Process]:
    """Run a program of its own; it is killed at the end of the block."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, *arguments, stdout=asyncio.subprocess.PIPE
    )
    try:
        yield child
    finally:
        if child.returncode is None:
            child.kill()
        await child.communicate()
