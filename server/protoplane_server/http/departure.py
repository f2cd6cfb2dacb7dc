"""Notices that a client has gone away, and cancels what was being done for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from types import TracebackType
from typing import Self

from protoplane_base import Code, PlaneError
from protoplane_server.http.asgi import Exchange, Near, Receive
from protoplane_server.http.state import DoorState

_PATIENCE_S = 0.005


class Disconnected(Exception):  # noqa: N818  (not a failure of anything here)
    """The client went away before its request was whole."""


class Departure:
    """While its block runs, a client that goes away cancels it.

    The block ends quietly then, with `gone` set. A door that closes cancels the block too; that
    becomes an UNAVAILABLE error.

    Args:
        state: The door's state.
        watch: Returns when the client is gone. It starts only once the block has waited a few
            milliseconds, so a quick call does not pay for a task.
        at_once: Start watching right away; for streams, where watching also reads the body.
        group: Tasks that the door knows this one among; by default its calls.
        near: Where the server calls back, there is nothing to watch. For requests without a body,
            or whose body has been read.
    """

    __slots__ = (
        "_at_once",
        "_group",
        "_near",
        "_state",
        "_task",
        "_timer",
        "_watch",
        "_watcher",
        "gone",
    )

    def __init__(
        self,
        state: DoorState,
        watch: Callable[[], Coroutine[None, None, None]],
        *,
        at_once: bool = False,
        group: set[asyncio.Task[object]] | None = None,
        near: Near | None = None,
    ) -> None:
        self._state = state
        self._watch = watch
        self._group = state.calls if group is None else group
        self._at_once = at_once
        self._near = near
        self._timer: asyncio.TimerHandle | None = None
        self._watcher: asyncio.Task[None] | None = None
        self.gone = False

    @classmethod
    def of_call(cls, state: DoorState, exchange: Exchange) -> Self:
        """The departure of a client whose request has been read, and waits for one answer."""
        return cls(state, disconnection(exchange.receive), near=exchange.near)

    def __enter__(self) -> Self:
        self.begin()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        self.end()
        if self.gone:
            return True
        failure = self.shut_down() if kind is asyncio.CancelledError else None
        if failure is not None:
            raise failure from None
        return False

    def begin(self) -> None:
        """Enter the block; for calls, to which the ways into a ``with`` and out of it are long."""
        self._task = task = self._state.task()
        self._group.add(task)
        if self._near is not None and self._near.when_lost(self._leave):
            return
        if self._at_once:
            self._start()
        else:
            self._timer = asyncio.get_running_loop().call_later(_PATIENCE_S, self._start)

    def shut_down(self) -> PlaneError | None:
        """The error of a block that was cancelled because the door closes, if that is why."""
        if not (self._state.closing.is_set() or self._state.dispatcher.draining):
            return None
        self._task.uncancel()
        return PlaneError(
            Code.UNAVAILABLE, "the server shut down before the call was done; try another"
        )

    def end(self) -> None:
        """Leave the block, however it ended."""
        self._group.discard(self._task)
        if self._timer is not None:
            self._timer.cancel()
        if self._near is not None:
            self._near.lost = None
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.cancel()
        if self.gone:
            self._task.uncancel()

    def _start(self) -> None:
        # No coroutine around it: there is one of these for each stream, and streams are many.
        self._watcher = asyncio.get_running_loop().create_task(self._watch())
        self._watcher.add_done_callback(self._left)

    def _left(self, watcher: asyncio.Task[None]) -> None:
        if watcher.cancelled():
            return
        error = watcher.exception()
        if error is not None:
            watcher.get_loop().call_exception_handler(
                {"message": "watching for a client that goes failed", "exception": error}
            )
        elif self._watcher is watcher:
            self._leave()

    def _leave(self) -> None:
        self.gone = True
        self._task.cancel()


def disconnection(receive: Receive) -> Callable[[], Coroutine[None, None, None]]:
    """A watch for a request whose body has been read."""
    return partial(_read_to_the_end, receive)


async def _read_to_the_end(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
