"""``protoplane listen``."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Any, cast

import click
from rich.console import Console
from rich.text import Text

from protoplane_client.commands.options import (
    DEFAULT_HTTP,
    engine_options,
    tls_of,
    tls_options,
    token_of,
    token_options,
)
from protoplane_client.commands.places import Place
from protoplane_client.plane import Plane, connect
from protoplane_client.subscription import Received, Reconnect
from protoplane_runtime import terminal
from protoplane_runtime.engines.interface import EventId, Gap, Since, Start

_EXAMPLE = """
\b
Examples:
  protoplane listen 'forge/captions/*'
  protoplane listen '**' --at http://127.0.0.1:8080 --after earliest --json
  protoplane listen 'forge/**' --at forge/captioner
"""


@click.command(epilog=_EXAMPLE)
@click.argument("key_expression")
@click.option(
    "--at",
    "target",
    default=DEFAULT_HTTP,
    show_default=True,
    help="HTTP door to ask, or the name of a component.",
)
@click.option(
    "--after",
    type=Place(),
    help="Continue behind this event, or with those of a time (2026-11-20T17:30) or age (2h); "
    "'earliest' for all.",
)
@click.option("--count", type=click.IntRange(min=1), help="Exit after so many events.")
@click.option("--json", "plain", is_flag=True, help="Print JSON lines also on a terminal.")
@engine_options
@token_options
@tls_options
def listen(
    *,
    key_expression: str,
    target: str,
    after: EventId | Start | Since | None,
    count: int | None,
    plain: bool,
    engine: str,
    namespace: str,
    token_env: str | None,
    token_file: Path | None,
    tls_ca: Path | None,
    tls_cert: Path | None,
    tls_key: Path | None,
) -> None:
    """Print the events that KEY_EXPRESSION matches, until Ctrl-C.

    A key is a path; * stands for one segment and ** for any number. A lost connection is taken up
    again where it broke off.
    """
    tls = tls_of(tls_ca, tls_cert, tls_key)
    token = token_of(token_env, token_file)
    plane = partial(connect, target, tls=tls, token=token, engine=engine, namespace=namespace)
    terminal.run(_listen(plane, key_expression, after=after, count=count, plain=plain))


async def _listen(
    connected: Callable[[], Plane],
    key_expression: str,
    *,
    after: EventId | Start | Since | None,
    count: int | None,
    plain: bool,
) -> None:
    async with connected() as plane:
        events = plane.subscribe(key_expression, after=after, on_reconnect=_lost)
        async with aclosing(cast("Any", events)) as stream:
            seen = 0
            async for event in stream:
                _show(event, plain)
                seen += 1
                if seen == count:
                    return


def _lost(word: Reconnect) -> None:
    line = f"{word.reason}; trying again in {word.delay_s:.1f} s"
    Console(stderr=True).print(Text(line, "yellow"), soft_wrap=True)


def _show(event: Received | Gap, plain: bool) -> None:
    if isinstance(event, Gap):
        gap = {
            "gap": {
                "asked": str(event.asked),
                "oldest": None if event.oldest is None else str(event.oldest),
                "next": str(event.next),
            }
        }
        if plain or not terminal.is_terminal():
            click.echo(json.dumps(gap))
        else:
            Console().print(
                Text(f"events after {event.asked} are gone; on with {event.next}", "bold yellow")
            )
        return
    if plain or not terminal.is_terminal():
        head = json.dumps({"id": event.id, "key": event.key, "type": event.type})
        click.echo(f'{head[:-1]}, "message": {event.json}}}')
        return
    prefix = Text.assemble(
        (f"{event.id}  ", "dim"),
        (event.key, "bold cyan"),
        (f"  {event.type.rpartition('.')[2]}  ", "green"),
    )
    terminal.print_json(event.json, plain=False, prefix=prefix)
