"""Opens ``nats://…`` and ``tls://…``; see `NatsSettings.parse` for the form of the URL."""

from __future__ import annotations

from contextlib import AsyncExitStack

from protoplane_runtime.engines.discovery import Discovery
from protoplane_runtime.engines.engine import Engine
from protoplane_runtime.engines.log_groups import LogGroups
from protoplane_runtime.engines.nats.connection import Connection
from protoplane_runtime.engines.nats.discovery import NatsDiscovery
from protoplane_runtime.engines.nats.log import NatsLog
from protoplane_runtime.engines.nats.settings import NatsSettings
from protoplane_runtime.engines.nats.state import NatsState


async def open_engine(url: str) -> Engine:
    """Open the engine of a server or a cluster, over one connection.

    Raises:
        PlaneError: INVALID_ARGUMENT for a URL of another form, UNAVAILABLE where no server can be
            reached or it has no JetStream, FAILED_PRECONDITION where it refuses the settings,
            RESOURCE_EXHAUSTED where it has no room.
    """
    settings = NatsSettings.parse(url)
    connection = await Connection.open(settings)
    async with AsyncExitStack() as stack:
        # Each part shares it, and the last one closes it.
        stack.push_async_callback(connection.close)
        async with AsyncExitStack() as parts:
            events = await NatsLog.on(connection, settings)
            parts.push_async_callback(events.close)
            state = await NatsState.on(connection, settings)
            parts.push_async_callback(state.close)
            discovery = await NatsDiscovery.on(connection, settings)
            groups = LogGroups(
                events, state, discovery, newest=events.newest, durable=events.is_durable
            )
            engine = Engine(url, events, discovery, state, groups)
            parts.pop_all()
    return engine


async def open_discovery(url: str) -> Discovery:
    """Open the discovery of a server or a cluster.

    Raises:
        PlaneError: As `open_engine`.
    """
    return await NatsDiscovery.open(url)
