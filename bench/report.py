"""What every benchmark prints: a table for people, and with ``--json`` one line for machines.

A claim whose figure is NaN could not be measured in this run: it is shown as missing, not kept.
"""

from __future__ import annotations

import json
import math
import os
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from time import perf_counter

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Row:
    """One measured figure."""

    name: str
    metric: str
    value: float
    unit: str


@dataclass(frozen=True, slots=True)
class Claim:
    """A ratio or a bound that is promised, and whether this run kept it."""

    claim: str
    required: float
    measured: float
    at_most: bool = False

    @property
    def holds(self) -> bool:
        """Whether the figure is on the right side of the bound."""
        within = self.measured <= self.required
        return within if self.at_most else self.measured >= self.required


def best_of(run: Callable[[], object], *, repeats: int = 7, seconds: float = 0.15) -> float:
    """Seconds of one call: the best of several timed loops, each of at least ``seconds``."""
    calls = 1
    while True:
        started = perf_counter()
        for _ in range(calls):
            run()
        elapsed = perf_counter() - started
        if elapsed >= seconds / 4:
            break
        calls *= 4
    calls = max(1, round(calls * seconds / elapsed))
    best = float("inf")
    for _ in range(repeats):
        started = perf_counter()
        for _ in range(calls):
            run()
        best = min(best, (perf_counter() - started) / calls)
    return best


def print_report(
    bench: str,
    rows: Sequence[Row],
    claims: Sequence[Claim],
    packages: Sequence[str],
    table: Table | None = None,
) -> None:
    """Print the table, the claims and, with ``--json`` on the command line, the one line.

    Args:
        bench: Name of the benchmark.
        rows: What was measured.
        claims: What it shows.
        packages: Packages whose versions matter.
        table: The rows in a form of their own; where absent, one line for each row.
    """
    console = Console()
    if table is None:
        table = Table("what", "metric", "value", "unit")
        for row in rows:
            table.add_row(row.name, row.metric, f"{row.value:,.2f}", row.unit)
    table.title, table.title_justify = f"bench/{bench}.py", "left"
    console.print(table)
    bounds = Table("claim", "required", "measured", "holds", title_justify="left")
    for claim in claims:
        bound = f"{'at most' if claim.at_most else 'at least'} {claim.required:g}"
        verdict = "[green]yes[/]" if claim.holds else "[red]no[/]"
        if math.isnan(claim.measured):
            bounds.add_row(claim.claim, bound, "", "[yellow]missing[/]")
        else:
            bounds.add_row(claim.claim, bound, f"{claim.measured:.2f}", verdict)
    console.print(bounds)
    if "--json" in sys.argv:
        print(
            json.dumps(
                {
                    "bench": bench,
                    "machine": f"{platform.machine()}, {os.cpu_count()} cores",
                    "versions": {
                        "python": platform.python_version(),
                        **{package: version(package) for package in packages},
                    },
                    "rows": [asdict(row) for row in rows],
                    "claims": [
                        {
                            "claim": claim.claim,
                            "required": claim.required,
                            # JSON has no NaN.
                            "measured": None
                            if math.isnan(claim.measured)
                            else round(claim.measured, 3),
                            "holds": claim.holds,
                        }
                        for claim in claims
                    ],
                }
            )
        )
