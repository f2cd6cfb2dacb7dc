"""One call of a link: what a session keeps of it, and tells it."""

from __future__ import annotations

from collections import deque

from protoplane_base import PlaneError


class LinkCall:
    """One call as one end of the link sees it; clients and servers derive from it.

    Its methods are called by the session, on frames of the call, and must not block.

    Attributes:
        id: Number of the call on its link; 0 before it is opened.
        credit: Bytes that this end may still send in the stream.
        allowance: Bytes that the other end may still send in the stream.
        held: What the messages cost that came and were not taken yet, parts included.
        owed: What the messages cost that were taken, and that no credit was given for yet.
        inbox: Messages that came and were not taken yet, each with what it cost and whether it is
            still compressed; the first never is.
        parts: What is there of a message that comes in parts.
        ended: Whether the call is over for this end.
    """

    # In the class, because most calls have one message each way and need none of them: a call is
    # made in a microsecond or two, and every attribute that is set would show.
    id = 0
    credit = 0
    allowance = 0
    held = 0
    owed = 0
    inbox: deque[tuple[bytes, int, bool]] | None = None
    parts: bytearray | None = None
    ended = False

    def arrived(self) -> None:
        """A whole message is in the inbox."""

    def credited(self) -> None:
        """More may be sent."""

    def half_closed(self) -> None:
        """The caller sends no more messages."""

    def cancelled(self) -> None:
        """The caller wants no answer any more."""

    def closed(self, header: bytes, payload: bytes | None) -> None:
        """The call is over.

        Args:
            header: Header of the CLOSE.
            payload: The last answer, where the frame carried one.
        """

    def failed(self, error: PlaneError) -> None:
        """The call is over because the link is, or because of what came in it."""
