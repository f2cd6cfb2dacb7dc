"""What `bench/request_plane.py` asks of each thing that it measures, and what they all share."""

from __future__ import annotations

import asyncio
import gc
import signal
from collections.abc import AsyncIterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

SCHEMAS = Path(__file__).resolve().parent / "schemas"
GENERATED = Path(__file__).resolve().parent.parent / ".build" / "bench"

TEXT = "A call between two processes should cost microseconds, not hundreds of them. ".ljust(
    235, "."
)
"""With an id of 16 characters it makes a message of 256 bytes on the wire."""
TOKENS = 200
WORD = " word"


class Caller(Protocol):
    """The caller's end of one connection. Many calls may be open on it at once."""

    async def call(self) -> None:
        """One round trip of a message of 256 bytes, whose answer is checked.

        Raises:
            ValueError: The answer is not that of this call.
        """
        ...

    def stream(self) -> AsyncIterator[object]:
        """A new stream of `TOKENS` tokens, each checked."""
        ...

    def watch(self) -> AsyncIterator[object]:
        """A stream that gives one token and then stays open and silent."""
        ...

    async def aclose(self) -> None:
        """Close the connection and what is open on it."""
        ...


class Side(Protocol):
    """One row of the table: a way to call, with the server and the caller that it needs."""

    @property
    def name(self) -> str:
        """What the row is called, and how ``--only`` names it."""
        ...

    @property
    def needs(self) -> tuple[str, ...]:
        """Modules that must be installed."""
        ...

    @property
    def streams(self) -> bool:
        """Whether it has streams; a row without them has calls only."""
        ...

    @property
    def apart(self) -> bool:
        """Whether its server is a process of its own; otherwise `connect` starts it too."""
        ...

    def serve(self) -> None:
        """Serve in this process, print the address once calls can come, return upon SIGTERM."""
        ...

    async def connect(self, address: str) -> Caller:
        """Reach the server at an address that `serve` printed."""
        ...


def untyped(module: str) -> Any:
    """A module without types: it ships none, or it is generated when the benchmark starts."""
    return import_module(module)


def missing_modules(side: Side) -> list[str]:
    """Which of the modules that a side needs are not installed."""
    return [module for module in side.needs if find_spec(module) is None]


async def serve_until_ended(address: str) -> None:
    """What a server does once calls can come: tell where it is and wait for SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    # As `protoplane_server.serve` does, so that no peer pays more for the collector than ours.
    gc.collect()
    gc.freeze()
    print(address, flush=True)
    await stop.wait()
