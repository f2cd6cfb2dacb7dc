"""Many streams as one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any, TypeVar, cast

_T = TypeVar("_T")

_AHEAD = 64
"""Items that wait to be taken, from all streams together; after that the streams wait."""


async def merged(streams: Sequence[AsyncIterator[_T]]) -> AsyncGenerator[_T, None]:
    """What all streams bring, as it comes; each stream's own items stay in their order.

    It ends when all have ended. The first error of one ends them all, once what came before it
    was taken. Leaving the iteration closes them all.

    Args:
        streams: Async generators, which are closed, or other async iterators.
    """
    waiting: asyncio.Queue[tuple[bool, Any]] = asyncio.Queue(_AHEAD)

    async def follow(stream: AsyncIterator[_T]) -> None:
        try:
            if hasattr(stream, "aclose"):
                async with aclosing(cast("AsyncGenerator[_T, None]", stream)):
                    async for item in stream:
                        await waiting.put((True, item))
            else:
                async for item in stream:
                    await waiting.put((True, item))
        except Exception as error:  # noqa: BLE001  # it is raised to who takes the items
            await waiting.put((False, error))
        else:
            await waiting.put((False, None))

    tasks = [asyncio.create_task(follow(stream)) for stream in streams]
    try:
        left = len(tasks)
        while left:
            more, item = await waiting.get()
            if more:
                yield item
            elif item is not None:
                raise item
            else:
                left -= 1
    finally:
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
