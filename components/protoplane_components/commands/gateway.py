"""``protoplane gateway``."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path

import click

from protoplane_base import Code, PlaneError
from protoplane_components.gateway.keys import KeyRing, new_key, read_keys
from protoplane_runtime import terminal
from protoplane_runtime.examples import ExampleGroup

_EXAMPLES = (
    "protoplane gateway key alice --file keys.toml",
    "protoplane gateway key bob --file keys.toml --model 'llama-*' --requests 60/minute",
    "PROTOPLANE_GATEWAY_KEY_FILE=keys.toml protoplane serve protoplane_components.gateway",
)


@click.group(cls=ExampleGroup, examples=_EXAMPLES)
def gateway() -> None:
    """Make keys for a gateway."""


@gateway.command(name="key")
@click.argument("name")
@click.option(
    "--file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File of keys to add it to; without it, print what to add.",
)
@click.option("--model", "models", multiple=True, help="A model that it is good for; all else.")
@click.option("--requests", help="Most requests, 60/minute for example.")
@click.option("--tokens", help="Most tokens, 100000/hour for example.")
@click.option("--concurrent", type=click.IntRange(min=0), help="Most requests at a time.")
@click.option(
    "--expires", type=click.DateTime(("%Y-%m-%d", "%Y-%m-%dT%H:%M:%S")), help="Until when, in UTC."
)
def key(
    *,
    name: str,
    file: Path | None,
    models: tuple[str, ...],
    requests: str | None,
    tokens: str | None,
    concurrent: int | None,
    expires: datetime | None,
) -> None:
    """Make a key for NAME and print it: the only time that it can be seen.

    The file gets its SHA-256. A gateway that runs reads the file again by itself.
    """
    with terminal.errors():
        made, digest = new_key()
        fields: dict[str, object] = {"name": name, "sha256": digest}
        if models:
            fields["models"] = [*models]
        limits = {"requests": requests, "tokens": tokens, "concurrent": concurrent}
        fields.update({limit: value for limit, value in limits.items() if value is not None})
        lines = ["[[keys]]", *(f"{field} = {json.dumps(value)}" for field, value in fields.items())]
        if expires is not None:
            lines.append(f"expires = {expires.replace(tzinfo=UTC).isoformat()}")
        entry = "\n".join([*lines, ""])
        before = _read(file)
        place = str(file or "the key")
        # What does not do as a whole is not written.
        KeyRing(read_keys(f"{before}{entry}", place))
        if file is None:
            click.echo(entry, err=True)
        else:
            _append(file, f"\n{entry}" if before else entry)
        click.echo(made)


def _read(file: Path | None) -> str:
    if file is None:
        return ""
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except UnicodeDecodeError as error:
        raise PlaneError(Code.INVALID_ARGUMENT, f"{file} is no text: {error}") from None
    return text if text.endswith("\n") or not text else f"{text}\n"


def _append(file: Path, text: str) -> None:
    # Nobody else needs to know who has keys.
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    with os.fdopen(descriptor, "a", encoding="utf-8") as opened:
        if opened.tell() and not file.read_text(encoding="utf-8").endswith("\n"):
            opened.write("\n")
        opened.write(text)
