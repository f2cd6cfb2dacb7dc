"""Opens ``memory:`` and, with the instances of a list, ``static:``."""

from __future__ import annotations

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.discovery import Discovery
from protoplane_runtime.engines.engine import Engine
from protoplane_runtime.engines.memory import MemoryLog
from protoplane_runtime.engines.memory_discovery import MemoryDiscovery
from protoplane_runtime.engines.memory_state import MemoryState


async def open_engine(url: str) -> Engine:
    """Open an engine that lives in this process.

    Raises:
        PlaneError: INVALID_ARGUMENT or NOT_FOUND for a URL that is none of its own.
    """
    return Engine(url, MemoryLog(), await open_discovery(url), MemoryState())


async def open_discovery(url: str) -> Discovery:
    """Open the discovery of one; of ``memory:``, each has its own.

    Raises:
        PlaneError: As `open_engine`.
    """
    scheme, _, rest = url.partition(":")
    if scheme == "static":
        from protoplane_runtime.engines.static_discovery import StaticDiscovery

        return await StaticDiscovery.open(rest)
    if rest:
        raise PlaneError(Code.INVALID_ARGUMENT, f"memory: takes nothing more, not {rest!r}")
    return MemoryDiscovery()
