"""Calls of a link as a client sees them."""

from __future__ import annotations

import asyncio

from protoplane_base import Code, PlaneError
from protoplane_runtime.link.call import LinkCall
from protoplane_runtime.link.headers import decode_close
from protoplane_runtime.link.session import Session
from protoplane_runtime.link.streams import StreamCall


class UnaryCall(LinkCall):
    """One message there, one back.

    Args:
        answer: What becomes of it: the encoded answer, or a `PlaneError`.
    """

    def __init__(self, answer: asyncio.Future[bytes]) -> None:
        self.answer = answer

    def arrived(self) -> None:
        """See `LinkCall`; an answer that is too large for a frame comes as a message of its own."""
        if self.inbox and len(self.inbox) > 1:
            self.failed(PlaneError(Code.INTERNAL, "the method streams its answers; call it so"))

    def closed(self, header: bytes, payload: bytes | None) -> None:
        """See `LinkCall`."""
        if self.answer.done():
            return
        if header:
            error, _ = decode_close(header)
            if error is not None:
                self.answer.set_exception(error)
                return
        if payload is None:
            # It was too large for the frame that ends the call, and came before it.
            if not self.inbox:
                self.failed(PlaneError(Code.INTERNAL, "the call ended well, but without an answer"))
                return
            payload = self.inbox[0][0]
        self.answer.set_result(payload)

    def failed(self, error: PlaneError) -> None:
        """See `LinkCall`."""
        if not self.answer.done():
            self.answer.set_exception(error)


class StreamingCall(StreamCall):
    """A call with a stream one way or both.

    Args:
        session: The session that it is opened on.

    Attributes:
        answer: The last answer, where the frame that ended the call carried one.
    """

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self.answer: bytes | None = None

    def closed(self, header: bytes, payload: bytes | None) -> None:
        """See `LinkCall`."""
        self.answer = payload
        error, _ = decode_close(header)
        if error is not None:
            self.failed(error)
        else:
            self.half_closed()
            self.credited()
