"""An engine: what stands behind the event, discovery and state planes, opened as one."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Protocol

from protoplane_runtime.engines.discovery import Discovery
from protoplane_runtime.engines.groups import ConsumerGroups
from protoplane_runtime.engines.interface import EventLog
from protoplane_runtime.engines.state import StateStore


@dataclass(frozen=True, slots=True)
class Engine:
    """What stands behind the planes; close it when done.

    Attributes:
        url: The URL that it was opened by.
        events: Its event log.
        discovery: Who is there.
        state: Its state store.
        groups: Its consumer groups.
    """

    url: str
    events: EventLog
    discovery: Discovery
    state: StateStore
    groups: ConsumerGroups

    async def close(self) -> None:
        """Give back all that it holds; closing twice does nothing."""
        async with AsyncExitStack() as stack:
            for part in (self.events, self.state, self.discovery, self.groups):
                stack.push_async_callback(part.close)


class EngineDriver(Protocol):
    """A kind of engine: a module with these functions, which its URLs' scheme names.

    Both get the whole URL, and raise what `protoplane_runtime.engines.opening` says.
    """

    async def open_engine(self, url: str) -> Engine:
        """Open all of it."""
        ...

    async def open_discovery(self, url: str) -> Discovery:
        """Open its discovery and nothing else."""
        ...
