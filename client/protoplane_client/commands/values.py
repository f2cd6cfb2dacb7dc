"""JSON values as the command line gives them: an argument, ``@file``, or ``-`` for stdin."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import click


def split_json(text: str) -> Iterator[str]:
    """Each JSON value of a text that holds any number of them, one after another.

    Raises:
        ValueError: What follows is not JSON.
    """
    decoder = json.JSONDecoder()
    rest = text.strip()
    while rest:
        _, end = decoder.raw_decode(rest)
        yield rest[:end]
        rest = rest[end:].lstrip()


def read_values(arguments: Sequence[str]) -> list[str]:
    """All values of all arguments.

    Raises:
        click.BadParameter: One is not JSON, or a file cannot be read.
    """
    values: list[str] = []
    for argument in arguments:
        try:
            values.extend(split_json(_text(argument)))
        except ValueError as error:
            raise click.BadParameter(
                f"{argument[:60]!r} is not JSON: {error}", param_hint="JSON"
            ) from error
        except OSError as error:
            raise click.BadParameter(
                f"{argument[1:]}: {error.strerror}", param_hint="JSON"
            ) from error
    return values


async def live_values() -> AsyncIterator[str]:
    """The values of stdin, each as soon as its last line is there.

    Raises:
        click.BadParameter: What stdin holds at its end is not JSON.
    """
    pending = ""
    while line := await asyncio.to_thread(sys.stdin.readline):
        pending += line
        try:
            values = list(split_json(pending))
        except ValueError:
            continue  # It goes on in the next line.
        pending = ""
        for value in values:
            yield value
    for value in read_values([pending]) if pending.strip() else ():
        yield value


def _text(argument: str) -> str:
    if argument == "-":
        return sys.stdin.read()
    if argument.startswith("@"):
        return Path(argument[1:]).read_text(encoding="utf-8")
    return argument
