"""W3C Trace Context, level 1."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protoplane_runtime.tracing import MAX_STATE_CHARS, TraceContext

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = f"00-{TRACE}-{SPAN}-01"


def test_the_example_of_the_specification() -> None:
    found = TraceContext.parse(PARENT, "congo=t61rcWkgMzE,rojo=00f067aa0ba902b7")
    assert found == TraceContext(
        TRACE, SPAN, sampled=True, state="congo=t61rcWkgMzE,rojo=00f067aa0ba902b7"
    )
    assert found is not None
    assert found.traceparent == PARENT


@given(
    st.integers(1, 2**128 - 1), st.integers(1, 2**64 - 1), st.integers(0, 255), st.integers(0, 254)
)
def test_what_is_well_formed(trace: int, span: int, flags: int, version: int) -> None:
    text = f"{version:02x}-{trace:032x}-{span:016x}-{flags:02x}"
    found = TraceContext.parse(text)
    assert found is not None
    assert (int(found.trace_id, 16), int(found.span_id, 16)) == (trace, span)
    # What is sent is version 00, in which only the lowest flag has a meaning.
    assert found.traceparent == f"00-{trace:032x}-{span:016x}-{flags & 1:02x}"
    child = found.child()
    assert child.trace_id == found.trace_id
    assert child.span_id != found.span_id
    assert TraceContext.parse(child.traceparent) == child


@pytest.mark.parametrize(
    "text",
    [
        None,
        b"00",
        "",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE[1:]}-{SPAN}-01",
        f"00-{TRACE}0-{SPAN}-01",
        f"00-{TRACE}-{SPAN}0-01",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}-01-",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE}-{SPAN}-0x",
        f"01-{TRACE}-{SPAN}-01more",
        f"{PARENT}, {PARENT}",
        f" {PARENT}",
        f"{PARENT}\n",
    ],
)
def test_what_is_malformed_counts_as_absent(text: str | bytes | None) -> None:
    assert TraceContext.parse(text) is None


def test_a_later_version_is_read_by_what_it_shares() -> None:
    found = TraceContext.parse(f"cc-{TRACE}-{SPAN}-01-what-the-future-will-be-like")
    assert found == TraceContext(TRACE, SPAN, sampled=True)


@given(st.text() | st.from_regex(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}.?"), st.text())
def test_anything_is_read_without_an_error(parent: str, state: str) -> None:
    found = TraceContext.parse(parent, state)
    if found is not None:
        assert len(found.traceparent) == 55
        assert found.state.isascii()
        assert len(found.state) <= MAX_STATE_CHARS


def test_a_state_that_cannot_be_carried_leaves_the_trace() -> None:
    for state in ("a=ü", "a=\n", ",".join(f"k{n}=v" for n in range(33)), b"a=b"):
        assert TraceContext.parse(PARENT, state) == TraceContext(TRACE, SPAN, sampled=True)
    most = ",".join(f"k{n}=v" for n in range(32))
    found = TraceContext.parse(PARENT, most)
    assert found is not None
    assert found.state == most


def test_a_long_state_loses_its_long_members_first_and_then_its_last() -> None:
    members = [f"k{n}=" + "v" * 96 for n in range(6)]
    members.insert(2, "long=" + "v" * 200)
    found = TraceContext.parse(PARENT, ",".join(members))
    assert found is not None
    assert found.state == ",".join(members[:2] + members[3:6])
    assert len(found.state) <= MAX_STATE_CHARS
