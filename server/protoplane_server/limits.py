"""What a component takes on at most."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds that hold at every door; what goes past one fails with RESOURCE_EXHAUSTED.

    Attributes:
        max_message_bytes: Greatest message, coming in or going out, as it is on the wire.
        max_concurrent_calls: Most calls that are open at once; ``None`` for any number.
        max_timeout_s: Longest that a call may last: a caller that asks for more, or for no
            deadline, is given this one; ``None`` leaves it to the caller.
    """

    max_message_bytes: int = 10 * 1024 * 1024
    max_concurrent_calls: int | None = None
    max_timeout_s: float | None = None
