"""Trace context: which trace a call belongs to, as it travels in metadata.

Source: W3C Trace Context, level 1 (https://www.w3.org/TR/trace-context-1/).
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from typing import Self

TRACEPARENT = "traceparent"
"""Metadata that names the trace, and the span that is the parent of this call."""

TRACESTATE = "tracestate"
"""Metadata that tracing systems add for themselves."""

MAX_STATE_CHARS = 512
"""Longest ``tracestate`` that is passed on whole: what the specification says to carry at least."""

_MAX_STATE_MEMBERS = 32
_LONG_MEMBER_CHARS = 128
_SAMPLED = 0x01

_PARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_NO_TRACE = "0" * 32
_NO_SPAN = "0" * 16


@dataclass(frozen=True, slots=True)
class TraceContext:
    """One place in a trace.

    Attributes:
        trace_id: 32 hexadecimal digits in lower case, not all zero.
        span_id: 16 of them, not all zero: the span that calls.
        sampled: Whether the caller may have recorded it.
        state: The ``tracestate`` that goes along; empty for none.
    """

    trace_id: str
    span_id: str
    sampled: bool = False
    state: str = ""

    @classmethod
    def parse(cls, traceparent: str | bytes | None, tracestate: str | bytes = "") -> Self | None:
        """Read what came with a call.

        A trace is never worth a failed call, so what is malformed counts as absent. A version that
        came after level 1 is read by the parts that it shares with it.

        Args:
            traceparent: Metadata of that name; ``None`` for none.
            tracestate: Metadata of that name. At most 32 members are passed on as they are; more
                than `MAX_STATE_CHARS` are shortened as the specification says, first by members of
                more than 128 characters, then from the end.

        Returns:
            The trace, or ``None`` where there is none that can be followed.
        """
        if not isinstance(traceparent, str):
            return None
        found = _PARENT.fullmatch(traceparent)
        if found is None:
            return None
        version, trace_id, span_id, flags, more = found.groups()
        if version == "ff" or (version == "00" and more is not None):
            return None
        if trace_id == _NO_TRACE or span_id == _NO_SPAN:
            return None
        state = _state(tracestate) if isinstance(tracestate, str) and tracestate else ""
        return cls(trace_id, span_id, bool(int(flags, 16) & _SAMPLED), state)

    @property
    def traceparent(self) -> str:
        """The metadata ``traceparent``, of version 00."""
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}"

    def child(self) -> Self:
        """The same trace, with a new random span as the one that calls."""
        span_id = _NO_SPAN
        while span_id == _NO_SPAN:
            span_id = os.urandom(8).hex()
        return replace(self, span_id=span_id)


def _state(text: str) -> str:
    if not (text.isascii() and text.isprintable()):
        return ""
    members = text.split(",")
    if sum(1 for member in members if member.strip()) > _MAX_STATE_MEMBERS:
        return ""
    if len(text) <= MAX_STATE_CHARS:
        return text
    kept = [member for member in members if len(member.strip()) <= _LONG_MEMBER_CHARS]
    while len(",".join(kept)) > MAX_STATE_CHARS:
        kept.pop()
    return ",".join(kept).strip()
