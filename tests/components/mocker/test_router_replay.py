"""``protoplane router replay``, and the policies of the router in front of engines."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.components.mocker.traces import conversations, written_out

from protoplane_components.commands.router import router
from protoplane_components.mocker.blocks import CacheObserver
from protoplane_components.mocker.dispatch import POLICIES, dispatch_by
from protoplane_components.mocker.engine import EngineOptions
from protoplane_components.mocker.replay import ReplayOptions, replay
from protoplane_components.mocker.trace import read_trace, unbounded_hit_ratio

TRACE = conversations(users=16, turns=8, every_ms=300)
OPTIONS = ReplayOptions(workers=4, engine=EngineOptions(block_size=512, blocks=300))


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "trace.jsonl"
    path.write_text(written_out(TRACE))
    return path


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_answers_every_request(policy: str) -> None:
    report = replay(TRACE, policy, dispatch_by(policy, OPTIONS), OPTIONS)
    assert report.requests == len(TRACE)
    assert sum(report.requests_by_worker) == len(TRACE)
    assert report.reuse <= unbounded_hit_ratio(TRACE) + 0.1


@pytest.mark.parametrize("block_size", [512, 64])
@pytest.mark.parametrize("policy", ["kv", "kv-approximate"])
def test_what_knows_the_caches_reuses_more_and_answers_sooner(policy: str, block_size: int) -> None:
    engine = EngineOptions(block_size=block_size, blocks=300 * 512 // block_size)
    options = ReplayOptions(workers=4, engine=engine)
    kv, turns = (
        replay(TRACE, each, dispatch_by(each, options), options) for each in (policy, "round-robin")
    )
    assert kv.reuse > 1.3 * turns.reuse
    assert kv.ttft_ms.mean < turns.ttft_ms.mean


def test_the_index_knows_what_the_caches_hold() -> None:
    """After a replay with evictions the index has as many blocks as all caches together."""
    dispatch = dispatch_by("kv", OPTIONS)
    held: list[int] = []

    class Counting:
        """Passes on what the caches tell, and counts it."""

        def __init__(self, worker: int) -> None:
            inner = dispatch.observer(worker)
            assert inner is not None
            self.inner = inner

        def stored(self, parent: int | None, hashes: Sequence[int]) -> None:
            held.append(len(hashes))
            self.inner.stored(parent, hashes)

        def removed(self, hashes: Sequence[int]) -> None:
            held.append(-len(hashes))
            self.inner.removed(hashes)

        def cleared(self) -> None:
            raise AssertionError

    class Counted:
        """The same dispatch, with those who count."""

        choose = dispatch.choose
        happened = dispatch.happened

        def observer(self, worker: int) -> CacheObserver | None:
            return Counting(worker)

    # Room for hardly more than one request.
    options = replace(OPTIONS, engine=replace(OPTIONS.engine, blocks=60))
    replay(TRACE, "kv", Counted(), options)
    assert min(held) < 0, "nothing was evicted, so nothing was tried"
    assert dispatch.exact.stats().blocks == sum(held)


def test_the_command_prints_one_object(trace: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    done = CliRunner().invoke(
        router,
        f"replay {trace} --workers 3 --policy kv,round-robin --speedup 1,2 --plot {page} --json",
    )
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["trace"]["requests"] == len(TRACE)
    assert told["trace"]["unbounded_hit_ratio"] == unbounded_hit_ratio(read_trace(trace))
    assert [(run["policy"], run["speedup"], run["workers"]) for run in told["runs"]] == [
        ("kv", 1, 3),
        ("round-robin", 1, 3),
        ("kv", 2, 3),
        ("round-robin", 2, 3),
    ]
    assert all(run["requests"] == len(TRACE) for run in told["runs"])
    assert page.read_text().startswith("<!doctype html>")


def test_the_command_draws_a_picture(trace: Path, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    pytest.importorskip("matplotlib")
    page, picture = tmp_path / "page.html", tmp_path / "picture.png"
    arguments = f"replay {trace} --workers 2 --speedup 1,90 --plot {page} --plot {picture}"
    done = CliRunner().invoke(router, arguments)
    assert done.exit_code == 0, done.output
    assert done.stdout.endswith(f"drawn into {page}\ndrawn into {picture}\n")
    assert page.exists()
    with image.open(picture) as drawn:
        drawn.load()
        # Something is drawn in the colour of each policy.
        colors = {color for _, color in drawn.convert("RGB").getcolors(1 << 24)}
    assert {(0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)} <= colors


def test_a_picture_needs_an_extra(
    trace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [each for each in sys.modules if each.startswith("matplotlib")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "protoplane_components.mocker.picture", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    picture = tmp_path / "picture.png"
    done = CliRunner().invoke(router, ["replay", str(trace), "--plot", str(picture)])
    assert done.exit_code == 1
    assert "pip install 'protoplane[plot]'" in done.output


@pytest.mark.parametrize("change", [-(1 << 80), 1 << 32, 1 << 64])
def test_ids_of_blocks_may_be_any_numbers(change: int) -> None:
    changed = [
        each.model_copy(
            update={"hash_ids": tuple(block * (1 << 33) + change for block in each.hash_ids)}
        )
        for each in TRACE[:40]
    ]
    one, other = (
        replay(each, "kv", dispatch_by("kv", OPTIONS), OPTIONS) for each in (TRACE[:40], changed)
    )
    assert one == other


def test_the_command_prints_tables(trace: Path) -> None:
    done = CliRunner().invoke(router, ["replay", str(trace), "--workers", "2", "--first", "40"])
    assert done.exit_code == 0, done.output
    assert f"with a cache that never evicts, {unbounded_hit_ratio(TRACE[:40]):.2%}".replace(
        "%", " %"
    ) in " ".join(done.stdout.split())
    for row in ("time to first token, mean", "time per output token, mean", "cache reuse"):
        assert row in done.stdout


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--policy", "kv,best"], "'best' is none of kv,"),
        (["--speedup", "0"], "a speed-up is above 0"),
        (["--speedup", "fast"], "is not numbers"),
        (["--plot", "page.pdf"], "ends neither in .html nor in .png"),
        (["--plot", "no/folder/page.png"], "there is no folder no/folder"),
        (["--block-size", "100"], "do not divide"),
        (["--cache-tokens", "1024"], "give the engines more blocks"),
        (["--trace-block-size", "256"], "line 1: "),
    ],
)
def test_the_command_says_what_does_not_do(trace: Path, arguments: list[str], why: str) -> None:
    done = CliRunner().invoke(router, ["replay", str(trace), *arguments])
    assert done.exit_code in (1, 2)
    assert why in " ".join(done.output.split())
    assert "Traceback" not in done.output
