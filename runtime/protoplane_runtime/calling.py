"""The call that is being served, as the calls that its handler makes see it.

A server says in `serving` which call it runs a handler for. What the handler calls in turn then
has no more time than is left of it, and belongs to the same trace; it need not pass anything on.
"""

from __future__ import annotations

from contextvars import ContextVar
from time import monotonic
from typing import Protocol

from protoplane_base import Metadata
from protoplane_runtime.tracing import TRACEPARENT, TRACESTATE, TraceContext

IDEMPOTENCY_KEY = "idempotency-key"
"""Metadata that carries `CallOptions`' idempotency key."""


class ServedCall(Protocol):
    """What other calls need to know of the one that is being served."""

    @property
    def request_id(self) -> str:
        """Identifier of the call; it is not handed on, since it names this one call."""
        ...

    @property
    def metadata(self) -> Metadata:
        """What the caller sent along, names in lower case."""
        ...

    @property
    def deadline(self) -> float | None:
        """When the call must be over, by ``time.monotonic``; ``None`` for never."""
        ...

    @property
    def over(self) -> bool:
        """Whether it has ended, while a task that its handler started goes on."""
        ...


serving: ContextVar[ServedCall | None] = ContextVar("serving", default=None)
"""The call whose handler runs here; ``None`` outside of handlers.

Tasks that a handler starts inherit it. A server sets it for each step of a handler, not around a
stream: an async generator runs in the context of whoever takes its next value.
"""


def outgoing_timeout_s(timeout_s: float | None) -> float | None:
    """Seconds that a call made here may take: its own timeout, or less where less is left.

    Args:
        timeout_s: What its caller asked for; ``None`` for any time.

    Returns:
        The lesser of that and what is left of the call that is being served, never below zero;
        ``None`` where neither has a bound. A call that is over binds nothing any more.
    """
    call = serving.get()
    if call is None:
        return timeout_s
    deadline = call.deadline
    if deadline is None or call.over:
        return timeout_s
    left_s = max(0.0, deadline - monotonic())
    return left_s if timeout_s is None or left_s < timeout_s else timeout_s


def outgoing_trace() -> TraceContext | None:
    """Where in its trace a call made here is; ``None`` where the served call has no trace.

    Each time it is asked, it is a span of its own, a child of the one that called us.
    """
    call = serving.get()
    if call is None:
        return None
    metadata = call.metadata
    trace = TraceContext.parse(metadata.get(TRACEPARENT), metadata.get(TRACESTATE, ""))
    return None if trace is None else trace.child()


def outgoing_metadata() -> list[tuple[str, str | bytes]]:
    """Metadata that a call made here carries beside its own: its trace, where it has one."""
    trace = outgoing_trace()
    if trace is None:
        return []
    pairs: list[tuple[str, str | bytes]] = [(TRACEPARENT, trace.traceparent)]
    if trace.state:
        pairs.append((TRACESTATE, trace.state))
    return pairs
