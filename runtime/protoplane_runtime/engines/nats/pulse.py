"""Signs of life over plain NATS: what a process gives of itself, and whether another still does.

Whoever has instances registered says every `BEAT_S` seconds that it lives, and answers when it is
asked. To ask one that is dead takes no patience: when a process ends its connection does, and then
the server says at once that nobody is there.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable
from contextlib import suppress

from protoplane_runtime.engines.nats.connection import Connection, Msg, Subscription, status_of

BEAT_S = 0.25
"""Seconds between two signs of life."""

GONE_S = 1.2
"""Seconds without a sign after which one is dead whose connection is gone: it may have lost its
server, and be on its way to another."""

SILENT_S = 5.0
"""Seconds without a sign after which one is dead whose connection is still there."""

_ASK_TIMEOUT_S = 0.5
_ASK_AGAIN_S = 0.15
_STALL_S = 2.0
_NO_RESPONDERS = "503"


class Pulse:
    """The signs of life of this process, for as long as somebody holds it.

    Args:
        connection: The way to the server.
        subject: Where signs of life go; under it, where each is asked.
        woke: Called where this process was not able to say anything for a while.

    Attributes:
        owner: What tells this process from others.
    """

    def __init__(self, connection: Connection, subject: str, woke: Callable[[], None]) -> None:
        self.owner = os.urandom(8).hex()
        self._connection = connection
        self._subject = subject
        self._woke = woke
        self._holders = 0
        self._turn = asyncio.Lock()
        self._subscription: Subscription | None = None
        self._task: asyncio.Task[None] | None = None
        self._now = asyncio.Event()

    async def hold(self) -> None:
        """Give signs of life until `release`, also where this fails.

        Raises:
            PlaneError: UNAVAILABLE.
        """
        self._holders += 1
        async with self._turn:
            if self._subscription is None:
                subject = f"{self._subject}.{self.owner}"
                self._subscription = await self._connection.subscribe(subject, self._asked)
                await self._connection.settle()
            if self._task is None:
                self._connection.back.append(self._back)
                self._task = asyncio.create_task(self._beat())

    async def release(self) -> None:
        """Give none any more, once all who hold it have released it."""
        self._holders -= 1
        if self._holders > 0:
            return
        task, self._task = self._task, None
        if task is not None:
            self._connection.back.remove(self._back)
            task.cancel()
            await asyncio.wait([task])
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            self._connection.unsubscribe(subscription)

    async def _beat(self) -> None:
        loop = asyncio.get_running_loop()
        before = loop.time()
        while True:
            if self._connection.connected:
                self._connection.send(self._subject, self.owner.encode())
            if loop.time() - before > _STALL_S:
                self._woke()
            before = loop.time()
            self._now.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(BEAT_S):
                    await self._now.wait()

    def _asked(self, message: Msg) -> None:
        if message.reply:
            self._connection.send(message.reply, b"")

    def _back(self) -> None:
        self._now.set()
        self._woke()


async def answers(connection: Connection, subject: str, owner: str) -> bool | None:
    """Whether a process answers; ``None`` where its connection is there and nothing comes."""
    answered: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def answer(message: Msg) -> None:
        if not answered.done():
            answered.set_result(status_of(message) != _NO_RESPONDERS)

    reply = connection.expect(answer)
    connection.send(f"{subject}.{owner}", b"", reply)
    try:
        async with asyncio.timeout(_ASK_TIMEOUT_S):
            return await answered
    except TimeoutError:
        return None
    finally:
        connection.forget(reply)


async def living(connection: Connection, subject: str, owners: Iterable[str]) -> frozenset[str]:
    """Who of some processes lives; to see that one is dead takes `GONE_S` seconds."""
    asked = tuple(owners)
    found = await asyncio.gather(*(_lives(connection, subject, owner) for owner in asked))
    return frozenset(owner for owner, lives in zip(asked, found, strict=True) if lives)


async def _lives(connection: Connection, subject: str, owner: str) -> bool:
    loop = asyncio.get_running_loop()
    began = loop.time()
    while True:
        found = await answers(connection, subject, owner)
        if found:
            return True
        if loop.time() - began >= GONE_S:
            # One that is only slow is there.
            return found is None
        await asyncio.sleep(_ASK_AGAIN_S)
