"""Notices that a client has gone away, and cancels what was being done for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from types import TracebackType
from typing import Self

from protoplane_base import Code, PlaneError
from protoplane_server.http.asgi import Receive
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
        when_lost: Where the server calls back, there is nothing to watch; see `Exchange.when_lost`.
            For requests without a body.
    """

    __slots__ = (
        "_at_once",
        "_group",
        "_state",
        "_task",
        "_timer",
        "_watch",
        "_watcher",
        "_when_lost",
        "gone",
    )

    def __init__(
        self,
        state: DoorState,
        watch: Callable[[], Coroutine[None, None, None]],
        *,
        at_once: bool = False,
        group: set[asyncio.Task[object]] | None = None,
        when_lost: Callable[[Callable[[], None] | None], bool] | None = None,
    ) -> None:
        self._state = state
        self._watch = watch
        self._group = state.calls if group is None else group
        self._at_once = at_once
        self._when_lost = when_lost
        self._timer: asyncio.TimerHandle | None = None
        self._watcher: asyncio.Task[None] | None = None
        self.gone = False

    def __enter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None
        self._task: asyncio.Task[object] = task
        self._group.add(task)
        if self._when_lost is not None and self._when_lost(self._leave):
            pass
        elif self._at_once:
            self._start()
        else:
            self._timer = asyncio.get_running_loop().call_later(_PATIENCE_S, self._start)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        self._group.discard(self._task)
        if self._timer is not None:
            self._timer.cancel()
        if self._when_lost is not None:
            self._when_lost(None)
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.cancel()
        if self.gone:
            self._task.uncancel()
            return True
        if kind is asyncio.CancelledError and (
            self._state.closing.is_set() or self._state.dispatcher.draining
        ):
            self._task.uncancel()
            raise PlaneError(
                Code.UNAVAILABLE, "the server shut down before the call was done; try another"
            ) from None
        return False

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
