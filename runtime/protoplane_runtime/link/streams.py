"""A call whose streams are awaited: what clients and servers share on top of a session."""

from __future__ import annotations

import asyncio

from protoplane_base import PlaneError
from protoplane_runtime.link.call import LinkCall
from protoplane_runtime.link.frames import MORE
from protoplane_runtime.link.session import Session

_BURST = 64
"""Messages that a stream sends before it lets others have the event loop."""


class StreamCall(LinkCall):
    """A call that sends and receives messages at its own pace.

    One task may send and one may receive.

    Args:
        session: The session that it is opened on.

    Attributes:
        complete: Whether no more messages come; those in the inbox still wait to be taken.
        error: Why the call failed; ``None`` while it did not.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.complete = False
        self.error: PlaneError | None = None
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self._burst = 0

    def arrived(self) -> None:
        """See `LinkCall`."""
        if self._reader is not None:
            _wake(self._reader)

    def credited(self) -> None:
        """See `LinkCall`."""
        if self._writer is not None:
            _wake(self._writer)

    def half_closed(self) -> None:
        """See `LinkCall`."""
        self.complete = True
        self.arrived()

    def failed(self, error: PlaneError) -> None:
        """See `LinkCall`."""
        self.error = error
        self.half_closed()
        self.credited()

    async def send(self, message: bytes, what: str) -> bool:
        """Send a message, once the other end can take it.

        Cancelling it may leave the message half sent, so the call must be ended then.

        Args:
            message: The message, encoded.
            what: ``request`` or ``response``, for the error.

        Returns:
            Whether it was sent; it was not if the call ended meanwhile.

        Raises:
            PlaneError: RESOURCE_EXHAUSTED where it is larger than the other end takes.
        """
        session = self.session
        session.check_size(len(message), what)
        message, flags = session.packed(message)
        most = session.peer_limits.max_frame_bytes
        start = 0
        while len(message) - start > most:
            if not await self._may_send():
                return False
            session.send_part(self, message[start : start + most], flags | MORE)
            start += most
        if not await self._may_send():
            return False
        session.send_part(self, message[start:] if start else message, flags)
        self._burst += 1
        if self._burst >= _BURST:
            self._burst = 0
            await asyncio.sleep(0)
        return True

    async def receive(self) -> bytes | None:
        """The next message; ``None`` when no more come, then ``error`` says whether all is well.

        Cancelling it loses no message.
        """
        while True:
            if self.inbox:
                return self.session.next_message(self)
            if self.complete:
                return None
            self._reader = asyncio.get_running_loop().create_future()
            try:
                await self._reader
            finally:
                self._reader = None

    async def _may_send(self) -> bool:
        while not self.ended:
            if self.session.writable(self):
                return True
            self._writer = asyncio.get_running_loop().create_future()
            try:
                await self._writer
            finally:
                self._writer = None
        return False


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
