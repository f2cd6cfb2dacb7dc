"""Replays a trace with simulated engines: what cache-aware routing gains over round-robin.

The trace is that of Mooncake's conversations (FAST'25), in its published format; it is not part of
the repository, so its path is given.

    python bench/router_replay.py [--trace FILE | PROTOPLANE_TRACE=FILE] [--full] [--json]

Eight engines, at the speed of the trace, four times and eight times that; with ``--full`` all
policies and 64-token blocks too. The clock is virtual: the figures are the same on every machine.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from report import Claim, Row, print_report

from protoplane_components.mocker.dispatch import POLICIES, dispatch_by
from protoplane_components.mocker.engine import EngineOptions
from protoplane_components.mocker.replay import ReplayOptions, replay
from protoplane_components.mocker.report import ReplayReport
from protoplane_components.mocker.trace import TraceRequest, read_trace, unbounded_hit_ratio

PACKAGES = ("numpy", "xxhash")
VARIABLE = "PROTOPLANE_TRACE"
HIT_PERCENT = 36.64
WORKERS = 8
CACHE_TOKENS = 1 << 20
SPEEDUPS = (1, 4, 8)
FULL = "--full" in sys.argv
MISSING = float("nan")


def trace_path() -> Path | None:
    """The trace that was named, if one was."""
    if "--trace" in sys.argv:
        return Path(sys.argv[sys.argv.index("--trace") + 1])
    named = os.environ.get(VARIABLE)
    return Path(named) if named else None


def replayed(
    trace: Sequence[TraceRequest], policy: str, speedup: float, block_size: int
) -> ReplayReport:
    """Replay it once."""
    engine = EngineOptions(block_size=block_size, blocks=CACHE_TOKENS // block_size)
    options = ReplayOptions(workers=WORKERS, speedup=speedup, engine=engine)
    return replay(trace, policy, dispatch_by(policy, options), options)


def rows_of(report: ReplayReport, block_size: int, wall_s: float) -> list[Row]:
    """What is shown of a replay."""
    name = f"{report.policy}, {report.speedup:g}x, blocks of {block_size}"
    return [
        Row(name, "cache reuse", report.reuse * 100, "% of prompt tokens"),
        Row(name, "time to first token, mean", report.ttft_ms.mean, "ms"),
        Row(name, "time to first token, p99", report.ttft_ms.p99, "ms"),
        Row(name, "time per output token, mean", report.tpot_ms.mean, "ms"),
        Row(name, "busiest worker by the mean", report.imbalance, "ratio"),
        Row(name, "simulated by real time", report.duration_s / wall_s, "ratio"),
    ]


def claims_of(speedup: float, kv: ReplayReport | None, other: ReplayReport | None) -> list[Claim]:
    """What cache-aware routing promises, by what round-robin does in the same run."""
    named = f"replay at {speedup:g}x, kv by round-robin"
    if kv is None or other is None:
        figures = (MISSING, MISSING, MISSING)
    else:
        figures = (
            kv.reuse / other.reuse,
            kv.ttft_ms.mean / other.ttft_ms.mean,
            kv.tpot_ms.mean / other.tpot_ms.mean,
        )
    return [
        Claim(f"{named}: cache reuse", 1, figures[0]),
        Claim(f"{named}: mean time to first token", 1, figures[1], at_most=True),
        Claim(f"{named}: mean time per output token", 1, figures[2], at_most=True),
    ]


def main() -> None:
    """Replay, and print."""
    path = trace_path()
    rows: list[Row] = []
    if path is None:
        print(f"skipped: name a trace with --trace FILE or {VARIABLE}")
        claims = [
            Claim("trace: distance from its known hit ratio, points", 0.005, MISSING, at_most=True)
        ]
        for speedup in SPEEDUPS:
            claims += claims_of(speedup, None, None)
        print_report("router_replay", rows, claims, PACKAGES)
        return
    trace = read_trace(path)
    percent = unbounded_hit_ratio(trace) * 100
    rows.append(Row("trace", "hit ratio without bounds", percent, "% of blocks"))
    claims = [
        Claim(
            "trace: distance from its known hit ratio, points",
            0.005,
            abs(percent - HIT_PERCENT),
            at_most=True,
        )
    ]
    for block_size in (512, 64) if FULL else (512,):
        for speedup in SPEEDUPS:
            reports: dict[str, ReplayReport] = {}
            for policy in POLICIES if FULL else ("kv", "round-robin"):
                began = time.perf_counter()
                reports[policy] = replayed(trace, policy, speedup, block_size)
                rows += rows_of(reports[policy], block_size, time.perf_counter() - began)
            if block_size == 512:
                claims += claims_of(speedup, reports["kv"], reports["round-robin"])
    print_report("router_replay", rows, claims, PACKAGES)


if __name__ == "__main__":
    main()
