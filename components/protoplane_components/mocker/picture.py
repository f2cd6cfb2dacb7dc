"""The charts of a replay as a PNG, for where no browser is at hand; the page has the same."""

# What matplotlib takes beyond its named arguments has no types.
# pyright: reportUnknownMemberType=false
from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO

from protoplane_base import MissingExtraError
from protoplane_components.mocker.charts import COLORS
from protoplane_components.mocker.report import Distribution, ReplayReport

try:
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from matplotlib.ticker import EngFormatter, NullFormatter
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "matplotlib":
        raise
    raise MissingExtraError("plot", "drawing a PNG") from error

_INCHES = 3.4
_FAR = 20
_DOTS_PER_INCH = 120


def replay_picture(title: str, about: str, reports: Sequence[ReplayReport]) -> bytes:
    """Draw what `page.replay_page` draws.

    Args:
        title: Heading of the picture.
        about: A line below it.
        reports: At least one; those of one speed-up are drawn together.

    Returns:
        The PNG: a row of what can be compared over speed-ups, then one for each speed-up.
    """
    policies = list(dict.fromkeys(report.policy for report in reports))
    colors = {name: COLORS[place % len(COLORS)] for place, name in enumerate(policies)}
    speedups = list(dict.fromkeys(report.speedup for report in reports))
    rows = 1 + len(speedups)
    spaced = ConstrainedLayoutEngine(w_pad=0.15, h_pad=0.12)
    figure = Figure(figsize=(13, rows * _INCHES + 1), layout=spaced)
    canvas = FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize="x-large", fontweight="bold")
    figure.supxlabel(about, fontsize="medium")
    grid = figure.add_gridspec(rows, 3)
    _over_speedups(
        [figure.add_subplot(grid[0, column]) for column in range(3)], reports, speedups, colors
    )
    for row, speedup in enumerate(speedups, 1):
        those = [report for report in reports if report.speedup == speedup]
        panels = [figure.add_subplot(grid[row, column]) for column in range(3)]
        _of_speedup(panels, those, colors)
    drawn = BytesIO()
    canvas.print_figure(drawn, format="png", dpi=_DOTS_PER_INCH)
    return drawn.getvalue()


def _over_speedups(
    panels: Sequence[Axes],
    reports: Sequence[ReplayReport],
    speedups: Sequence[float],
    colors: dict[str, str],
) -> None:
    reuse, imbalance, first = panels
    labels = [f"{speedup:g}x" for speedup in speedups]
    for panel, title, unit, values in (
        (reuse, "Cache reuse", "% of prompt tokens", [each.reuse * 100 for each in reports]),
        (imbalance, "Load imbalance", "busiest by mean", [each.imbalance for each in reports]),
        (first, "Time to first token, mean", "ms", [each.ttft_ms.mean for each in reports]),
    ):
        found = {
            (each.policy, each.speedup): value for each, value in zip(reports, values, strict=True)
        }
        heights = {
            name: [found.get((name, speedup), 0.0) for speedup in speedups] for name in colors
        }
        _bars(panel, labels, heights, colors)
        panel.set(title=title, ylabel=unit, xlabel="speed-up")
    # Room for the legend.
    reuse.set(ylim=(0, 1.35 * reuse.get_ylim()[1]))
    reuse.legend(loc="upper center", ncols=3, fontsize="small", frameon=False)
    if max(each.ttft_ms.mean for each in reports) > _FAR * min(
        each.ttft_ms.mean for each in reports
    ):
        first.set(yscale="log", ylabel="ms, logarithmic", ylim=(1, None))
        first.yaxis.set_major_formatter(EngFormatter(sep=""))


def _of_speedup(
    panels: Sequence[Axes], reports: Sequence[ReplayReport], colors: dict[str, str]
) -> None:
    first, later, computed = panels
    speedup = f"at {reports[0].speedup:g}x"
    for report in reports:
        _curve(first, report.policy, report.ttft_ms, colors)
        _curve(later, report.policy, report.tpot_ms, colors)
    first.set(title=f"Time to first token {speedup}")
    later.set(title=f"Time per output token {speedup}")
    for panel in (first, later):
        panel.set(
            xscale="log", xlabel="ms, logarithmic", ylabel="% of requests within", ylim=(0, 102)
        )
        panel.xaxis.set_major_formatter(EngFormatter(sep=""))
        panel.xaxis.set_minor_formatter(NullFormatter())
        panel.grid(alpha=0.3)
    labels = [str(worker) for worker in range(max(report.workers for report in reports))]
    tokens = {report.policy: [float(each) for each in report.computed_tokens] for report in reports}
    _bars(computed, labels, tokens, colors)
    computed.yaxis.set_major_formatter(EngFormatter(sep=""))
    computed.set(title=f"Prompt tokens computed {speedup}", xlabel="worker", ylabel="tokens")


def _curve(panel: Axes, name: str, distribution: Distribution, colors: dict[str, str]) -> None:
    shown = [(value, percent) for percent, value in enumerate(distribution.curve) if value > 0]
    if shown:
        values, percents = zip(*shown, strict=True)
        panel.plot(values, percents, color=colors[name], label=name)


def _bars(
    panel: Axes,
    labels: Sequence[str],
    heights: dict[str, list[float]],
    colors: dict[str, str],
) -> None:
    width = 0.8 / len(heights)
    for rank, (name, values) in enumerate(heights.items()):
        places = [place + (rank + 0.5) * width - 0.4 for place in range(len(values))]
        panel.bar(places, values, width, color=colors[name], label=name)
    every = max(1, len(labels) // 16)
    panel.set_xticks(range(0, len(labels), every), labels[::every])
    panel.grid(axis="y", alpha=0.3)
    panel.set_axisbelow(True)
