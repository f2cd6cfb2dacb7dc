"""A session on a carrier: the one place where the link meets the event loop."""

from __future__ import annotations

import asyncio
from typing import Generic, TypeVar

from protoplane_base import Code, PlaneError
from protoplane_runtime.link.carriers.interface import Carrier
from protoplane_runtime.link.errors import LinkError
from protoplane_runtime.link.session import Session

_S = TypeVar("_S", bound=Session)

_CLOSED = "the link was closed before the answer was whole; ask again"
_MAX_BACKLOG = 4_096
"""Frames that may wait to be acted on before this end stops to read."""


class Connection(Generic[_S]):
    """Moves bytes between a session and a carrier, and ends both together; a `Receiver`.

    All frames that become ready in one turn of the event loop leave in one write.

    Args:
        serving: Whether this end serves calls: it reads no more while its answers pile up because
            nobody reads them.

    Attributes:
        session: The state machine.
        bytes_sent: Bytes given to the carrier.
        bytes_received: Bytes that the carrier brought.
        closed: Done when the link is over; its result is why, ``None`` for an orderly end.
    """

    def __init__(self, *, serving: bool = False) -> None:
        self._serving = serving
        self._loop = asyncio.get_running_loop()
        self.session: _S
        self.bytes_sent = 0
        self.bytes_received = 0
        self.closed: asyncio.Future[PlaneError | None] = self._loop.create_future()
        self._carrier: Carrier | None = None
        self._scheduled = False
        self._resuming = False
        self._heard = False
        self._paused = False
        self._crowded = False
        self._timer: asyncio.TimerHandle | None = None
        self._ending: PlaneError | None = None

    @property
    def carrier(self) -> Carrier | None:
        """What moves the bytes; ``None`` before `start`."""
        return self._carrier

    def start(self, session: _S, carrier: Carrier) -> None:
        """Begin; the carrier is open, and the hello may take so long as the settings say."""
        self.session = session
        self._carrier = carrier
        session.burst_frames = carrier.burst_frames
        self._timer = self._loop.call_later(session.settings.hello_timeout_s, self._hello_late)
        if session.pending():
            self.wake()

    def wake(self) -> None:
        """The session has something to send: it leaves at the end of this turn of the loop."""
        if not self._scheduled and self._carrier is not None:
            self._scheduled = True
            self._loop.call_soon(self._flush)

    def received(self, data: bytes) -> None:
        """Bytes came; see `Receiver`."""
        if self.closed.done() or self._ending is not None:
            # After a broken rule nobody knows any more where a frame begins.
            return
        self._heard = True
        self.bytes_received += len(data)
        try:
            if self.session.received(data):
                self._catch_up()
        except LinkError as error:
            self.fail(error)

    def congested(self) -> None:
        """The carrier holds too much; see `Receiver`."""
        self.session.congested = True

    def uncongested(self) -> None:
        """The carrier takes more again; see `Receiver`."""
        self._heard = True
        self.session.uncongested()
        if self._paused:
            self._paused = False
            self._read_on()
        if self.session.pending():
            self.wake()

    def lost(self, error: PlaneError | None) -> None:
        """The carrier is over; see `Receiver`."""
        if self.closed.done():
            return
        if self._timer is not None:
            self._timer.cancel()
        try:
            # What came before the end still counts, the answers of calls above all.
            while self._ending is None and self.session.resume():
                pass
        except LinkError as fault:
            self._ending = self._ending or fault
        why = self._ending or error
        self.closed.set_result(why)
        self.session.lost(why or PlaneError(Code.UNAVAILABLE, _CLOSED))

    def fail(self, error: LinkError) -> None:
        """End the link because of what the other end did, and tell it."""
        if self._ending is None and not self.closed.done():
            self._ending = error
            self.session.go_away(int(error.code), error.message)
            self._end()

    def close(self, error: PlaneError | None = None) -> None:
        """End the link in order: what is ready leaves, then the carrier closes.

        Args:
            error: What calls that are open fail with.
        """
        if not self.closed.done():
            self._ending = self._ending or error
            self._end()

    def abort(self, error: PlaneError) -> None:
        """End the link at once."""
        if not self.closed.done() and self._carrier is not None:
            self._ending = self._ending or error
            self._carrier.abort()

    def watch(self) -> None:
        """Begin to look after the other end: call this once both hellos are exchanged."""
        if self._timer is not None:
            self._timer.cancel()
        self._heard = True
        self._timer = self._loop.call_later(self.session.settings.ping_after_s, self._check)

    def _resume(self) -> None:
        self._resuming = False
        if self.closed.done() or self._ending is not None:
            return
        try:
            if self.session.resume():
                self._catch_up()
                return
        except LinkError as error:
            self.fail(error)
            return
        if self._crowded:
            self._crowded = False
            self._read_on()

    def _catch_up(self) -> None:
        if not self._resuming:
            self._resuming = True
            self._loop.call_soon(self._resume)
        # Not every frame is under flow control, and small ones take more memory than their bytes.
        if not self._crowded and self.session.backlog > _MAX_BACKLOG and self._carrier is not None:
            self._crowded = True
            self._carrier.pause_receiving()

    def _read_on(self) -> None:
        if not self._paused and not self._crowded and self._carrier is not None:
            self._carrier.resume_receiving()

    def _end(self) -> None:
        if self._carrier is not None:
            # Even to a carrier that holds much: it sends what it was given before it ends.
            self.session.congested = False
            self._flush()
            self._carrier.close()

    def _flush(self) -> None:
        self._scheduled = False
        session, carrier = self.session, self._carrier
        if carrier is None or self.closed.done() or not session.pending():
            return
        if session.congested:
            # A caller goes on reading: answers are what lets the other end get rid of its own.
            if self._serving and not self._paused:
                self._paused = True
                if not self._crowded:
                    carrier.pause_receiving()
            return
        most = carrier.max_batch_bytes
        data = session.take()
        self.bytes_sent += len(data)
        if len(data) <= most:
            carrier.send(data)
            return
        for start in range(0, len(data), most):
            carrier.send(data[start : start + most])

    def _hello_late(self) -> None:
        self.abort(
            PlaneError(
                Code.UNAVAILABLE,
                f"no hello came within {self.session.settings.hello_timeout_s:g} s; "
                "is the other end a link?",
            )
        )

    def _check(self) -> None:
        settings = self.session.settings
        if self._heard:
            self._heard = False
            delay = settings.ping_after_s
            self._timer = self._loop.call_later(delay, self._check)
            return
        self.session.ping()
        self._timer = self._loop.call_later(settings.ping_timeout_s, self._check_pong)

    def _check_pong(self) -> None:
        if self._heard:
            self._check()
            return
        self.abort(
            PlaneError(
                Code.UNAVAILABLE,
                f"the other end was silent for {self.session.settings.ping_timeout_s:g} s "
                "after a ping",
            )
        )
