"""``protoplane publish``."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import click

from protoplane_client.commands.options import (
    DEFAULT_HTTP,
    engine_options,
    tls_of,
    tls_options,
    token_of,
    token_options,
)
from protoplane_client.commands.values import read_values
from protoplane_client.plane import connect
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
@click.option(
    "--at",
    "target",
    default=DEFAULT_HTTP,
    show_default=True,
    help="HTTP door to use, or the name of a component.",
)
@click.option(
    "--publisher",
    metavar="NAME",
    help="Who publishes; with --number, a durable event is not appended twice.",
)
@click.option(
    "--number",
    type=click.IntRange(0, (1 << 63) - 1),
    metavar="N",
    help="Number of the publication, different for each of the publisher's.",
)
@click.option("--json", "plain", is_flag=True, help="Print one line of JSON for machines.")
@engine_options
@token_options
@tls_options
def publish(
    *,
    key: str,
    value: str,
    type_: str,
    target: str,
    publisher: str | None,
    number: int | None,
    plain: bool,
    engine: str,
    namespace: str,
    token_env: str | None,
    token_file: Path | None,
    tls_ca: Path | None,
    tls_cert: Path | None,
    tls_key: Path | None,
) -> None:
    """Publish an event under KEY and print its id.

    JSON is the message as ProtoJSON, @file or - for stdin.
    """
    if (publisher is None) != (number is None):
        raise click.UsageError("--publisher and --number go together; give both or neither")
    values = read_values([value])
    if len(values) != 1:
        raise click.UsageError(f"an event is one JSON value, and {len(values)} were given")
    tls = tls_of(tls_ca, tls_cert, tls_key)
    token = token_of(token_env, token_file)
    plane = partial(connect, target, tls=tls, token=token, engine=engine, namespace=namespace)

    async def published() -> str:
        async with plane() as door:
            id_ = await door.publish_json(key, type_, values[0], publisher=publisher, number=number)
            return str(id_)

    id_ = terminal.run(published())
    click.echo(json.dumps({"id": id_, "key": key, "type": type_}) if plain else id_)
