"""Opens ``memory:[?retain=…]``; with others' instances, ``static:`` and ``kubernetes:``."""

from __future__ import annotations

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.discovery import Discovery
from protoplane_runtime.engines.engine import Engine
from protoplane_runtime.engines.log_groups import LogGroups
from protoplane_runtime.engines.memory import MemoryLog
from protoplane_runtime.engines.memory_discovery import MemoryDiscovery
from protoplane_runtime.engines.memory_state import MemoryState
from protoplane_runtime.engines.retention import Retention, split


async def open_engine(url: str) -> Engine:
    """Open an engine that lives in this process.

    Raises:
        PlaneError: INVALID_ARGUMENT or NOT_FOUND for a URL that is none of its own.
    """
    rules: tuple[Retention, ...] | None = None
    if url.startswith("memory:"):
        rules = split(url.partition(":")[2])[1]
    discovery = await open_discovery(url)
    events, state = MemoryLog(retention=rules or ()), MemoryState()
    return Engine(url, events, discovery, state, LogGroups(events, state, discovery))


async def open_discovery(url: str) -> Discovery:
    """Open the discovery of one; of ``memory:``, each has its own.

    Raises:
        PlaneError: As `open_engine`.
    """
    scheme, _, rest = url.partition(":")
    if scheme == "static":
        from protoplane_runtime.engines.static_discovery import StaticDiscovery

        return await StaticDiscovery.open(rest)
    if scheme == "kubernetes":
        from protoplane_runtime.engines.kubernetes.discovery import KubernetesDiscovery

        return await KubernetesDiscovery.open(rest)
    place, _ = split(rest)
    if place:
        raise PlaneError(
            Code.INVALID_ARGUMENT,
            f"memory: takes rules of retention and nothing more, not {rest!r}",
        )
    return MemoryDiscovery()
