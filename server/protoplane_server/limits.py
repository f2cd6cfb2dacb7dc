"""What a component takes on at most."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds that hold at every door; a call that goes past one fails with RESOURCE_EXHAUSTED.

    Attributes:
        max_message_bytes: Greatest message, coming in or going out, as it is on the wire.
        max_concurrent_calls: Most calls that are open at once; ``None`` for any number.
        max_timeout_s: Longest that a call may last: a caller that asks for more, or for no
            deadline, is given this one; ``None`` leaves it to the caller.
        max_replies: Most replies to idempotency keys that are remembered, for calls that are
            repeated; past it the oldest is forgotten. With 0, a repeated call still joins one that
            is in flight.
        max_replies_bytes: Most bytes that they may have together, encoded.
        remember_replies_s: How long a reply is remembered.
        stall_s: Seconds after which a stream of events is cut off whose client takes not a single
            byte of what is sent; one that is merely slow is kept.
    """

    max_message_bytes: int = 10 * 1024 * 1024
    max_concurrent_calls: int | None = None
    max_timeout_s: float | None = None
    max_replies: int = 10_000
    max_replies_bytes: int = 64 * 1024 * 1024
    remember_replies_s: float = 600.0
    stall_s: float = 30.0
