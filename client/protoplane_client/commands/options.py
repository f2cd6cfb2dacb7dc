"""Options that several commands take."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from protoplane_client.tls import Tls

_F = TypeVar("_F", bound=Callable[..., Any])

DEFAULT_HTTP = "http://127.0.0.1:8080"


def metadata_of(pairs: tuple[str, ...]) -> dict[str, str | bytes]:
    """Read ``NAME=VALUE`` pairs.

    Raises:
        click.BadParameter: One has another form.
    """
    metadata: dict[str, str | bytes] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"{pair!r} is not NAME=VALUE", param_hint="--metadata")
        metadata[name.lower()] = value.encode() if name.lower().endswith("-bin") else value
    return metadata


def tls_options(command: _F) -> _F:
    """Add what says whom to trust and who one is."""
    path = click.Path(path_type=Path)
    for name, text in (
        ("--tls-key", "PEM file of the private key of --tls-cert."),
        ("--tls-cert", "PEM file of a certificate to show the server (mutual TLS)."),
        ("--tls-ca", "PEM file of the authorities to trust instead of the system's."),
    ):
        command = click.option(name, type=path, help=text)(command)
    return command


def tls_of(ca: Path | None, cert: Path | None, key: Path | None) -> Tls | None:
    """The TLS settings that the options say; ``None`` where they say none."""
    return None if ca is cert is key is None else Tls(ca=ca, cert=cert, key=key)
