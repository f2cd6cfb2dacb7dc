"""What goes wrong on a link."""

from __future__ import annotations

from protoplane_base import Code, PlaneError


class LinkError(PlaneError):
    """The other end broke the rules of the link, or the carrier failed: the link is over."""


class UnsentError(PlaneError):
    """The call reached no handler, so repeating it is safe, whatever it does.

    Raised where no connection came to be, and where the other end says that it took no notice of
    the call because it is going away.

    Args:
        message: What stood in the way.
        code: UNAVAILABLE unless said otherwise.
    """

    def __init__(self, message: str, code: Code = Code.UNAVAILABLE) -> None:
        super().__init__(code, message)
