"""``protoplane ps``."""

from __future__ import annotations

import json
import time
from dataclasses import asdict

import click
from rich.console import Console
from rich.live import Live
from rich.table import Table

from protoplane_runtime import terminal
from protoplane_runtime.instances import Instance, running

_EXAMPLE = """
\b
Examples:
  protoplane ps
  protoplane ps --json
"""


@click.command(epilog=_EXAMPLE)
@click.option("--json", "plain", is_flag=True, help="Print a line of JSON for each instance.")
@click.option("--watch", is_flag=True, help="Show it anew each second, until Ctrl-C.")
def ps(*, plain: bool, watch: bool) -> None:
    """Show the components that run on this machine for this user."""
    with terminal.errors():
        if not watch:
            _show(running(), plain=plain)
        elif plain or not terminal.is_terminal():
            _follow(plain=plain)
        else:
            with Live(_table(running()), console=Console(), refresh_per_second=2) as live:
                while True:
                    time.sleep(1)
                    live.update(_table(running()))


def _follow(*, plain: bool) -> None:
    while True:
        _show(running(), plain=plain)
        time.sleep(1)


def _show(instances: list[Instance], *, plain: bool) -> None:
    if plain:
        for instance in instances:
            click.echo(json.dumps(asdict(instance)))
    elif instances:
        Console().print(_table(instances))
    else:
        click.echo("no component runs here")


def _table(instances: list[Instance]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("INSTANCE", "PID", "GRPC", "HTTP", "UP"):
        table.add_column(heading, no_wrap=True)
    for instance in instances:
        table.add_row(
            instance.name,
            str(instance.pid),
            instance.endpoints.get("grpc", "-"),
            instance.endpoints.get("http", "-"),
            _duration(time.time() - instance.started_s),
        )
    return table


def _duration(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds / size:.0f}{unit}"
    return f"{max(0, seconds):.0f}s"
