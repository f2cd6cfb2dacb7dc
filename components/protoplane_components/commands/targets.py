"""What commands that ask a component have in common: the options that say which, and who asks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import update_wrapper
from pathlib import Path
from typing import Any

import click

from protoplane_client import Plane, Tls, connect
from protoplane_client.commands.options import (
    engine_options,
    tls_of,
    tls_options,
    token_of,
    token_options,
)


@dataclass(frozen=True, slots=True)
class Target:
    """A component, as the options of a command say it.

    Attributes:
        name: A name that discovery knows, or an address.
        engine: Where names are looked up.
        namespace: Where they are found there.
        token: The bearer token to show.
        tls: Whom to trust and who one is.
    """

    name: str
    engine: str
    namespace: str
    token: str | None = field(repr=False)
    tls: Tls | None

    def connect(self) -> Plane:
        """The plane of the component; enter it to use it."""
        return connect(
            self.name,
            tls=self.tls,
            token=self.token,
            engine=self.engine,
            namespace=self.namespace,
        )


def targeted(
    flag: str, default: str, text: str, *, variable: str | None = None
) -> Callable[[Callable[..., Any]], Callable[..., None]]:
    """Add the options; the command is given a `Target` as ``target``.

    Args:
        flag: The option that names the component.
        default: Its name where that option is not given.
        text: What that option says of itself.
        variable: Environment variable that names the component too.
    """

    def decorate(command: Callable[..., Any]) -> Callable[..., None]:
        def wrapped(
            *,
            named: str,
            engine: str,
            namespace: str,
            token_env: str | None,
            token_file: Path | None,
            tls_ca: Path | None,
            tls_cert: Path | None,
            tls_key: Path | None,
            **others: Any,
        ) -> None:
            token = token_of(token_env, token_file)
            tls = tls_of(tls_ca, tls_cert, tls_key)
            command(target=Target(named, engine, namespace, token, tls), **others)

        update_wrapper(wrapped, command)
        for options in (tls_options, token_options, engine_options):
            wrapped = options(wrapped)
        named = click.option(
            flag,
            "named",
            envvar=variable,
            default=default,
            show_default=True,
            show_envvar=variable is not None,
            metavar="TARGET",
            help=text,
        )
        return named(wrapped)

    return decorate
