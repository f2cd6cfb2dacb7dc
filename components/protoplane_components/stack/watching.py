"""Following a stack from the process that started it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

from protoplane_base import Code, PlaneError
from protoplane_components.stack.probe import models_of
from protoplane_components.stack.records import Phase, StackRecord
from protoplane_components.stack.starting import Started


async def changes(started: Started) -> AsyncIterator[StackRecord]:
    """What a stack says of itself, each time that it says something new, until it is gone.

    The last is what it said at its end. Cancelling it leaves the stack as it is.
    """
    loop = asyncio.get_running_loop()
    last: StackRecord | None = None
    more = True
    while more:
        more = bool(await _heard(loop, started.line))
        record = started.place.read()
        if record is not None and record.owner.pid == started.pid and record != last:
            last = record
            yield record


async def _heard(loop: asyncio.AbstractEventLoop, line: socket.socket) -> bytes:
    try:
        return await loop.sock_recv(line, 4096)
    except ConnectionError:
        return b""


async def until_ready(started: Started, within_s: float) -> tuple[StackRecord, list[str] | None]:
    """Wait until all processes of a stack are ready, and its gateway answers.

    Args:
        started: The stack.
        within_s: Seconds to wait.

    Returns:
        How it does then, and the names of the models; ``None`` where one needs a key to see them.

    Raises:
        PlaneError: UNAVAILABLE where it failed, with the reason; DEADLINE_EXCEEDED where it takes
            longer.
    """
    record: StackRecord | None = None
    try:
        async with asyncio.timeout(within_s):
            async for record in changes(started):
                if record.phase is Phase.READY:
                    return record, await models_of(record.http)
    except TimeoutError:
        waiting = [
            each.role
            for each in (() if record is None else record.processes)
            if each.phase is not Phase.READY
        ]
        what = ", ".join(waiting) or "the gateway has no models"
        raise PlaneError(
            Code.DEADLINE_EXCEEDED,
            f"the stack is not ready after {within_s:g} s (not yet: {what}); see "
            f"{started.place.logs}",
        ) from None
    raise failure(started, record)


def failure(started: Started, record: StackRecord | None) -> PlaneError:
    """Why a stack is gone."""
    reason = record.reason if record is not None else ""
    return PlaneError(
        Code.UNAVAILABLE,
        f"the stack does not start: {reason or 'its supervisor ended'}; see {started.place.logs}",
    )
