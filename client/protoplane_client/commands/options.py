"""Options that several commands take."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from protoplane_client.tls import Tls
from protoplane_runtime.engines.discovery import DEFAULT_NAMESPACE, Instance
from protoplane_runtime.engines.opening import DEFAULT_URL, VARIABLE, open_discovery

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


def engine_options(command: _F) -> _F:
    """Add what says where names are looked up."""
    command = click.option(
        "--namespace", default=DEFAULT_NAMESPACE, show_default=True, help="Where names are found."
    )(command)
    return click.option(
        "--engine",
        envvar=VARIABLE,
        default=DEFAULT_URL,
        show_default=True,
        show_envvar=True,
        metavar="URL",
        help="Where names are looked up.",
    )(command)


async def instances_of(path: str | None, engine: str, namespace: str | None) -> Sequence[Instance]:
    """Who is there now."""
    discovery = await open_discovery(engine)
    try:
        return await discovery.instances(path, namespace=namespace)
    finally:
        await discovery.close()


def tls_of(ca: Path | None, cert: Path | None, key: Path | None) -> Tls | None:
    """The TLS settings that the options say; ``None`` where they say none."""
    return None if ca is cert is key is None else Tls(ca=ca, cert=cert, key=key)


def token_options(command: _F) -> _F:
    """Add what says which bearer token to show; the token itself is never an argument."""
    path = click.Path(path_type=Path)
    command = click.option(
        "--token-file", type=path, help="File that begins with the bearer token to show."
    )(command)
    return click.option(
        "--token-env", metavar="NAME", help="Environment variable that holds the bearer token."
    )(command)


def token_of(variable: str | None, file: Path | None) -> str | None:
    """The token that the options say; ``None`` where they say none.

    Raises:
        click.UsageError: They say two.
        click.BadParameter: There is none where they say.
    """
    if variable is not None and file is not None:
        raise click.UsageError("--token-env and --token-file name one token each; give one of them")
    if variable is not None:
        token = os.environ.get(variable, "").strip()
        if not token:
            raise click.BadParameter(f"{variable} is not set", param_hint="--token-env")
        return token
    if file is None:
        return None
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise click.BadParameter(f"{file}: {error.strerror}", param_hint="--token-file") from error
    # So that a file of a server's tokens does, too: a token, then whose it is.
    words = [line.split() for line in lines if line.strip() and not line.startswith("#")]
    if not words:
        raise click.BadParameter(f"{file} holds no token", param_hint="--token-file")
    return words[0][0]
