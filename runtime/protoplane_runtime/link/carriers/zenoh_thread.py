"""The thread that a Zenoh session lives on.

Zenoh blocks whoever sends while the network takes no more (its congestion control BLOCK; without
it messages are dropped and nobody is told), so one thread sends for the whole session.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from typing import Any, NamedTuple, Protocol

from protoplane_base import MissingExtraError
from protoplane_runtime.link.carriers.zenoh_address import SessionSettings

try:
    import zenoh
except ModuleNotFoundError as error:
    raise MissingExtraError("zenoh", "a link over Zenoh") from error

_EXIT_TIMEOUT_S = 6.0
_BLOCK = zenoh.CongestionControl.BLOCK

# The annotations of Zenoh's methods leave out what they return.
Native = Any
Job = Callable[[Native], None]


class Put(NamedTuple):
    """A message that is to be sent.

    Attributes:
        key: Where to.
        data: What.
        inbox: Where to answer to; empty where that is known.
    """

    key: zenoh.KeyExpr
    data: bytes
    inbox: str


class Declared(Protocol):
    """What was declared and can be taken back."""

    def undeclare(self) -> None:
        """Take it back."""
        ...


class ZenohThread:
    """Opens a session, does with it what is asked in turn, and closes it.

    Args:
        settings: What the session is opened with.
        opened: Declares, on the thread, what the session begins with; gives its liveliness token.
        refused: Told, on the loop, why the session could not be opened.
        failed: Told, on the loop, why something could not be sent.
    """

    def __init__(
        self,
        settings: SessionSettings,
        opened: Callable[[Native], Declared],
        refused: Callable[[str], None],
        failed: Callable[[str], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._settings = settings
        self._opened = opened
        self._refused = refused
        self._failed = failed
        self._jobs: SimpleQueue[Job | Put | None] = SimpleQueue()
        self._thread = Thread(target=self._run, name="protoplane-link-zenoh", daemon=True)

    def start(self) -> None:
        """Begin."""
        _running.add(self)
        self._thread.start()

    def do(self, job: Job | Put) -> None:
        """Have something done, or sent, after all that was asked before."""
        self._jobs.put(job)

    def stop(self) -> None:
        """Close the session after all that was asked before."""
        self._jobs.put(None)

    def join(self) -> None:
        """Stop, and wait for it; the interpreter is about to exit."""
        self.stop()
        self._thread.join(_EXIT_TIMEOUT_S)

    def tell(self, told: Callable[..., object], *what: object) -> None:
        """Have something called on the loop; from any thread."""
        # A loop that is closed has nobody left to be told.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(told, *what)

    def _run(self) -> None:
        try:
            session: Native = zenoh.open(self._settings.config())
            try:
                # Zenoh takes back a token that nobody holds.
                token = self._opened(session)
                while (job := self._jobs.get()) is not None:
                    self._do(session, job)
                token.undeclare()
            finally:
                session.close()
        except zenoh.ZError as error:
            self.tell(self._refused, said(error))
        finally:
            _running.discard(self)

    def _do(self, session: Native, job: Job | Put) -> None:
        try:
            if isinstance(job, Put):
                key, data, inbox = job
                session.put(key, data, congestion_control=_BLOCK, attachment=inbox or None)
            else:
                job(session)
        except zenoh.ZError as error:
            self.tell(self._failed, said(error))


_running: set[ZenohThread] = set()


@atexit.register
def _exit() -> None:
    # A thread that is inside Zenoh when the interpreter goes away takes the process down.
    for each in tuple(_running):
        each.join()


def said(error: zenoh.ZError) -> str:
    """What Zenoh says went wrong, without where in its own source that was."""
    return str(error).partition(" at /")[0]
