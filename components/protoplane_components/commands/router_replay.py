"""``protoplane router replay``."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from protoplane_components.mocker.dispatch import POLICIES, dispatch_by
from protoplane_components.mocker.engine import EngineOptions
from protoplane_components.mocker.page import replay_page
from protoplane_components.mocker.replay import ReplayOptions, replay
from protoplane_components.mocker.report import ReplayReport
from protoplane_components.mocker.trace import (
    BLOCK_TOKENS,
    TraceRequest,
    read_trace,
    unbounded_hit_ratio,
)
from protoplane_runtime import terminal

_EXAMPLE = """
\b
Examples:
  protoplane router replay trace.jsonl
  protoplane router replay trace.jsonl --policy kv,round-robin --speedup 1,4,8
  protoplane router replay trace.jsonl --workers 200 --speedup 100 --plot replay.html
"""

_Row = tuple[str, Callable[[ReplayReport], float], str, bool]
# What is shown of a report: its name, where it is found, how it is written, and whether less is
# better.
_ROWS: tuple[_Row, ...] = (
    ("time to first token, mean", lambda report: report.ttft_ms.mean, "{:,.1f} ms", True),
    ("  p50", lambda report: report.ttft_ms.p50, "{:,.1f} ms", True),
    ("  p95", lambda report: report.ttft_ms.p95, "{:,.1f} ms", True),
    ("  p99", lambda report: report.ttft_ms.p99, "{:,.1f} ms", True),
    ("time per output token, mean", lambda report: report.tpot_ms.mean, "{:,.2f} ms", True),
    ("  p50", lambda report: report.tpot_ms.p50, "{:,.2f} ms", True),
    ("  p95", lambda report: report.tpot_ms.p95, "{:,.2f} ms", True),
    ("  p99", lambda report: report.tpot_ms.p99, "{:,.2f} ms", True),
    ("cache reuse", lambda report: report.reuse * 100, "{:.2f} %", False),
    ("load imbalance", lambda report: report.imbalance, "{:.3f}", True),
    ("tokens written a second", lambda report: report.output_tokens_per_s, "{:,.0f}", False),
    ("requests rejected", lambda report: float(report.rejected), "{:,.0f}", True),
    ("preemptions", lambda report: float(report.preemptions), "{:,.0f}", True),
)


class Listed(click.ParamType[tuple[str, ...]]):
    """Names of a list, with commas between them."""

    name = "name,…"

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        """Check the names."""
        if isinstance(value, tuple):
            return tuple(str(each) for each in value)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
        names = tuple(dict.fromkeys(part.strip() for part in str(value).split(",")))
        for name in names:
            if name not in self._names:
                self.fail(f"{name!r} is none of {', '.join(self._names)}", param, ctx)
        return names


class Factors(click.ParamType[tuple[float, ...]]):
    """Numbers above zero, with commas between them."""

    name = "x,…"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, ...]:
        """Check the numbers."""
        try:
            factors = tuple(float(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is not numbers with commas between them", param, ctx)
        if not all(0 < factor < float("inf") for factor in factors):
            self.fail("a speed-up is above 0", param, ctx)
        return factors


class PlotFile(click.ParamType[Path]):
    """A file that ends in ``.html`` or ``.png``."""

    name = "file.html|file.png"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> Path:
        """Check the ending."""
        path = Path(str(value))
        if path.suffix not in (".html", ".png"):
            self.fail(f"{path} ends neither in .html nor in .png", param, ctx)
        if not path.parent.is_dir():
            self.fail(f"there is no folder {path.parent}", param, ctx)
        return path


@click.command("replay", epilog=_EXAMPLE)
@click.argument("trace", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--workers", type=click.IntRange(min=1), default=8, show_default=True)
@click.option(
    "--policy",
    "policies",
    type=Listed(POLICIES),
    default="kv,round-robin",
    show_default=True,
    help=f"Which policies to compare: {', '.join(POLICIES)}.",
)
@click.option(
    "--speedup",
    "speedups",
    metavar="X,…",
    type=Factors(),
    default="1",
    show_default=True,
    help="By how much faster than they did the requests come.",
)
@click.option(
    "--cache-tokens",
    type=click.IntRange(min=1),
    default=1 << 20,
    show_default=True,
    help="Tokens that the cache of each engine holds.",
)
@click.option(
    "--block-size",
    type=click.IntRange(min=1),
    help="Tokens of a block of the engines; it divides that of the trace.  [default: as the trace]",
)
@click.option(
    "--trace-block-size",
    type=click.IntRange(min=1),
    default=BLOCK_TOKENS,
    show_default=True,
    help="Tokens of a block in the trace.",
)
@click.option("--max-batch-tokens", type=click.IntRange(min=1), default=8192, show_default=True)
@click.option("--max-requests", type=click.IntRange(min=1), default=256, show_default=True)
@click.option("--first", type=click.IntRange(min=1), help="Replay only so many requests.")
@click.option("--seed", default=0, show_default=True, help="Of what policies leave to chance.")
@click.option("--json", "plain", is_flag=True, help="Print one JSON object.")
@click.option(
    "--plot",
    "plots",
    type=PlotFile(),
    multiple=True,
    help="Draw the distributions and loads into this page or picture; again for both.",
)
def replay_command(
    *,
    trace: Path,
    workers: int,
    policies: tuple[str, ...],
    speedups: tuple[float, ...],
    cache_tokens: int,
    block_size: int | None,
    trace_block_size: int,
    max_batch_tokens: int,
    max_requests: int,
    first: int | None,
    seed: int,
    plain: bool,
    plots: tuple[Path, ...],
) -> None:
    """Replay TRACE with simulated engines, and compare what policies make of it.

    TRACE is JSON lines in the format of Mooncake: timestamp (ms), input_length and output_length
    (tokens), and hash_ids, one for each block of the prompt. The engines run on a virtual clock, so
    an hour of the trace takes seconds, and the figures are the same on every machine.
    """
    with terminal.errors():
        # What is missing is said before anybody waits for the replay.
        drawn = {plot: _drawing(plot) for plot in plots}
        requests = read_trace(trace, trace_block_size)[:first]
        size = block_size or trace_block_size
        engine = EngineOptions(
            block_size=size,
            blocks=max(1, cache_tokens // size),
            max_batch_tokens=max_batch_tokens,
            max_requests=max_requests,
        )
        facts = _facts(requests)
        if not plain:
            click.echo(_about(facts, trace_block_size))
        reports: list[ReplayReport] = []
        with _progress(plain=plain) as progress:
            for speedup in speedups:
                options = ReplayOptions(workers, speedup, engine, trace_block_size)
                for policy in policies:
                    task = progress.add_task(f"{policy} at {speedup:g}x", total=len(requests))
                    dispatch = dispatch_by(policy, options, seed)

                    def come(count: int, task: TaskID = task) -> None:
                        progress.update(task, completed=count)

                    reports.append(replay(requests, policy, dispatch, options, come))
        heading = f"Replay of {trace.name} over {workers} workers"
        for plot, draw in drawn.items():
            plot.write_bytes(draw(heading, _about(facts, trace_block_size), reports))
    if plain:
        runs = [report.to_dict() for report in reports]
        click.echo(json.dumps({"trace": facts, "runs": runs}))
        return
    for speedup in speedups:
        click.echo(f"\n{workers} workers, speed-up {speedup:g}")
        Console().print(_table([report for report in reports if report.speedup == speedup]))
    for plot in plots:
        click.echo(f"drawn into {plot}")


def _drawing(plot: Path) -> Callable[[str, str, Sequence[ReplayReport]], bytes]:
    """What draws into a file."""
    if plot.suffix == ".png":
        from protoplane_components.mocker.picture import replay_picture

        return replay_picture
    return lambda title, about, reports: replay_page(title, about, reports).encode()


def _facts(requests: Sequence[TraceRequest]) -> dict[str, float]:
    blocks = {block for request in requests for block in request.hash_ids}
    return {
        "requests": len(requests),
        "seconds": requests[-1].timestamp / 1000,
        "unique_blocks": len(blocks),
        "unbounded_hit_ratio": unbounded_hit_ratio(requests),
    }


def _about(facts: dict[str, float], block_tokens: int) -> str:
    return (
        f"{facts['requests']:,} requests over {facts['seconds']:,.0f} s, "
        f"{facts['unique_blocks']:,} unique blocks of {block_tokens} tokens; with a cache that "
        f"never evicts, {facts['unbounded_hit_ratio'] * 100:.2f} % of the blocks hit"
    )


def _progress(*, plain: bool) -> Progress:
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=plain or not console.is_terminal,
    )


def _table(reports: Sequence[ReplayReport]) -> Table:
    table = Table()
    table.add_column("")
    for report in reports:
        table.add_column(report.policy, justify="right")
    for name, value, form, less in _ROWS:
        values = [value(report) for report in reports]
        best = min(values) if less else max(values)
        cells = [
            Text(
                form.format(each),
                "bold green" if each == best and len(set(values)) > 1 else "",
            )
            for each in values
        ]
        table.add_row(name, *cells)
    return table
