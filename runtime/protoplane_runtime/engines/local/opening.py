"""Opens ``local:[folder]``."""

from __future__ import annotations

import sys
from contextlib import AsyncExitStack
from pathlib import Path

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.discovery import Discovery
from protoplane_runtime.engines.engine import Engine
from protoplane_runtime.engines.folders import default_folder


async def open_engine(url: str) -> Engine:
    """Open the engine of a folder.

    Raises:
        PlaneError: UNIMPLEMENTED on Windows; PERMISSION_DENIED, RESOURCE_EXHAUSTED, DATA_LOSS or
            UNAVAILABLE with what is wrong with the folder.
    """
    discovery = await open_discovery(url)
    from protoplane_runtime.engines.local.log import LocalLog
    from protoplane_runtime.engines.local.state import LocalState

    folder = _folder(url)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(discovery.close)
        events = await LocalLog.open(folder)
        stack.push_async_callback(events.close)
        engine = Engine(url, events, discovery, await LocalState.open(folder))
        stack.pop_all()
    return engine


async def open_discovery(url: str) -> Discovery:
    """Open the discovery of a folder.

    Raises:
        PlaneError: UNIMPLEMENTED on Windows.
    """
    if sys.platform == "win32":
        raise PlaneError(
            Code.UNIMPLEMENTED,
            "the engine local: needs file locks and sockets that Windows has not; use memory:",
        )
    from protoplane_runtime.engines.local.discovery import LocalDiscovery

    return LocalDiscovery(_folder(url))


def _folder(url: str) -> Path:
    path = url.partition(":")[2]
    return (Path(path).expanduser() if path else default_folder()).absolute()
