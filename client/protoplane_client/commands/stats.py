"""``protoplane stats``."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click
from rich.console import Console
from rich.live import Live
from rich.table import Table

from protoplane.v1 import InstanceStats
from protoplane_base import Code, PlaneError
from protoplane_client.commands.options import (
    engine_options,
    tls_of,
    tls_options,
    token_of,
    token_options,
)
from protoplane_client.discovering import ways
from protoplane_client.plane import Plane, connect
from protoplane_client.stats import CollectedStats
from protoplane_runtime import terminal
from protoplane_runtime.engines.discovery import Discovery, Instance
from protoplane_runtime.engines.opening import open_discovery

_EXAMPLE = """
\b
Examples:
  protoplane stats
  protoplane stats forge/captioner --json
  protoplane stats forge --watch
"""


@click.command(epilog=_EXAMPLE)
@click.argument("path", required=False)
@click.option(
    "--json",
    "plain",
    is_flag=True,
    help="Print a line of JSON for each instance, on a terminal too.",
)
@click.option("--watch", is_flag=True, help="Ask again and again, until Ctrl-C.")
@click.option(
    "--every",
    "interval_s",
    type=click.FloatRange(min=0.1),
    default=2.0,
    show_default=True,
    help="Seconds between two times, with --watch.",
)
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0.01),
    default=2.0,
    show_default=True,
    help="Seconds that an instance has to answer.",
)
@engine_options
@token_options
@tls_options
def stats(
    *,
    path: str | None,
    plain: bool,
    watch: bool,
    interval_s: float,
    timeout_s: float,
    engine: str,
    namespace: str,
    token_env: str | None,
    token_file: Path | None,
    tls_ca: Path | None,
    tls_cert: Path | None,
    tls_key: Path | None,
) -> None:
    """Show how all instances do, or those of PATH.

    PATH is a component, a collection of them, or an instance. Who does not answer is shown too.
    """
    reach = partial(
        connect, tls=tls_of(tls_ca, tls_cert, tls_key), token=token_of(token_env, token_file)
    )
    asked = _Asked(path, namespace, reach, timeout_s)
    plain = plain or not terminal.is_terminal()
    terminal.run(_show(engine, asked, interval_s if watch else None, plain=plain))


@dataclass(frozen=True, slots=True)
class _Asked:
    """Whom to ask, and how.

    Attributes:
        path: The collection; everybody where absent.
        namespace: Where it is.
        reach: Connects to instances at addresses.
        timeout_s: Seconds that each has to answer.
    """

    path: str | None
    namespace: str
    reach: Callable[[dict[str, str]], Plane]
    timeout_s: float


async def _show(engine: str, asked: _Asked, interval_s: float | None, *, plain: bool) -> None:
    discovery = await open_discovery(engine)
    try:
        ask = partial(_collect, discovery, asked)
        if plain:
            while True:
                found = await ask()
                for line in _lines(found):
                    click.echo(line)
                if interval_s is None:
                    break
                await asyncio.sleep(interval_s)
        elif interval_s is None:
            found = await ask()
            if found.stats or found.missing:
                Console().print(_table(found))
            else:
                click.echo(
                    f"nobody serves {asked.path}" if asked.path else "no component runs here"
                )
        else:
            with Live(_table(await ask()), console=Console(), auto_refresh=False) as live:
                while True:
                    live.refresh()
                    await asyncio.sleep(interval_s)
                    live.update(_table(await ask()))
    finally:
        await discovery.close()


async def _collect(discovery: Discovery, asked: _Asked) -> CollectedStats:
    there = await discovery.instances(asked.path, namespace=asked.namespace)
    addresses = dict(_reachable(there))
    stats: dict[str, InstanceStats] = {}
    missing = {
        each.name: PlaneError(Code.UNAVAILABLE, "no address of it can be used from here")
        for each in there
        if each.name not in addresses
    }
    if addresses:
        async with asked.reach(addresses) as plane:
            found = await plane.collect_stats(timeout_s=asked.timeout_s)
        stats |= found.stats
        missing |= found.missing
    return CollectedStats(stats, missing)


def _reachable(instances: Sequence[Instance]) -> Iterator[tuple[str, str]]:
    for instance in instances:
        way = next(iter(ways(instance)), None)
        if way is not None:
            yield instance.name, way.given


def _lines(found: CollectedStats) -> Iterator[str]:
    for stats in found.stats.values():
        yield stats.model_dump_json()
    for name, error in found.missing.items():
        yield json.dumps({"instance": name, "error": str(error)})


def _table(found: CollectedStats) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in (
        "INSTANCE",
        "LOAD",
        "CPU",
        "MEMORY",
        "OPEN",
        "QUEUED",
        "CALLS",
        "ERRORS",
        "P99",
    ):
        right = heading != "INSTANCE"
        table.add_column(heading, no_wrap=True, justify="right" if right else "left")
    for name, stats in found.stats.items():
        ended = sum(sum(method.ended.values()) for method in stats.methods)
        good = sum(method.ended.get("OK", 0) for method in stats.methods)
        slowest = max((method.p99_s for method in stats.methods), default=0.0)
        table.add_row(
            name,
            f"{stats.load:.2f}",
            f"{stats.cpu:.2f}",
            f"{stats.resident_bytes / 1e6:.0f} MB",
            str(stats.in_flight),
            str(stats.queued),
            str(ended),
            str(ended - good),
            f"{slowest * 1000:.1f} ms",
        )
    for name, error in found.missing.items():
        table.add_row(name, f"[red]{error.code.name}[/red]")
    return table
