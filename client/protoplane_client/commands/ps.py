"""``protoplane ps``."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterable, Sequence
from contextlib import aclosing

import click
from rich.console import Console
from rich.live import Live
from rich.table import Table

from protoplane_client.commands.options import engine_options, instances_of
from protoplane_runtime import terminal
from protoplane_runtime.engines.discovery import Change, Instance, Joined, Left, is_internal
from protoplane_runtime.engines.opening import open_discovery

_EXAMPLE = """
\b
Examples:
  protoplane ps
  protoplane ps forge/captioner --json
  protoplane ps --watch
"""

_Shown = dict[tuple[str, str], Instance]


@click.command(epilog=_EXAMPLE)
@click.argument("path", required=False)
@click.option("--json", "plain", is_flag=True, help="Print lines of JSON also on a terminal.")
@click.option(
    "--watch", is_flag=True, help="Follow who comes and goes, until Ctrl-C; as JSON, a line each."
)
@click.option(
    "--all-namespaces", "-A", "everywhere", is_flag=True, help="Show all namespaces of components."
)
@engine_options
def ps(
    *,
    path: str | None,
    plain: bool,
    watch: bool,
    everywhere: bool,
    engine: str,
    namespace: str,
) -> None:
    """Show the instances that discovery knows, or those of PATH.

    PATH is a component, a collection of them, or an instance.
    """
    where = None if everywhere else namespace
    if watch:
        terminal.run(_watch(path, engine, where, plain=plain or not terminal.is_terminal()))
        return
    found = terminal.run(instances_of(path, engine, where))
    if everywhere:
        found = [each for each in found if not is_internal(each.namespace)]
    if plain:
        for instance in found:
            click.echo(instance.to_json())
    elif found:
        Console().print(_table(found))
    else:
        click.echo(f"nobody serves {path}" if path else "no component runs here")


async def _watch(path: str | None, engine: str, namespace: str | None, *, plain: bool) -> None:
    discovery = await open_discovery(engine)
    try:
        async with aclosing(discovery.watch(path, namespace=namespace)) as batches:
            if plain:
                async for changes in batches:
                    for change in changes:
                        if namespace is not None or not is_internal(change.instance.namespace):
                            click.echo(_line(change))
                return
            shown: _Shown = {}
            with Live(_table(()), console=Console(), auto_refresh=False) as live:
                aging = asyncio.create_task(_age(live, shown))
                try:
                    async for changes in batches:
                        _apply(changes, shown, internal=namespace is not None)
                        live.update(_table(shown.values()), refresh=True)
                finally:
                    aging.cancel()
                    await asyncio.wait([aging])
    finally:
        await discovery.close()


async def _age(live: Live, shown: _Shown) -> None:
    """Keep the times on the screen true."""
    while True:
        await asyncio.sleep(1)
        live.update(_table(shown.values()), refresh=True)


def _apply(changes: Sequence[Change], shown: _Shown, *, internal: bool) -> None:
    for change in changes:
        instance = change.instance
        if is_internal(instance.namespace) and not internal:
            continue
        if isinstance(change, Left):
            shown.pop((instance.namespace, instance.name), None)
        else:
            shown[instance.namespace, instance.name] = instance


def _line(change: Change) -> str:
    kind = (
        "joined"
        if isinstance(change, Joined)
        else "left"
        if isinstance(change, Left)
        else "changed"
    )
    return json.dumps({"change": kind, "instance": json.loads(change.instance.to_json())})


def _table(instances: Iterable[Instance]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("INSTANCE", "HOST", "PID", "LOAD", "ENDPOINTS", "UP"):
        # On a narrow terminal addresses are folded; names are there to be copied.
        table.add_column(heading, no_wrap=heading != "ENDPOINTS", overflow="fold")
    for instance in sorted(instances, key=lambda each: (each.namespace, each.name)):
        table.add_row(
            instance.name,
            instance.host or "-",
            str(instance.pid or "-"),
            f"{instance.load:.2f}",
            "\n".join(instance.endpoints) or "-",
            _duration(time.time() - instance.started_s) if instance.started_s else "-",
        )
    return table


def _duration(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds / size:.0f}{unit}"
    return f"{max(0, seconds):.0f}s"
