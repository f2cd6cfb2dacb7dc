"""A page of charts for the reports of a replay: one HTML file that needs no network."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from protoplane_components.mocker.charts import COLORS, Series, bar_chart, legend, line_chart
from protoplane_components.mocker.report import Distribution, ReplayReport

_STYLE = """
:root { color-scheme: light dark; }
body { font: 14px/1.5 system-ui, sans-serif; max-width: 980px; margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.4em; } h2 { font-size: 1.1em; margin-top: 2em; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(380px, 1fr)); gap: 1em; }
svg { width: 100%; font-size: 11px; } svg text { fill: currentColor; }
svg .title { font-weight: 600; font-size: 13px; } svg .grid { stroke: currentColor; opacity: .15; }
.legend span { margin-right: 1.5em; }
.legend i { display: inline-block; width: .8em; height: .8em; margin-right: .4em; }
"""


def replay_page(title: str, about: str, reports: Sequence[ReplayReport]) -> str:
    """Draw how long first tokens and tokens took, what was reused, and who computed how much.

    Args:
        title: Heading of the page.
        about: A line below it.
        reports: At least one; those of one speed-up are drawn together.

    Returns:
        The HTML.
    """
    policies = list(dict.fromkeys(report.policy for report in reports))
    colors = {name: COLORS[place % len(COLORS)] for place, name in enumerate(policies)}
    speedups = list(dict.fromkeys(report.speedup for report in reports))
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>",
        f"<title>{escape(title)}</title><style>{_STYLE}</style>",
        f"<h1>{escape(title)}</h1><p>{escape(about)}</p>",
        f"<p class=legend>{legend(Series(name, (), color) for name, color in colors.items())}</p>",
        f"<div class=charts>{_over_speedups(reports, policies, speedups, colors)}</div>",
    ]
    for speedup in speedups:
        those = [report for report in reports if report.speedup == speedup]
        parts.append(
            f"<h2>Speed-up {speedup:g}</h2><div class=charts>{_of_speedup(those, colors)}</div>"
        )
    return "".join(parts)


def _over_speedups(
    reports: Sequence[ReplayReport],
    policies: Sequence[str],
    speedups: Sequence[float],
    colors: dict[str, str],
) -> str:
    labels = [f"{speedup:g}x" for speedup in speedups]
    found = {(report.policy, report.speedup): report for report in reports}

    def chart(title: str, label: str, values: dict[tuple[str, float], float]) -> str:
        series = [
            Series(
                name,
                [(speedup, values.get((name, speedup), 0.0)) for speedup in speedups],
                colors[name],
            )
            for name in policies
        ]
        return bar_chart(title, "speed-up", label, labels, series)

    return chart(
        "Cache reuse", "% of prompt tokens", {key: each.reuse * 100 for key, each in found.items()}
    ) + chart("Load imbalance", "busiest by mean", {k: each.imbalance for k, each in found.items()})


def _of_speedup(reports: Sequence[ReplayReport], colors: dict[str, str]) -> str:
    def shares(title: str, values: Sequence[tuple[str, Distribution]]) -> str:
        series = [
            Series(
                name,
                [(value, percent) for percent, value in enumerate(distribution.curve)],
                colors[name],
            )
            for name, distribution in values
        ]
        return line_chart(title, "ms, logarithmic", "% of requests within", series)

    workers = max(report.workers for report in reports)
    computed = [
        Series(
            report.policy,
            [(place, float(tokens)) for place, tokens in enumerate(report.computed_tokens)],
            colors[report.policy],
        )
        for report in reports
    ]
    labels = [str(worker) for worker in range(workers)]
    return (
        shares("Time to first token", [(each.policy, each.ttft_ms) for each in reports])
        + shares("Time per output token", [(each.policy, each.tpot_ms) for each in reports])
        + bar_chart("Prompt tokens computed", "worker", "tokens", labels, computed)
    )
