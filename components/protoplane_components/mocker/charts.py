"""Line and bar charts as SVG: text, so that nothing has to be installed to draw or to see them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 460, 280
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 12, 34, 44
# Okabe and Ito, "Color Universal Design", 2008: told apart by the colour-blind too.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#999999")


@dataclass(frozen=True, slots=True)
class Series:
    """What is drawn in one colour.

    Attributes:
        name: What the legend and the tips call it.
        points: Places, x and y; of bars only the heights count.
        color: As CSS has it.
    """

    name: str
    points: Sequence[tuple[float, float]]
    color: str


def line_chart(title: str, x_label: str, y_label: str, series: Sequence[Series]) -> str:
    """Lines over a logarithmic x axis, with a y axis from zero; points at x = 0 are left out."""
    shown = [
        (each, [(x, y) for x, y in each.points if x > 0 and math.isfinite(x)]) for each in series
    ]
    places = [x for _, points in shown for x, _ in points] or [1.0]
    low = math.floor(math.log10(min(places)) * 3) / 3
    high = max(math.ceil(math.log10(max(places)) * 3) / 3, low + 1 / 3)
    top = _round_top(max((y for _, points in shown for _, y in points), default=1.0))

    def across(x: float) -> float:
        return _LEFT + (math.log10(x) - low) / (high - low) * (WIDTH - _LEFT - _RIGHT)

    body = [_y_axis(top, y_label)]
    for decade in range(math.floor(low), math.ceil(high) + 1):
        for part in (1, 2, 5):
            tick = part * 10.0**decade
            if low - 1e-9 <= math.log10(tick) <= high + 1e-9:
                label = _number(tick) if part == 1 or high - low < 2 else ""
                body.append(_x_tick(across(tick), label))
    for each, points in shown:
        path = " ".join(f"{across(x):.1f},{_up(y, top):.1f}" for x, y in points)
        body.append(
            f'<polyline points="{path}" fill="none" stroke="{each.color}" stroke-width="2">'
            f"<title>{escape(each.name)}</title></polyline>"
        )
    return _framed(title, x_label, body)


def bar_chart(
    title: str, x_label: str, y_label: str, labels: Sequence[str], series: Sequence[Series]
) -> str:
    """Groups of bars from zero, a group for each label and in it a bar of each series."""
    top = _round_top(max((y for each in series for _, y in each.points), default=1.0))
    body = [_y_axis(top, y_label)]
    group = (WIDTH - _LEFT - _RIGHT) / max(1, len(labels))
    bar = group * 0.8 / max(1, len(series))
    every = max(1, math.ceil(len(labels) * 22 / (WIDTH - _LEFT - _RIGHT)))
    for place, label in enumerate(labels):
        start = _LEFT + group * (place + 0.1)
        if place % every == 0:
            body.append(_x_tick(start + group * 0.4, label, line=False))
        for rank, each in enumerate(series):
            value = each.points[place][1]
            y = _up(value, top)
            body.append(
                f'<rect x="{start + bar * rank:.1f}" y="{y:.1f}" width="{max(bar - 1, 0.5):.1f}" '
                f'height="{HEIGHT - _BOTTOM - y:.1f}" fill="{each.color}">'
                f"<title>{escape(each.name)}, {escape(label)}: {_number(value)}</title></rect>"
            )
    return _framed(title, x_label, body)


def legend(series: Iterable[Series]) -> str:
    """Names and colours, as HTML."""
    return "".join(
        f'<span><i style="background:{each.color}"></i>{escape(each.name)}</span>'
        for each in series
    )


def _up(value: float, top: float) -> float:
    return HEIGHT - _BOTTOM - value / top * (HEIGHT - _BOTTOM - _TOP)


def _round_top(most: float) -> float:
    """The least number from there on whose quarters read well."""
    if most <= 0:
        return 1.0
    scale = 10.0 ** math.floor(math.log10(most))
    return next(
        top * scale for top in (1, 1.2, 1.6, 2, 2.4, 3.2, 4, 6, 8, 10) if top * scale >= most
    )


def _y_axis(top: float, label: str) -> str:
    parts: list[str] = []
    for part in range(5):
        value = top * part / 4
        y = _up(value, top)
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_number(value)}</text>'
        )
    middle = (_TOP + HEIGHT - _BOTTOM) / 2
    parts.append(
        f'<text transform="translate(14 {middle:.0f}) rotate(-90)" text-anchor="middle">'
        f"{escape(label)}</text>"
    )
    return "".join(parts)


def _x_tick(x: float, label: str, *, line: bool = True) -> str:
    mark = (
        f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{HEIGHT - _BOTTOM}"/>'
        if line
        else ""
    )
    return (
        f'{mark}<text x="{x:.1f}" y="{HEIGHT - _BOTTOM + 16}" text-anchor="middle">'
        f"{escape(label)}</text>"
    )


def _framed(title: str, x_label: str, body: Iterable[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(title)}"><text class="title" x="{_LEFT}" y="18">{escape(title)}'
        f"</text>{''.join(body)}"
        f'<text x="{(_LEFT + WIDTH - _RIGHT) / 2:.0f}" y="{HEIGHT - 8}" text-anchor="middle">'
        f"{escape(x_label)}</text></svg>"
    )


def _number(value: float) -> str:
    if value >= 1e6:
        return f"{value / 1e6:.3g}M"
    if value >= 1e3:
        return f"{value / 1e3:.3g}k"
    return f"{value:.3g}"
