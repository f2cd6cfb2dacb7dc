"""Opens ``local:[folder][?retain=…]``; see `protoplane_runtime.engines.retention` for the rules."""

from __future__ import annotations

import sys
from contextlib import AsyncExitStack
from pathlib import Path

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.discovery import Discovery
from protoplane_runtime.engines.engine import Engine
from protoplane_runtime.engines.folders import default_folder
from protoplane_runtime.engines.log_groups import LogGroups
from protoplane_runtime.engines.retention import Retention, split


async def open_engine(url: str) -> Engine:
    """Open the engine of a folder.

    Rules of retention in the URL hold from now on, for all that share the folder.

    Raises:
        PlaneError: INVALID_ARGUMENT for a URL of another form; UNIMPLEMENTED on Windows;
            PERMISSION_DENIED, RESOURCE_EXHAUSTED, DATA_LOSS or UNAVAILABLE with what is wrong
            with the folder.
    """
    discovery = await open_discovery(url)
    from protoplane_runtime.engines.local.log import LocalLog
    from protoplane_runtime.engines.local.state import LocalState

    folder, rules = _parse(url)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(discovery.close)
        events = await LocalLog.open(folder, retention=rules)
        stack.push_async_callback(events.close)
        state = await LocalState.open(folder)
        groups = LogGroups(events, state, discovery)
        engine = Engine(url, events, discovery, state, groups)
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

    return LocalDiscovery(_parse(url)[0])


def _parse(url: str) -> tuple[Path, tuple[Retention, ...] | None]:
    path, rules = split(url.partition(":")[2])
    return (Path(path).expanduser() if path else default_folder()).absolute(), rules
