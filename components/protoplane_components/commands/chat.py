"""``protoplane chat``."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from rich.console import Console

from protoplane_base import Code, PlaneError
from protoplane_client.commands.options import DEFAULT_HTTP
from protoplane_components.commands.chat_dialogue import Chat, converse, piped_text
from protoplane_components.commands.chat_screen import (
    JsonScreen,
    MarkdownScreen,
    PlainScreen,
    Screen,
)
from protoplane_components.commands.chat_stream import ChatServer
from protoplane_components.stack.place import StackPlace
from protoplane_runtime import terminal
from protoplane_runtime.engines.folders import default_folder

_EXAMPLE = """
\b
Examples:
  protoplane chat
  protoplane chat "Tell me a story" --max-tokens 100
  git diff | protoplane chat "What does this change?" --json
"""
_REMEDY = "start it with protoplane up, or give --url"


@click.command(epilog=_EXAMPLE)
@click.argument("message", required=False)
@click.option("--model", "-m", help="Who answers.  [default: the first model that there is]")
@click.option(
    "--url",
    envvar="PROTOPLANE_CHAT_URL",
    show_envvar=True,
    help="Server with OpenAI's API.  [default: the gateway of protoplane up]",
)
@click.option(
    "--key",
    envvar=["PROTOPLANE_API_KEY", "OPENAI_API_KEY"],
    show_envvar=True,
    help="API key; others on this machine can see arguments, so better a variable.",
)
@click.option("--system", help="What the model is told first.")
@click.option("--max-tokens", type=click.IntRange(min=1), help="Most tokens of an answer.")
@click.option("--temperature", type=click.FloatRange(0, 2), help="How much chance there is in it.")
@click.option("--seed", type=int, help="Same seed, same answer, where the model can.")
@click.option("--plain", is_flag=True, help="Show text as it is, not as Markdown.")
@click.option("--json", "as_json", is_flag=True, help="Print the answer as one line of JSON.")
@click.option(
    "--folder", type=click.Path(path_type=Path), help="Folder that was given to protoplane up."
)
def chat(
    *,
    message: str | None,
    model: str | None,
    url: str | None,
    key: str | None,
    system: str | None,
    max_tokens: int | None,
    temperature: float | None,
    seed: int | None,
    plain: bool,
    as_json: bool,
    folder: Path | None,
) -> None:
    """Chat with a model, or let it answer one MESSAGE.

    What is piped in is a message too, or goes after MESSAGE.
    """
    piped = "" if sys.stdin.isatty() else piped_text()
    text = "\n\n".join(part for part in (message, piped) if part)
    if not text and not sys.stdin.isatty():
        raise click.UsageError("there is nothing to say: give MESSAGE, or pipe it in")
    if not text and as_json:
        raise click.UsageError("--json is for one MESSAGE")
    settings = {
        name: value
        for name, value in (
            ("max_tokens", max_tokens), ("temperature", temperature), ("seed", seed),
        )
        if value is not None
    }  # fmt: skip
    console = Console(highlight=False)
    with (
        terminal.errors(),
        ChatServer(url or _gateway(folder), key, remedy=_REMEDY) as server,
    ):
        screen = _screen(console, plain=plain, as_json=as_json)
        talk = Chat(server, model or _first(server), screen, system=system, settings=settings)
        if text:
            talk.say(text)
        else:
            converse(talk, console)


def _gateway(folder: Path | None) -> str:
    """Where the stack of a folder is; the usual place where there is none."""
    place = StackPlace((folder or default_folder()).absolute())
    owner = place.owner()
    record = None if owner is None else place.read_of(owner)
    if record is None and folder is not None:
        raise PlaneError(
            Code.UNAVAILABLE,
            f"no stack is up in {folder}: start it with protoplane up --folder {folder}",
        )
    return DEFAULT_HTTP if record is None else record.http


def _first(server: ChatServer) -> str:
    models = server.models()
    if not models:
        raise PlaneError(
            Code.FAILED_PRECONDITION,
            f"{server.url} has no model; load one, as protoplane models and docs/backends.md say",
        )
    return models[0]


def _screen(console: Console, *, plain: bool, as_json: bool) -> Screen:
    if as_json:
        return JsonScreen()
    if plain or not terminal.is_terminal():
        return PlainScreen(figures=terminal.is_terminal())
    return MarkdownScreen(console)
