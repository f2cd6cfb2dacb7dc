"""Who of some processes lives, as one that watches them hears it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable

from protoplane_runtime.engines.nats.connection import Connection, Msg, Subscription
from protoplane_runtime.engines.nats.pulse import BEAT_S, GONE_S, SILENT_S, answers
from protoplane_runtime.engines.processes import watch_process

_SUSPECT_S = 2.5 * BEAT_S
_STALL_S = 0.5
_GRACE_S = 2.0


class Liveness:
    """Listens to the signs of life of processes; use `look` a few times a second.

    Nobody is dead while the server is away, nor right after: then nobody was heard.

    Args:
        connection: The way to the server.
        subject: Where signs of life go.
        own: The process that this one is itself: it lives.
        changed: Called with a process that is dead, or that lives again.
    """

    def __init__(
        self, connection: Connection, subject: str, own: str, changed: Callable[[str], None]
    ) -> None:
        self._connection = connection
        self._subject = subject
        self._own = own
        self._changed = changed
        self._heard: dict[str, float] = {}
        self._dead: dict[str, float] = {}
        self._watched: dict[str, int] = {}
        self._asking: dict[str, asyncio.Task[None]] = {}
        self._subscription: Subscription | None = None
        self._loop = asyncio.get_running_loop()
        self._looked = self._loop.time()

    async def begin(self) -> None:
        """Begin to listen.

        Raises:
            PlaneError: UNAVAILABLE.
        """
        if self._subscription is None:
            self._subscription = await self._connection.subscribe(self._subject, self._beat)
            await self._connection.settle()

    def lives(self, owner: str) -> bool:
        """Whether a process lives, as far as is known."""
        return owner == self._own or owner in self._heard

    def heard_lately(self, owner: str) -> bool:
        """Whether there was a sign of life of it just now."""
        since = self._loop.time() - self._heard.get(owner, float("-inf"))
        return owner == self._own or (since < _SUSPECT_S and self._connection.connected)

    def dead_for_s(self, owner: str) -> float:
        """Seconds since it was found to be dead; 0 where it was not."""
        return self._loop.time() - self._dead[owner] if owner in self._dead else 0.0

    def hear(self, owner: str) -> None:
        """Note a sign of life of a process that is to be followed."""
        was_dead = self._dead.pop(owner, None) is not None
        self._heard[owner] = max(self._heard.get(owner, 0.0), self._loop.time())
        if was_dead:
            self._changed(owner)

    def watch(self, owner: str, pid: int) -> None:
        """Have the kernel tell when a process of this machine ends, where it can."""
        if owner not in self._watched and owner != self._own:
            watched = watch_process(pid)
            if watched is not None:
                self._watched[owner] = watched
                self._loop.add_reader(watched, self._ended, owner)

    def bury(self, owner: str) -> None:
        """Note that a process is dead until it is heard."""
        if owner != self._own and owner not in self._dead:
            self._heard.pop(owner, None)
            self._dead[owner] = self._loop.time()
            self._changed(owner)

    def forget(self, owners: Iterable[str]) -> None:
        """Follow some processes no more."""
        for owner in owners:
            self._heard.pop(owner, None)
            self._dead.pop(owner, None)
            asking = self._asking.pop(owner, None)
            if asking is not None:
                asking.cancel()
            self._unwatch(owner)

    def look(self) -> None:
        """Look for those who are silent, and ask them."""
        now = self._loop.time()
        stalled = now - self._looked > _STALL_S
        self._looked = now
        if not self._connection.connected:
            self._grant(now + _GRACE_S)
            return
        if stalled:
            # What they said meanwhile is still to be read.
            self._grant(now - _SUSPECT_S)
        for owner, heard in tuple(self._heard.items()):
            if now - heard >= _SUSPECT_S and owner not in self._asking and owner != self._own:
                self._asking[owner] = self._loop.create_task(self._ask(owner))

    async def close(self) -> None:
        """Listen no more."""
        for owner in tuple(self._watched):
            self._unwatch(owner)
        asking, self._asking = list(self._asking.values()), {}
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            self._connection.unsubscribe(subscription)

    def _beat(self, message: Msg) -> None:
        owner = message.data.decode(errors="replace")
        # Of others, nothing is registered here.
        if owner in self._heard or owner in self._dead:
            self.hear(owner)

    async def _ask(self, owner: str) -> None:
        losses = self._connection.losses
        try:
            found = await answers(self._connection, self._subject, owner)
        finally:
            self._asking.pop(owner, None)
        if found:
            self.hear(owner)
        elif self._connection.connected and losses == self._connection.losses:
            silent_s = self._loop.time() - self._heard.get(owner, float("inf"))
            if silent_s >= (SILENT_S if found is None else GONE_S):
                self.bury(owner)

    def _ended(self, owner: str) -> None:
        self._unwatch(owner)
        self.bury(owner)

    def _unwatch(self, owner: str) -> None:
        watched = self._watched.pop(owner, None)
        if watched is not None:
            self._loop.remove_reader(watched)
            os.close(watched)

    def _grant(self, until: float) -> None:
        for owner, heard in self._heard.items():
            self._heard[owner] = max(heard, until)
