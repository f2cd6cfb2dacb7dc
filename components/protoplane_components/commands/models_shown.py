"""How ``protoplane models`` shows what it finds to people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from protoplane.inference.v1 import ModelState
from protoplane.registry.v1 import Model, Placement, WatchResponse


def models_table(models: Sequence[Model], placed: Sequence[Placement]) -> Table:
    """Models, a line each."""
    loaded = Counter(each.model for each in placed if each.state == ModelState.MODEL_STATE_LOADED)
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("MODEL", "LATEST", "FORMAT", "ALIASES", "TAGS"):
        table.add_column(heading, overflow="fold")
    for heading in ("SIZE", "VERSIONS", "LOADED"):
        table.add_column(heading, justify="right", no_wrap=True)
    for model in models:
        latest = model.latest
        table.add_row(
            model.name,
            "-" if latest is None else latest.version,
            (latest and latest.format) or "-",
            ", ".join(f"{alias}={version}" for alias, version in sorted(model.aliases.items()))
            or "-",
            ", ".join(f"{name}={value}" for name, value in sorted(latest.tags.items())) or "-"
            if latest
            else "-",
            "-" if latest is None else decimal(latest.size),
            str(model.version_count),
            str(loaded[model.name]),
        )
    return table


def change_line(change: WatchResponse) -> Text:
    """What changed, on one line."""
    if change.model is not None:
        model = change.model
        aliases = " ".join(
            f"@{alias}={version}" for alias, version in sorted(model.aliases.items())
        )
        versions = ", ".join(version.version for version in model.versions[:5])
        return Text.assemble(
            ("● ", "cyan"), (model.name, "bold"), f" {versions} ", (aliases, "dim")
        )
    if change.placed is not None:
        placed = change.placed
        state = ModelState(placed.state).name.removeprefix("MODEL_STATE_").lower()
        reason = f": {placed.reason}" if placed.reason else ""
        return Text.assemble(
            ("▲ ", "green"), (placed.model, "bold"), f" {state} at {placed.instance}{reason}"
        )
    if change.gone is not None:
        return Text.assemble(
            ("▽ ", "yellow"), (change.gone.model, "bold"), f" gone from {change.gone.instance}"
        )
    return Text.assemble(("○ ", "red"), (change.removed or "", "bold"), " deleted")
