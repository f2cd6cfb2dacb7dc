"""Fleets, and traces replayed with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from tests.components.mocker.traces import conversations

from protoplane_base import Code, PlaneError
from protoplane_components.mocker.blocks import CacheObserver
from protoplane_components.mocker.engine import EngineOptions, MockEngine, MockRequest, Written
from protoplane_components.mocker.fleet import Fleet, Happened
from protoplane_components.mocker.page import replay_page
from protoplane_components.mocker.replay import ReplayOptions, replay
from protoplane_components.mocker.report import Distribution, imbalance
from protoplane_components.mocker.trace import unbounded_hit_ratio

TRACE = conversations(users=12, turns=8)
OPTIONS = ReplayOptions(workers=3, engine=EngineOptions(block_size=512, blocks=400))


class InTurn:
    """One after the other, and a note of what was told."""

    def __init__(self, workers: int, *, refuse: int | None = None) -> None:
        self.workers = workers
        self.refuse = refuse
        self.asked = 0
        self.first: list[str] = []
        self.finished: list[str] = []

    def observer(self, worker: int) -> CacheObserver | None:
        return None

    def choose(self, request: MockRequest, prompt: Sequence[int], now_s: float) -> int:
        self.asked += 1
        if self.asked == self.refuse:
            raise PlaneError(Code.RESOURCE_EXHAUSTED, "all are too busy")
        return self.asked % self.workers

    def happened(self, worker: int, written: Written) -> None:
        if written.first:
            self.first.append(written.id)
        if written.finished:
            self.finished.append(written.id)


def test_one_worker_reuses_what_an_unbounded_cache_would_but_for_blocks_that_are_not_full() -> None:
    options = replace(OPTIONS, workers=1, engine=EngineOptions(block_size=512, blocks=100_000))
    report = replay(TRACE, "in turn", InTurn(1), options)
    assert report.reuse == pytest.approx(unbounded_hit_ratio(TRACE), abs=0.1)
    assert report.imbalance == 1
    assert report.requests == len(TRACE)


def test_every_request_has_a_first_token_and_an_end() -> None:
    dispatch = InTurn(3)
    report = replay(TRACE, "in turn", dispatch, OPTIONS)
    ids = {str(number) for number in range(len(TRACE))}
    assert set(dispatch.first) == set(dispatch.finished) == ids
    assert len(dispatch.first) == len(dispatch.finished) == len(TRACE)
    assert report.requests_by_worker == (32, 32, 32)
    assert report.ttft_ms.mean > 0
    assert report.ttft_ms.p50 <= report.ttft_ms.p95 <= report.ttft_ms.p99 <= report.ttft_ms.most
    assert report.to_dict()["ttft_ms"].keys() == {"mean", "p50", "p95", "p99", "most"}


def test_a_replay_gives_the_same_figures_every_time() -> None:
    first, second = (replay(TRACE, "in turn", InTurn(3), OPTIONS) for _ in range(2))
    assert first == second


def test_requests_that_come_faster_wait_longer() -> None:
    slow = replay(TRACE, "in turn", InTurn(3), OPTIONS)
    fast = replay(TRACE, "in turn", InTurn(3), replace(OPTIONS, speedup=50))
    assert fast.ttft_ms.mean > slow.ttft_ms.mean
    assert fast.duration_s < slow.duration_s


def test_smaller_blocks_find_more() -> None:
    engine = EngineOptions(block_size=64, blocks=8 * 400)
    coarse = replay(TRACE, "in turn", InTurn(3), OPTIONS)
    fine = replay(TRACE, "in turn", InTurn(3), replace(OPTIONS, engine=engine))
    assert coarse.reuse <= fine.reuse <= coarse.reuse + 0.1


def test_what_is_refused_is_counted() -> None:
    report = replay(TRACE, "in turn", InTurn(3, refuse=5), OPTIONS)
    assert (report.rejected, report.requests) == (1, len(TRACE) - 1)


def test_progress_ends_with_the_trace() -> None:
    seen: list[int] = []
    replay(TRACE, "in turn", InTurn(3), OPTIONS, seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == len(TRACE)


def test_blocks_that_do_not_divide_those_of_the_trace_are_refused() -> None:
    engine = EngineOptions(block_size=100, blocks=400)
    with pytest.raises(PlaneError, match="blocks of 100 tokens do not divide"):
        replay(TRACE, "in turn", InTurn(3), replace(OPTIONS, engine=engine))


def test_a_request_larger_than_a_cache_is_named() -> None:
    engine = EngineOptions(block_size=512, blocks=4)
    with pytest.raises(PlaneError, match=r"request \d+ has \d+ tokens with its output"):
        replay(TRACE, "in turn", InTurn(3), replace(OPTIONS, engine=engine))


def test_a_fleet_gives_what_its_engines_would_alone() -> None:
    """Hundreds of engines on one clock do not disturb each other."""
    count = 200
    requests = [
        MockRequest(f"{n}", 500 + 7 * n, 1 + n % 40, range(n * 99, n * 99 + 40))
        for n in range(count)
    ]
    fleet = Fleet([MockEngine() for _ in range(count)])
    happened: list[Happened] = []
    for number, request in enumerate(requests):
        happened += fleet.advance(number * 0.003)
        happened += fleet.submit(number, request)
    happened += fleet.advance()
    times = [each.written.at_s for each in happened]
    assert times == sorted(times)
    together = {each.written.id: each.written.at_s for each in happened if each.written.finished}
    for number, request in enumerate(requests):
        engine = MockEngine()
        engine.submit(request, number * 0.003)
        assert engine.advance(float("inf"))[-1].at_s == pytest.approx(together[request.id])


def test_a_distribution_has_the_nearest_ranks() -> None:
    found = Distribution.of(range(100, 0, -1))
    assert (found.mean, found.p50, found.p95, found.p99, found.most) == (50.5, 50, 95, 99, 100)
    assert len(found.curve) == 101
    assert Distribution.of([]).mean == 0


def test_imbalance_is_the_largest_by_the_mean() -> None:
    assert imbalance([1, 1, 4]) == 2
    assert imbalance([0, 0]) == 1


def test_a_page_draws_every_policy_and_needs_no_network() -> None:
    reports = [
        replay(TRACE, policy, InTurn(3), replace(OPTIONS, speedup=speedup))
        for speedup in (1, 4)
        for policy in ("one <way>", "another")
    ]
    page = replay_page("A & B", "about it", reports)
    assert "A &amp; B" in page
    assert page.count("one &lt;way&gt;") > 4
    assert "<way>" not in page
    # Two charts over the speed-ups, three of each.
    assert page.count("<svg") == 2 + 2 * 3
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")
