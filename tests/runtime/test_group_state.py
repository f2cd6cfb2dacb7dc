"""The state of a group: short to write down, whatever order its events are done in."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.group_state import Flight, GroupState, Token
from protoplane_runtime.engines.groups import GroupSettings
from protoplane_runtime.engines.interface import EventId


@given(
    st.sets(st.integers(1, 60), min_size=1).map(sorted),
    st.data(),
)
def test_what_is_done_is_done_and_nothing_else(matching: list[int], data: st.DataObject) -> None:
    """Some sequences are the group's events; any are done, in any order, by who knows how many."""
    state = GroupState(("**",), 1, 0)
    done: set[int] = set()
    for sequence in data.draw(st.permutations(matching)):
        if data.draw(st.booleans()):
            state.finish(sequence)
            done.add(sequence)
        read_to = data.draw(st.integers(0, 60))
        undone = [each for each in matching if each <= read_to and each not in done]
        state.compact(undone, read_to)
        state = GroupState.decode("g", state.encode())
        assert all(state.is_done(each) == (each in done) for each in matching)
    undone = [each for each in matching if each not in done]
    state.compact(undone, 60)
    # One entry for each row of events that are done behind one that is not.
    assert len(state.done) <= len(undone)
    if not undone:
        assert (state.position, state.done) == (matching[-1], [])
    else:
        assert state.position < undone[0]


@given(st.binary(max_size=40) | st.text(max_size=40).map(str.encode))
def test_what_is_no_state_is_a_clear_error(value: bytes) -> None:
    with pytest.raises(PlaneError) as caught:
        GroupState.decode("g", value)
    assert caught.value.code is Code.DATA_LOSS


def test_a_newer_state_is_refused() -> None:
    state = json.loads(GroupState(("a",), 1, 2).encode())
    state["version"] += 1
    with pytest.raises(PlaneError) as caught:
        GroupState.decode("g", json.dumps(state).encode())
    assert caught.value.code is Code.FAILED_PRECONDITION


@given(st.text(max_size=30) | st.text("g/1-2m", max_size=20))
def test_tokens(text: str) -> None:
    token = Token("g", EventId(3, 4), 2, "m1f")
    assert Token.parse(str(token)) == token
    fault = None
    try:
        parsed = Token.parse(text)
    except PlaneError as error:
        fault = error.code
    else:
        assert Token.parse(str(parsed)) == parsed
    assert fault in (None, Code.INVALID_ARGUMENT)


def test_an_old_token_ends_nothing() -> None:
    state = GroupState(("a",), 1, 0)
    state.flights[5] = Flight("m1", 2, 0)
    for token in (
        Token("g", EventId(1, 5), 1, "m1"),
        Token("g", EventId(1, 5), 2, "m2"),
        Token("g", EventId(2, 5), 2, "m1"),
        Token("g", EventId(1, 6), 1, "m1"),
    ):
        with pytest.raises(PlaneError) as caught:
            state.acknowledge(token)
        assert caught.value.code is Code.FAILED_PRECONDITION
    assert state.acknowledge(Token("g", EventId(1, 5), 2, "m1"))
    assert not state.acknowledge(Token("g", EventId(1, 5), 2, "m1"))
    assert state.acknowledged == 1


def test_a_lost_log_begins_anew() -> None:
    state = GroupState(("a",), 1, 10, done=[(12, 14)], flights={11: Flight("m1", 1, 0)})
    assert not state.skip_to(1, 9)
    assert state.skip_to(1, 12)
    assert (state.position, state.done, state.flights) == (12, [(12, 14)], {})
    assert state.skip_to(2, 0)
    assert (state.epoch, state.position, state.done) == (2, 0, [])


@pytest.mark.parametrize(
    "settings",
    [
        {"visibility_s": 0},
        {"visibility_s": float("nan")},
        {"visibility_s": 1e9},
        {"max_deliveries": 0},
        {"max_in_flight": 0},
        {"max_in_flight": 100_000},
    ],
)
def test_settings_have_bounds(settings: dict[str, float]) -> None:
    with pytest.raises(PlaneError) as caught:
        GroupSettings(**settings)  # type: ignore[arg-type]  # some are no integers
    assert caught.value.code is Code.INVALID_ARGUMENT
