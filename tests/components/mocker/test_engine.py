"""What an engine does with requests, on a clock of the test's own."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protoplane_base import Code, PlaneError
from protoplane_components.mocker.engine import EngineOptions, MockEngine, MockRequest, Written
from protoplane_components.mocker.timing import PolynomialTiming

FOREVER = float("inf")
SMALL = EngineOptions(block_size=4, blocks=64, max_batch_tokens=16, max_requests=8, watermark=0)
# A prompt token takes 1 ms, and a step of writing 10 ms.
PLAIN = PolynomialTiming(SMALL.capacity_tokens, prefill_ms=(0, 1, 0), decode_ms=(10, 0, 0))


def request(name: str, prompt: int, output: int, first: int = 0) -> MockRequest:
    blocks = (prompt + output) // 4
    return MockRequest(name, prompt, output, tuple(range(first, first + blocks)))


def finished(written: list[Written]) -> dict[str, float]:
    return {each.id: each.at_s for each in written if each.finished}


def test_a_prompt_is_computed_in_chunks_and_then_written_a_token_a_step() -> None:
    engine = MockEngine(SMALL, PLAIN)
    engine.submit(request("a", prompt=20, output=3), 1.0)
    assert engine.advance(1.0199) == []
    [first] = engine.advance(1.0201)
    assert (first.first, first.tokens, first.finished) == (True, 1, False)
    assert first.at_s == pytest.approx(1.020)
    [last] = engine.advance(FOREVER)
    assert (last.first, last.tokens, last.finished) == (False, 3, True)
    assert last.at_s == pytest.approx(1.040)
    assert engine.next_s == FOREVER
    assert engine.stats.steps == 4


def test_a_prompt_that_was_seen_is_not_computed_again() -> None:
    engine = MockEngine(SMALL, PLAIN)
    engine.submit(request("a", prompt=16, output=1), 0.0)
    engine.advance(FOREVER)
    engine.submit(request("b", prompt=16, output=1), 1.0)
    [written] = engine.advance(FOREVER)
    # The last block is computed all the same: it holds the token to write from.
    assert written.reused == 12
    assert written.at_s == pytest.approx(1.004)
    assert engine.stats.reused_tokens == 12


def test_what_was_written_can_be_found_by_a_later_turn() -> None:
    engine = MockEngine(SMALL, PLAIN)
    engine.submit(request("a", prompt=8, output=9), 0.0)
    engine.advance(FOREVER)
    engine.submit(request("b", prompt=20, output=1), 1.0)
    [written] = engine.advance(FOREVER)
    assert written.reused == 16


def test_without_prefix_caching_nothing_is_found() -> None:
    engine = MockEngine(replace(SMALL, prefix_caching=False), PLAIN)
    for at_s in (0.0, 1.0):
        engine.submit(request("a", prompt=16, output=1), at_s)
        [written] = engine.advance(FOREVER)
        assert written.reused == 0
    assert engine.pool.held == 0


def test_those_that_write_are_slowed_by_prompts_and_share_their_steps() -> None:
    engine = MockEngine(SMALL, PLAIN)
    engine.submit(request("a", prompt=4, output=10), 0.0)
    assert [each.tokens for each in engine.advance(0.015)] == [1, 2]
    # In the midst of a step; the one after it does both.
    engine.submit(request("b", prompt=8, output=10, first=100), 0.015)
    written = engine.advance(0.0421)
    assert [(each.id, each.tokens) for each in written] == [("a", 3), ("a", 4), ("b", 1)]
    assert [each.at_s for each in written] == pytest.approx([0.024, 0.042, 0.042])
    assert engine.running == 2


def test_no_more_requests_are_worked_on_than_allowed() -> None:
    engine = MockEngine(replace(SMALL, max_requests=1), PLAIN)
    for name, first in (("a", 0), ("b", 50)):
        engine.submit(request(name, prompt=4, output=2, first=first), 0.0)
    assert (engine.running, engine.waiting) == (1, 1)
    ends = finished(engine.advance(FOREVER))
    assert ends["a"] == pytest.approx(0.014)
    assert ends["b"] == pytest.approx(0.028)


def test_a_request_waits_until_its_prompt_has_room() -> None:
    engine = MockEngine(replace(SMALL, blocks=8), PLAIN)
    engine.submit(request("a", prompt=16, output=2), 0.0)
    engine.submit(request("b", prompt=20, output=2, first=50), 0.0)
    assert engine.waiting == 1
    assert list(finished(engine.advance(FOREVER))) == ["a", "b"]


def test_the_last_one_is_preempted_when_blocks_run_out() -> None:
    engine = MockEngine(replace(SMALL, blocks=8), PLAIN)
    engine.submit(request("a", prompt=12, output=12), 0.0)
    engine.submit(request("b", prompt=12, output=12, first=50), 0.0)
    written = engine.advance(FOREVER)
    assert engine.stats.preemptions >= 1
    ends = finished(written)
    assert ends["a"] < ends["b"]
    tokens = [each.tokens for each in written if each.id == "b"]
    assert tokens == sorted(set(tokens))
    assert tokens[-1] == 12
    assert engine.pool.held == 0


@pytest.mark.parametrize(
    ("prompt", "output", "why"),
    [(0, 1, "at least 1"), (1, 0, "at least 1"), (250, 10, "more blocks")],
)
def test_what_can_never_be_done_is_refused(prompt: int, output: int, why: str) -> None:
    with pytest.raises(PlaneError, match=why) as caught:
        MockEngine(SMALL).submit(request("a", prompt, output), 0.0)
    assert caught.value.code is Code.INVALID_ARGUMENT


def test_a_request_that_is_cancelled_gives_back_its_blocks() -> None:
    engine = MockEngine(SMALL, PLAIN)
    engine.submit(request("a", prompt=8, output=30), 0.0)
    engine.submit(request("b", prompt=8, output=9, first=50), 0.0)
    engine.advance(0.05)
    engine.cancel("a", 0.05)
    engine.cancel("nobody", 0.05)
    assert {each.id for each in engine.advance(FOREVER)} == {"b"}
    assert engine.pool.held == 0


JOBS = st.lists(
    st.tuples(
        st.floats(0, 0.3),
        st.integers(1, 40),
        st.integers(1, 30),
        st.integers(0, 3),
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=80, deadline=None)
@given(jobs=JOBS, pauses=st.lists(st.floats(0, 0.5), max_size=5))
def test_runs_of_steps_give_the_times_of_single_steps(
    jobs: list[tuple[float, int, int, int]], pauses: list[float]
) -> None:
    """However time is cut up, the same happens: with long runs as token by token."""
    options = replace(SMALL, blocks=24)

    def played(max_run: int, stops: list[float]) -> tuple[dict[str, float], frozenset[int]]:
        engine = MockEngine(replace(options, max_run=max_run), PLAIN)
        written: list[Written] = []
        arrivals = sorted((job[0], number, *job[1:]) for number, job in enumerate(jobs))
        for at_s in sorted([*stops, *(job[0] for job in arrivals)]):
            written += engine.advance(at_s)
            while arrivals and arrivals[0][0] <= at_s:
                _, number, prompt, output, family = arrivals.pop(0)
                engine.submit(request(str(number), prompt, output, 1000 * family), at_s)
        written += engine.advance(FOREVER)
        assert engine.pool.held == 0
        assert engine.waiting == engine.running == 0
        return finished(written), engine.pool.cached()

    runs, cached = played(1 << 30, [])
    steps, also_cached = played(1, pauses)
    assert runs.keys() == {str(number) for number in range(len(jobs))}
    assert runs == pytest.approx(steps)
    assert cached == also_cached
