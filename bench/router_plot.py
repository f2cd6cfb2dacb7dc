"""The growth of the index as a page with one picture, drawn by hand: no library for four lines."""

from __future__ import annotations

from collections.abc import Sequence
from math import log10
from pathlib import Path
from typing import Protocol

_WIDTH, _HEIGHT, _MARGIN = 360, 220, 46


class Grown(Protocol):
    """Figures at one size."""

    @property
    def workers(self) -> int:
        """How many workers there are."""
        ...

    @property
    def blocks(self) -> int:
        """How many blocks they have."""
        ...


_FIGURES = {
    "memory_mib": "index memory, MiB",
    "events": "events of 128 blocks, /s",
    "finds": "finds of 128 blocks, /s",
    "selects": "selects, /s",
}


def plot(file: Path, sizes: Sequence[Grown]) -> None:
    """Write the page: a chart for each figure, over the number of blocks, both logarithmic."""
    charts = "\n".join(_chart(name, title, sizes) for name, title in _FIGURES.items())
    file.write_text(
        "<!doctype html><meta charset=utf-8><title>The index as it grows</title>\n"
        f"<body style='font: 13px sans-serif'>\n{charts}\n",
        encoding="utf-8",
    )


def _chart(name: str, title: str, sizes: Sequence[Grown]) -> str:
    across = [log10(size.blocks) for size in sizes]
    up = [log10(max(getattr(size, name), 1e-3)) for size in sizes]
    points: list[str] = []
    labels: list[str] = []
    for size, x, y in zip(sizes, across, up, strict=True):
        left = _MARGIN + _share(x, across) * (_WIDTH - 2 * _MARGIN)
        top = _HEIGHT - _MARGIN - _share(y, up) * (_HEIGHT - 2 * _MARGIN)
        points.append(f"{left:.0f},{top:.0f}")
        labels.append(
            f"<circle cx='{left:.0f}' cy='{top:.0f}' r='3'/>"
            f"<text x='{left:.0f}' y='{top - 8:.0f}' text-anchor='middle'>"
            f"{getattr(size, name):,.0f}</text>"
            f"<text x='{left:.0f}' y='{_HEIGHT - 14}' text-anchor='middle' font-size='9'>"
            f"{size.workers} × {size.blocks:,}</text>"
        )
    return (
        f"<svg width='{_WIDTH}' height='{_HEIGHT}'><text x='8' y='16'>{title}</text>"
        f"<polyline points='{' '.join(points)}' fill='none' stroke='steelblue'/>"
        f"{''.join(labels)}</svg>"
    )


def _share(value: float, among: Sequence[float]) -> float:
    low, high = min(among), max(among)
    return (value - low) / (high - low) if high > low else 0.5
