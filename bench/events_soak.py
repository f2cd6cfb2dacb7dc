"""What becomes of acknowledged events while processes are killed: the soak test's counts.

It runs ``tests/faults/soak.py``, for a few seconds with few publishers and groups, or with
``--full`` for three minutes with 1,000 publishers and 50 groups.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from report import Claim, Row

_ROOT = Path(__file__).resolve().parent.parent
_SHORT = ("--minutes", "0.15", "--publishers", "100", "--groups", "10", "--kill-every", "1")
_MISSING, _DISORDERED = "acknowledged events missing", "events out of order"


def survivals(*, full: bool, absent: dict[str, str]) -> tuple[list[Row], list[Claim]]:
    """What was lost or out of order; why it could not be measured goes into ``absent``.

    Args:
        full: Whether to take the time for a long run.
        absent: What could not be measured, and why.
    """
    rows: list[Row] = []
    claims: list[Claim] = []
    for engine in ("local:", "nats:", "zenoh:"):
        command = [sys.executable, "-m", "tests.faults.soak", "--engine", engine, "--json"]
        run = subprocess.run(
            [*command, *(() if full else _SHORT)],
            cwd=_ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        lines = run.stdout.splitlines()
        counts: dict[str, int] = json.loads(lines[-1])["counts"] if lines else {}
        if not lines:
            absent[f"soak of {engine}"] = (
                run.stderr.strip().rpartition("\n")[2] or "it said nothing"
            )
        for what, count in counts.items():
            rows.append(Row(engine, f"soak: {what}", count, ""))
        bad = counts[_MISSING] + counts[_DISORDERED] if counts else float("nan")
        said = f"{engine} kill -9 of publishers, subscribers, engine: events lost or out of order"
        claims.append(Claim(said, 0, bad, at_most=True))
    return rows, claims
