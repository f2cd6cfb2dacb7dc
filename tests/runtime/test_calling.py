"""What the calls that a handler makes take over from the one that it serves."""

from __future__ import annotations

import math
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic

from hypothesis import given
from hypothesis import strategies as st

from protoplane_base import Metadata
from protoplane_runtime.calling import (
    outgoing_metadata,
    outgoing_timeout_s,
    outgoing_trace,
    serving,
)

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@dataclass
class Call:
    deadline: float | None = None
    metadata: Metadata = field(default_factory=dict[str, str | bytes])
    request_id: str = "1"
    over: bool = False


@contextmanager
def served(call: Call) -> Generator[None]:
    token = serving.set(call)
    try:
        yield
    finally:
        serving.reset(token)


def test_outside_of_a_call() -> None:
    assert outgoing_timeout_s(None) is None
    assert outgoing_timeout_s(3.0) == 3.0
    assert outgoing_trace() is None
    assert outgoing_metadata() == []


times = st.floats(0, 1e6) | st.none()


@given(times, times)
def test_the_lesser_time_counts(own: float | None, left: float | None) -> None:
    deadline = None if left is None else monotonic() + left
    with served(Call(deadline)):
        found = outgoing_timeout_s(own)
    bounds = [bound for bound in (own, left) if bound is not None]
    if not bounds:
        assert found is None
    else:
        assert found is not None
        assert 0 <= found <= min(bounds) + 1e-6


def test_nothing_is_left_after_the_deadline() -> None:
    with served(Call(monotonic() - 5)):
        assert outgoing_timeout_s(None) == 0.0
        assert outgoing_timeout_s(math.inf) == 0.0


def test_a_call_that_is_over_binds_nothing() -> None:
    with served(Call(monotonic() - 5, over=True)):
        assert outgoing_timeout_s(None) is None
        assert outgoing_timeout_s(2.0) == 2.0


def test_each_call_is_a_child_of_the_one_that_is_served() -> None:
    with served(Call(metadata={"traceparent": PARENT, "tracestate": "a=b"})):
        first, second = dict(outgoing_metadata()), dict(outgoing_metadata())
    assert first["tracestate"] == "a=b"
    for sent in (first, second):
        parent = str(sent["traceparent"])
        assert parent.split("-")[1] == PARENT.split("-")[1]
        assert parent.split("-")[2] != PARENT.split("-")[2]
    assert first["traceparent"] != second["traceparent"]


def test_a_trace_without_state() -> None:
    with served(Call(metadata={"traceparent": PARENT})):
        assert [name for name, _ in outgoing_metadata()] == ["traceparent"]


def test_a_call_without_a_trace_begins_none() -> None:
    for metadata in ({}, {"traceparent": "nonsense"}, {"tracestate": "a=b"}):
        with served(Call(metadata=metadata)):
            assert outgoing_metadata() == []
