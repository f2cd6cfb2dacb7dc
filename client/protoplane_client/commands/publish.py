"""``protoplane publish``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from protoplane_client.commands.options import DEFAULT_HTTP, tls_of, tls_options
from protoplane_client.commands.values import read_values
from protoplane_client.plane import connect
from protoplane_client.tls import Tls
from protoplane_runtime import terminal

_EXAMPLE = """
\b
Example:
  protoplane publish forge/captions/42 '{"requestId": "42", "words": 7}' \\
      --type forge.captioner.v1.CaptionFinished
"""


@click.command(epilog=_EXAMPLE)
@click.argument("key")
@click.argument("value", metavar="JSON")
@click.option("--type", "type_", required=True, metavar="NAME", help="Full name of the message.")
@click.option("--at", "url", default=DEFAULT_HTTP, show_default=True, help="HTTP door to use.")
@click.option("--json", "plain", is_flag=True, help="Print one line of JSON for machines.")
@tls_options
def publish(
    *,
    key: str,
    value: str,
    type_: str,
    url: str,
    plain: bool,
    tls_ca: Path | None,
    tls_cert: Path | None,
    tls_key: Path | None,
) -> None:
    """Publish an event under KEY and print its id.

    JSON is the message as ProtoJSON, @file or - for stdin.
    """
    values = read_values([value])
    if len(values) != 1:
        raise click.UsageError(f"an event is one JSON value, and {len(values)} were given")
    tls = tls_of(tls_ca, tls_cert, tls_key)
    id_ = terminal.run(_publish(url, key, type_, values[0], tls))
    click.echo(json.dumps({"id": id_, "key": key, "type": type_}) if plain else id_)


async def _publish(url: str, key: str, type_: str, value: str, tls: Tls | None) -> str:
    async with connect(url, tls=tls) as plane:
        return str(await plane.publish_json(key, type_, value))
