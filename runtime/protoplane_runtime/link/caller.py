"""The end of a link that connected: it opens calls."""

from __future__ import annotations

from collections.abc import Callable

from protoplane.v1.link_pb2 import GoAway
from protoplane_base import Code, PlaneError
from protoplane_runtime.link.call import LinkCall
from protoplane_runtime.link.errors import LinkError, UnsentError
from protoplane_runtime.link.frames import (
    CANCEL,
    CLOSE,
    END,
    HALF_CLOSE,
    OPEN,
    PREFIX,
    encode,
)
from protoplane_runtime.link.session import Session
from protoplane_runtime.link.settings import LinkSettings


class Caller(Session):
    """A session that opens calls, from its hello on; arguments as for `Session`."""

    def __init__(
        self,
        settings: LinkSettings,
        *,
        wake: Callable[[], None],
        on_ready: Callable[[], None] | None = None,
        on_go_away: Callable[[GoAway], None] | None = None,
    ) -> None:
        super().__init__(settings, wake=wake, on_ready=on_ready, on_go_away=on_go_away)
        self._next = 1
        self._say_hello()

    def open(self, call: LinkCall, header: bytes, request: bytes | None, flags: int = 0) -> None:
        """Open a call.

        Args:
            call: What is told of it.
            header: Header of the OPEN.
            request: The only request, where it fits into a frame; ``None`` where messages follow.
            flags: COMPRESSED where the request is.

        Raises:
            UnsentError: The link is over, or the other end is going away.
        """
        if self.error is not None or self.going_away:
            raise UnsentError("the link is over" if self.error else "the other end is going away")
        id_ = self._next
        self._next = id_ + 2
        self._track(call, id_)
        if request is None:
            self._push(PREFIX.pack(OPEN, 0, len(header), 0, id_) + header)
        else:
            self._push(
                PREFIX.pack(OPEN, END | flags, len(header), len(request), id_) + header + request
            )
            self.messages_sent += 1

    def half_close(self, call: LinkCall) -> None:
        """Say that no more messages come."""
        if not call.ended:
            self._push(encode(HALF_CLOSE, 0, call.id))

    def cancel(self, call: LinkCall) -> None:
        """Give a call up; one that is over already is only cleared away."""
        if self._calls.pop(call.id, None) is not None:
            self._push(encode(CANCEL, 0, call.id))
        self._ended(call)
        self.discard(call)

    def _frames(self) -> dict[int, Callable[[int, int, bytes, bytes], None]]:
        return super()._frames() | {CLOSE: self._closed}

    def _closed(self, flags: int, id_: int, header: bytes, payload: bytes) -> None:
        call = self._calls.pop(id_, None)
        if call is None:
            self._check_known(id_)
            return
        self._ended(call)
        answer: bytes | None = None
        if flags & END:
            try:
                answer = self._message_of(flags, payload)
            except PlaneError as error:
                call.failed(error)
                return
            self.messages_received += 1
        try:
            call.closed(header, answer)
        except LinkError as error:
            # The call is no longer among those that learn of the end of the link.
            call.failed(error)
            raise

    def _refuse(self, call: LinkCall, error: PlaneError) -> None:
        self.cancel(call)
        call.failed(error)

    def _check_known(self, id_: int) -> None:
        if not id_ & 1 or id_ >= self._next:
            raise LinkError(Code.INVALID_ARGUMENT, f"a frame of call {id_} came, which nobody made")

    def _going(self, gone: GoAway) -> None:
        for id_ in [id_ for id_ in self._calls if id_ > gone.last_call]:
            call = self._calls.pop(id_)
            self._ended(call)
            call.failed(UnsentError(f"the other end is going away: {gone.message}"))
