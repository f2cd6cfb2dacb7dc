"""Opens ``zenoh:[endpoints][?settings]``; see `protoplane_runtime.engines.zenoh.settings`."""

from __future__ import annotations

import sys
from contextlib import AsyncExitStack

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.discovery import Discovery
from protoplane_runtime.engines.engine import Engine
from protoplane_runtime.engines.zenoh.discovery import ZenohDiscovery
from protoplane_runtime.engines.zenoh.session import Session
from protoplane_runtime.engines.zenoh.settings import ZenohSettings


async def open_engine(url: str) -> Engine:
    """Open a node of a Zenoh network.

    Raises:
        PlaneError: INVALID_ARGUMENT for a URL of another form; UNIMPLEMENTED on Windows;
            UNAVAILABLE where it cannot listen, or a client finds no router; FAILED_PRECONDITION
            where another process has its folder; and what is wrong with that folder.
    """
    if sys.platform == "win32":
        raise PlaneError(
            Code.UNIMPLEMENTED,
            "the engine zenoh: keeps its log as local: does, which Windows cannot; use memory:",
        )
    from protoplane_runtime.engines.zenoh.groups import ZenohGroups
    from protoplane_runtime.engines.zenoh.log import ZenohLog
    from protoplane_runtime.engines.zenoh.state import ZenohState

    async with AsyncExitStack() as stack:
        session = (await Session.open(ZenohSettings.parse(url))).hold()
        try:
            discovery = ZenohDiscovery(session)
            stack.push_async_callback(discovery.close)
            events = await ZenohLog.open(session)
            stack.push_async_callback(events.close)
            state = await ZenohState.open(session)
            stack.push_async_callback(state.close)
            groups = await ZenohGroups.open(session, events)
            engine = Engine(url, events, discovery, state, groups)
            stack.pop_all()
        finally:
            await session.release()
    return engine


async def open_discovery(url: str) -> Discovery:
    """Open the discovery of a Zenoh network and nothing else.

    Raises:
        PlaneError: As `open_engine`, save what is wrong with a folder.
    """
    session = (await Session.open(ZenohSettings.parse(url))).hold()
    try:
        return ZenohDiscovery(session)
    finally:
        await session.release()
