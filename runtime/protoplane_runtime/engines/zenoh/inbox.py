"""The way from Zenoh's threads to the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from contextlib import suppress
from typing import Generic, TypeVar

MAX_WAITING = 65_536
"""Most messages that wait for the event loop before who brings more waits too."""

_CLOSING_POLL_S = 0.5

_T = TypeVar("_T")


class Inbox(Generic[_T]):
    """What Zenoh's threads bring, for one task on the event loop to take.

    Where `MAX_WAITING` wait already, who brings more waits; Zenoh then holds back who sends it.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._items: deque[_T] = deque()
        self._room = threading.Condition()
        self._filled = asyncio.Event()
        self._woken = False
        self._closed = False

    def put(self, item: _T) -> None:
        """Bring something; from any thread."""
        with self._room:
            while len(self._items) >= MAX_WAITING and not self._closed:
                self._room.wait(_CLOSING_POLL_S)
            if self._closed:
                return
            self._items.append(item)
            if self._woken:
                return
            self._woken = True
        # A loop that was closed has nobody left who takes it.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._filled.set)

    async def take(self) -> list[_T]:
        """Wait until there is something, and take all of it; nothing only once it is closed."""
        while not self._closed:
            await self._filled.wait()
            with self._room:
                items = list(self._items)
                self._items.clear()
                self._woken = False
                self._filled.clear()
                self._room.notify_all()
            if items:
                return items
        return []

    def close(self) -> None:
        """Take nothing more; on the event loop."""
        with self._room:
            self._closed = True
            self._items.clear()
            self._room.notify_all()
        self._filled.set()
