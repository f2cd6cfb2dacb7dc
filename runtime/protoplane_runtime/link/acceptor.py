"""The end of a link that was connected to: it serves calls."""

from __future__ import annotations

from collections.abc import Callable

from protoplane.v1.link_pb2 import Hello
from protoplane_base import Code, Metadata, PlaneError
from protoplane_runtime.link.call import LinkCall
from protoplane_runtime.link.errors import LinkError, UnsentError
from protoplane_runtime.link.frames import (
    CANCEL,
    CLOSE,
    END,
    HALF_CLOSE,
    OPEN,
    PREFIX,
)
from protoplane_runtime.link.headers import encode_close
from protoplane_runtime.link.session import Session
from protoplane_runtime.link.settings import LinkSettings

Accept = Callable[[bytes, bytes | None], LinkCall]
"""Takes the header of an OPEN, and the only request or ``None``; gives the call that is told of
more. A `PlaneError` that it raises refuses the call, an `UnsentError` hands it back untouched."""


class Acceptor(Session):
    """A session that serves calls.

    Args:
        settings: What this end is and takes.
        wake: Called when there is something to send after there was nothing.
        accept: Takes calls on.
        welcome: Looks at the other end's hello and raises `LinkError` if it is not welcome.
    """

    def __init__(
        self,
        settings: LinkSettings,
        *,
        wake: Callable[[], None],
        accept: Accept,
        welcome: Callable[[Hello], None] | None = None,
    ) -> None:
        super().__init__(settings, wake=wake)
        self._accept = accept
        self._welcome = welcome
        self._last = 0
        self._parting: tuple[str, tuple[str, ...]] | None = None

    def drain(self, message: str, endpoints: tuple[str, ...] = ()) -> None:
        """Take no more calls; those that come are handed back untouched.

        The other end is told at once, or after the hellos where these are still to come.

        Args:
            message: Why, for a person.
            endpoints: Where this end can be reached from now on.
        """
        if self._parting is None:
            self._parting = (message, endpoints)
            if self.ready:
                self.go_away(0, message, endpoints)

    def close(
        self, call: LinkCall, header: bytes = b"", answer: bytes | None = None, flags: int = 0
    ) -> None:
        """End a call; one that is over already is only cleared away.

        Args:
            call: The call.
            header: Header of the CLOSE; empty for a success without trailers.
            answer: The last answer, where there is one and it fits into a frame.
            flags: COMPRESSED where the answer is.
        """
        if self._calls.pop(call.id, None) is not None:
            if answer is None:
                self._push(PREFIX.pack(CLOSE, 0, len(header), 0, call.id) + header)
            else:
                self.messages_sent += 1
                self._push(
                    PREFIX.pack(CLOSE, END | flags, len(header), len(answer), call.id)
                    + header
                    + answer
                )
        self._ended(call)
        if call.held:
            self.discard(call)

    def replace(self, call: LinkCall, by: LinkCall) -> bool:
        """Let another object be told of a call; ``False`` where the call is over."""
        if call.ended:
            return False
        by.id, by.credit, by.allowance = call.id, call.credit, call.allowance
        self._calls[call.id] = by
        return True

    def fail(
        self, call: LinkCall, error: PlaneError, trailers: Metadata, *, unprocessed: bool = False
    ) -> None:
        """End a call with an error.

        Args:
            call: The call.
            error: Why.
            trailers: Metadata to send with it.
            unprocessed: Whether no handler saw the call, so that it may be made again elsewhere.
        """
        self.close(call, encode_close(error, trailers, unprocessed=unprocessed))

    def _hello(self, flags: int, call: int, header: bytes, payload: bytes) -> None:
        super()._hello(flags, call, header, payload)
        if self._parting is not None:
            self.go_away(0, *self._parting)

    def _check_peer(self, hello: Hello) -> None:
        if self._welcome is not None:
            self._welcome(hello)
        self._say_hello()

    def _frames(self) -> dict[int, Callable[[int, int, bytes, bytes], None]]:
        return super()._frames() | {
            OPEN: self._open,
            HALF_CLOSE: self._half_closed,
            CANCEL: self._cancelled,
        }

    def _open(self, flags: int, id_: int, header: bytes, payload: bytes) -> None:
        if not id_ & 1 or id_ <= self._last:
            raise LinkError(
                Code.INVALID_ARGUMENT,
                f"call {id_} came after call {self._last}; calls have odd numbers that grow",
            )
        self._last = id_
        if self._parting is not None:
            self._turn_away(id_, PlaneError(Code.UNAVAILABLE, "the server is going away"))
            return
        if len(self._calls) >= self.limits.max_calls:
            self._turn_away(
                id_,
                PlaneError(
                    Code.RESOURCE_EXHAUSTED,
                    f"{self.limits.max_calls} calls are open on this link, the most it takes",
                ),
            )
            return
        request: bytes | None = None
        if flags & END:
            try:
                request = self._message_of(flags, payload)
            except PlaneError as error:
                self._push_close(id_, encode_close(error, {}))
                return
            self.messages_received += 1
        try:
            call = self._accept(header, request)
        except LinkError:
            raise
        except UnsentError as error:
            self._turn_away(id_, error)
            return
        except PlaneError as error:
            self._push_close(id_, encode_close(error, {}))
            return
        self._track(call, id_)

    def _turn_away(self, id_: int, error: PlaneError) -> None:
        self._push_close(id_, encode_close(error, {}, unprocessed=True))

    def _push_close(self, id_: int, header: bytes) -> None:
        self._push(PREFIX.pack(CLOSE, 0, len(header), 0, id_) + header)

    def _half_close(self, call: LinkCall) -> None:
        call.half_closed()

    def _half_closed(self, _flags: int, id_: int, _header: bytes, _payload: bytes) -> None:
        call = self._calls.get(id_)
        if call is None:
            self._check_known(id_)
        else:
            call.half_closed()

    def _cancelled(self, _flags: int, id_: int, _header: bytes, _payload: bytes) -> None:
        call = self._calls.pop(id_, None)
        if call is None:
            self._check_known(id_)
            return
        self._ended(call)
        self.discard(call)
        call.cancelled()

    def _refuse(self, call: LinkCall, error: PlaneError) -> None:
        self.close(call, encode_close(error, {}))
        self.discard(call)
        call.failed(error)

    def _check_known(self, id_: int) -> None:
        if not id_ & 1 or id_ > self._last:
            raise LinkError(Code.INVALID_ARGUMENT, f"a frame of call {id_} came, which is not open")

    def _last_accepted(self) -> int:
        return self._last
