"""What the carriers over message queues share: ZeroMQ, NATS and Zenoh.

A queue hides from each end whether the other one keeps up, has closed or is gone. So these carriers
say it themselves, with a few messages beside those that carry the link's bytes:

========  ==========================  ======================================================
message   body                        meaning
========  ==========================  ======================================================
DATA      bytes of the link           costs its length and 64 bytes of the receiver's window
OPEN      version (1), window (4)     who connects wants a link
OPENED    version (1), window (4)     it has one
ACK       bytes (4)                   so much of the window is free again
CLOSE     nothing                     nothing more comes
CLOSED    nothing                     answers CLOSE
ABORT     why, in UTF-8               the link is over
========  ==========================  ======================================================

Numbers are big-endian. A sender begins a DATA as long as the window is not used up, so the last one
may go beyond it.
"""

from __future__ import annotations

import asyncio
import struct
from abc import abstractmethod
from collections import deque
from enum import IntEnum

from protoplane_base import Code, PlaneError
from protoplane_runtime.link.carriers.interface import Receiver, Started

WINDOW_BYTES = 1024 * 1024
"""What may be under way to an end that did not take it yet."""

_MESSAGE_BYTES = 64
_HIGH_WATER_BYTES = 1024 * 1024
_LOW_WATER_BYTES = 256 * 1024
_VERSION = 1
_OPEN_TIMEOUT_S = 10.0
_CLOSE_TIMEOUT_S = 5.0
_HELLO = struct.Struct(">BI")
_ACK = struct.Struct(">I")


class Kind(IntEnum):
    """What a message of a windowed carrier is."""

    DATA = 0
    OPEN = 1
    OPENED = 2
    ACK = 3
    CLOSE = 4
    CLOSED = 5
    ABORT = 6


class WindowedCarrier:
    """A `Carrier` that keeps count of what the other end took; each queue derives its own.

    Args:
        peer: Who is at the other end.
        identity: Who it proved to be.
        max_batch_bytes: Most bytes of a DATA.
    """

    burst_frames = 16

    def __init__(self, peer: str, identity: str, max_batch_bytes: int) -> None:
        self.peer = peer
        self.identity = identity
        self.max_batch_bytes = max_batch_bytes
        self._loop = asyncio.get_running_loop()
        self._receiver: Receiver | None = None
        self._opened: asyncio.Future[None] | None = None
        self._over = False
        self._error: PlaneError | None = None
        self._closing = False
        self._close_sent = False
        self._close_came = False
        self._timer: asyncio.TimerHandle | None = None
        # What leaves.
        self._window = 0
        self._in_flight = 0
        self._queue: deque[bytes] = deque()
        self._queued = 0
        self._congested = False
        # What comes.
        self._paused = False
        self._held: deque[tuple[int, bytes]] = deque()
        self._unacknowledged = 0
        self._taken = 0

    @abstractmethod
    def post(self, kind: int, body: bytes) -> None:
        """Hand a message to the queue; what fails there is told by `fail`, at once or later."""

    @abstractmethod
    def ended(self, *, flush: bool) -> None:
        """The carrier is over: free what it has of the queue.

        Args:
            flush: Whether what was posted should still arrive, as after an orderly end.
        """

    # The beginning.

    async def open(self, started: Started) -> None:
        """Ask the other end for a link, and start when it is there.

        Raises:
            PlaneError: UNAVAILABLE where none came to be. Cancelling it leaves nothing open.
        """
        self._opened = opened = self._loop.create_future()
        self.post(Kind.OPEN, _HELLO.pack(_VERSION, WINDOW_BYTES))
        try:
            async with asyncio.timeout(_OPEN_TIMEOUT_S):
                await opened
            if self._over:
                raise self._error or PlaneError(Code.UNAVAILABLE, f"{self.peer}: closed at once")
        except TimeoutError:
            self.abort()
            raise PlaneError(
                Code.UNAVAILABLE,
                f"{self.peer}: no answer within {_OPEN_TIMEOUT_S:g} s; is it a component's link?",
            ) from None
        except asyncio.CancelledError:
            self.abort()
            raise
        self._start(started)

    def accept(self, hello: bytes, started: Started) -> None:
        """Answer an OPEN, and start.

        Args:
            hello: The body of the OPEN; one that is not understood is refused.
            started: Called with the carrier.
        """
        if not self._hello(hello):
            return
        self.post(Kind.OPENED, _HELLO.pack(_VERSION, WINDOW_BYTES))
        if not self._over:
            self._start(started)

    def _start(self, started: Started) -> None:
        self._receiver = started(self)
        if self._held:
            self._loop.call_soon(self._deliver)

    def _hello(self, body: bytes) -> bool:
        version, window = _HELLO.unpack(body) if len(body) == _HELLO.size else (0, 0)
        if version != _VERSION or window == 0:
            self.break_off(
                f"the other end speaks version {version} of the carrier and this one {_VERSION}"
            )
            return False
        self._window = window
        return True

    # What the link calls; see `Carrier`.

    def send(self, data: bytes) -> None:
        """See `Carrier`."""
        if self._closing or self._over or not data:
            return
        if self._in_flight < self._window and not self._queue:
            self._in_flight += len(data) + _MESSAGE_BYTES
            self.post(Kind.DATA, data)
            return
        self._queue.append(data)
        self._queued += len(data)
        if self._queued > _HIGH_WATER_BYTES and not self._congested:
            self._congested = True
            if self._receiver is not None:
                self._receiver.congested()

    def pause_receiving(self) -> None:
        """See `Carrier`."""
        self._paused = True

    def resume_receiving(self) -> None:
        """See `Carrier`."""
        self._paused = False
        if self._held:
            self._loop.call_soon(self._deliver)

    def close(self) -> None:
        """See `Carrier`."""
        if not self._closing and not self._over:
            self._closing = True
            self._held.clear()
            if self._close_came:
                self._answer_close()
            elif not self._queue:
                self._say_close()

    def abort(self) -> None:
        """See `Carrier`."""
        if not self._over:
            self.post(Kind.ABORT, b"")
            self._end(None)

    # What the queue brings.

    def take(self, kind: int, body: bytes) -> None:
        """A message came."""
        if self._over:
            return
        if kind == Kind.DATA:
            if self._closing:
                return
            cost = len(body) + _MESSAGE_BYTES
            self._unacknowledged += cost
            if self._unacknowledged > WINDOW_BYTES + self.max_batch_bytes + _MESSAGE_BYTES:
                self.break_off(f"more than the window of {WINDOW_BYTES} bytes came")
            elif self._paused or self._held or self._receiver is None:
                self._held.append((kind, body))
            else:
                self._took(cost)
                self._receiver.received(body)
        elif kind == Kind.ACK:
            if len(body) == _ACK.size:
                self._in_flight -= min(_ACK.unpack(body)[0], self._in_flight)
                self._send_queued()
        elif kind == Kind.CLOSE:
            self._close_came = True
            if self._held and not self._closing:
                self._held.append((kind, body))
            else:
                self._answer_close()
        elif kind == Kind.CLOSED:
            if self._close_sent:
                self._end(None, flush=True)
        elif kind == Kind.ABORT:
            why = body[:200].decode("utf-8", "replace") or "the other end broke the link off"
            self.fail(why)
        elif kind == Kind.OPENED:
            opened = self._opened
            if opened is not None and not opened.done() and self._hello(body):
                opened.set_result(None)

    def fail(self, why: str) -> None:
        """The queue lost the other end, or what it sent."""
        if self._over:
            return
        if self._close_sent:
            self._end(None)
        elif not self._close_came:
            self._end(PlaneError(Code.UNAVAILABLE, f"{self.peer}: {why}"))

    def break_off(self, why: str) -> None:
        """End the link because of what the other end, or the queue, did, and say so."""
        self.post(Kind.ABORT, why.encode())
        self._end(PlaneError(Code.UNAVAILABLE, f"{self.peer}: {why}"))

    def _deliver(self) -> None:
        receiver = self._receiver
        while self._held and not self._paused and not self._over and receiver is not None:
            kind, body = self._held.popleft()
            if kind == Kind.CLOSE:
                self._answer_close()
            else:
                self._took(len(body) + _MESSAGE_BYTES)
                receiver.received(body)

    def _took(self, cost: int) -> None:
        self._taken += cost
        if self._taken >= WINDOW_BYTES // 2:
            self._unacknowledged -= self._taken
            self.post(Kind.ACK, _ACK.pack(self._taken))
            self._taken = 0

    def _send_queued(self) -> None:
        queue = self._queue
        while queue and self._in_flight < self._window and not self._over:
            batch = [queue.popleft()]
            size = len(batch[0])
            while queue and size + len(queue[0]) <= self.max_batch_bytes:
                batch.append(queue.popleft())
                size += len(batch[-1])
            self._queued -= size
            self._in_flight += size + _MESSAGE_BYTES
            self.post(Kind.DATA, b"".join(batch) if len(batch) > 1 else batch[0])
        if self._over:
            return
        if self._closing:
            if not queue and not self._close_sent:
                self._say_close()
        elif self._congested and self._queued <= _LOW_WATER_BYTES:
            self._congested = False
            if self._receiver is not None:
                self._receiver.uncongested()

    # The end.

    def _say_close(self) -> None:
        self._close_sent = True
        self._timer = self._loop.call_later(_CLOSE_TIMEOUT_S, lambda: self._end(None, flush=True))
        self.post(Kind.CLOSE, b"")

    def _answer_close(self) -> None:
        self.post(Kind.CLOSED, b"")
        self._end(None, flush=True)

    def _end(self, error: PlaneError | None, *, flush: bool = False) -> None:
        if self._over:
            return
        self._over = True
        self._error = error
        self._queue.clear()
        self._held.clear()
        if self._timer is not None:
            self._timer.cancel()
        if self._receiver is not None:
            self._loop.call_soon(self._receiver.lost, error)
        if self._opened is not None and not self._opened.done():
            self._opened.set_exception(
                error or PlaneError(Code.UNAVAILABLE, f"{self.peer}: closed at once")
            )
        self.ended(flush=flush)
