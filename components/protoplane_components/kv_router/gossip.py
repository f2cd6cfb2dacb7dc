"""How the replicas of a router talk: events under one key, which each of them hears and publishes.

What is lost on the way is healed by what each tells again every few seconds, so nobody waits for an
answer, and an engine that is away is no reason to end.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from contextlib import aclosing
from typing import Any, cast

from protoplane_base import Code, DecodeError, Message, PlaneError
from protoplane_runtime.engines.interface import EventLog, Gap, Start
from protoplane_server.publishing import publish

_log = logging.getLogger("protoplane.router")

KEYS = "router/replicas/**"
"""Where replicas tell each other."""

_RETRY_S = 0.1


async def together(*work: Coroutine[Any, Any, None]) -> None:
    """Hear and tell until it is cancelled.

    Raises:
        PlaneError: The event plane is closed.
    """
    try:
        async with asyncio.TaskGroup() as group:
            for each in work:
                group.create_task(each)
    except* PlaneError as errors:
        raise errors.exceptions[0] from None


async def hear(events: EventLog, takers: Mapping[str, Callable[[bytes], None]]) -> None:
    """Hand on what replicas tell from now on.

    Args:
        events: The event plane.
        takers: What takes the events of each type; they may raise `DecodeError`. Other types are
            passed over.
    """
    async with aclosing(cast("Any", events.read([KEYS], after=Start.NOW))) as batches:
        async for batch in batches:
            for event in batch:
                if isinstance(event, Gap):
                    continue
                take = takers.get(event.type)
                try:
                    if take is not None:
                        take(event.data)
                except DecodeError as error:
                    _log.warning("event %s under %s cannot be read: %s", event.id, event.key, error)


async def tell(events: EventLog, event: Message) -> bool:
    """Tell the other replicas.

    Returns:
        Whether the event plane was there; where not, a moment has passed.
    """
    try:
        await publish(events, event)
    except PlaneError as error:
        if error.code is not Code.UNAVAILABLE:
            raise
        _log.debug("other replicas do not hear %s: %s", type(event).__name__, error.message)
        await asyncio.sleep(_RETRY_S)
        return False
    return True
