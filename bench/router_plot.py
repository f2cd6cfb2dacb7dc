"""The growth of the index as a page of charts, as SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from protoplane_components.mocker.charts import COLORS, Series, legend, line_chart

Points = Sequence[tuple[float, float]]


def plot(file: Path, charts: Mapping[tuple[str, str, str], Mapping[str, Points]]) -> None:
    """Write the page.

    Args:
        file: Where to.
        charts: Lines by name, for each title with the labels of its axes; the one across is
            logarithmic.
    """
    parts: list[str] = []
    for (title, across, up), lines in charts.items():
        series = [
            Series(name, points, color)
            for (name, points), color in zip(lines.items(), COLORS, strict=False)
        ]
        names = f"<p>{legend(series)}</p>" if len(series) > 1 else ""
        parts.append(f"<figure>{line_chart(title, across, up, series)}{names}</figure>")
    file.write_text(
        "<!doctype html><meta charset=utf-8><title>The index as it grows</title><style>"
        "body{font:13px sans-serif;display:flex;flex-wrap:wrap}figure{width:480px;margin:8px}"
        "svg{font:11px sans-serif}.grid{stroke:#ddd}.title{font-weight:bold}"
        "i{display:inline-block;width:10px;height:10px;margin:0 4px 0 12px}</style>"
        f"<body>{''.join(parts)}\n",
        encoding="utf-8",
    )
