"""The error of a queue that takes no more, with a hint when to try again."""

from __future__ import annotations

from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo

from protoplane_base import Code, PlaneError


def queue_full(what: str, waiting: int, limit: int, retry_after_s: float) -> PlaneError:
    """RESOURCE_EXHAUSTED with a ``google.rpc.RetryInfo``.

    Args:
        what: What waits, ``requests`` for example.
        waiting: How many wait now.
        limit: How many may.
        retry_after_s: When there may be room again, in seconds.
    """
    delay = Duration()
    delay.FromMilliseconds(max(1, round(retry_after_s * 1000)))
    return PlaneError(
        Code.RESOURCE_EXHAUSTED,
        f"{waiting} {what} wait already, {limit} are the most; "
        f"try again in {retry_after_s:.3g} s, or ask another instance",
        [RetryInfo(retry_delay=delay)],
    )
