"""How an answer is shown while it arrives."""

from __future__ import annotations

import json
import re
from typing import Protocol, Self

import click
from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.markdown import Markdown
from rich.segment import Segment
from rich.text import Text

from protoplane_components.commands.chat_stream import Answer

_FENCE = re.compile(r" {0,3}(```|~~~)")
# What may go on with the block before it, although an empty line is between them.
_GOES_ON = re.compile(r"\s|[-*+>|]|\d+[.)]")
_REFRESHES_PER_S = 15


class Screen(Protocol):
    """Shows one answer; it is entered before the first piece."""

    def __enter__(self) -> Self:
        """Begin."""
        ...

    def __exit__(self, *_: object) -> None:
        """Leave all of it on the screen, also where it broke off."""
        ...

    def piece(self, text: str) -> None:
        """Show what arrived."""
        ...

    def end(self, answer: Answer) -> None:
        """Say how it was."""
        ...


class PlainScreen:
    """The text of answers as it comes, and nothing else; for pipes, and for who likes it so.

    Args:
        figures: Whether to say how fast it was, on the standard error.
    """

    def __init__(self, *, figures: bool) -> None:
        self._figures = figures
        self._at_start = True

    def __enter__(self) -> Self:
        self._at_start = True
        return self

    def __exit__(self, *_: object) -> None:
        if not self._at_start:
            click.echo()

    def piece(self, text: str) -> None:
        """See `Screen`."""
        self._at_start = text.endswith("\n")
        click.echo(text, nl=False)

    def end(self, answer: Answer) -> None:
        """See `Screen`."""
        if self._figures:
            click.echo(figures(answer), err=True)


class JsonScreen:
    """An answer as one line of JSON, once it is there."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def piece(self, text: str) -> None:
        """See `Screen`."""

    def end(self, answer: Answer) -> None:
        """See `Screen`."""
        usage = None if answer.usage is None else answer.usage.model_dump()
        speed = answer.tokens_per_s
        click.echo(
            json.dumps(
                {
                    "model": answer.model,
                    "content": answer.text,
                    "finish_reason": answer.finish_reason,
                    "usage": usage,
                    "first_s": round(answer.first_s, 4),
                    "tokens_per_s": None if speed is None else round(speed, 1),
                },
                ensure_ascii=False,
            )
        )


class MarkdownScreen:
    """An answer as Markdown on a terminal.

    Blocks that are whole are printed and stay; only what is being written is drawn anew.

    Args:
        console: Where to.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._rest = ""
        self._live = self._new_live()

    def __enter__(self) -> Self:
        self._rest = ""
        self._live = self._new_live()
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()
        if self._rest.strip():
            self._console.print(Markdown(self._rest))

    def piece(self, text: str) -> None:
        """See `Screen`."""
        whole, self._rest = settled(self._rest + text)
        if whole.strip():
            self._live.update("")
            self._console.print(Markdown(whole), "")
        self._live.update(_Tail(self._rest))

    def end(self, answer: Answer) -> None:
        """See `Screen`."""
        self._console.print(Text(figures(answer), "dim"))

    def _new_live(self) -> Live:
        return Live(console=self._console, refresh_per_second=_REFRESHES_PER_S, transient=True)


class _Tail:
    """The end of some Markdown, as much as the screen has lines for."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = console.render_lines(Markdown(self._text), options, pad=False)
        for line in lines[-max(1, console.height - 2) :]:
            yield from line
            yield Segment.line()


def settled(text: str) -> tuple[str, str]:
    """Part Markdown into blocks that are whole, and what may still go on.

    Args:
        text: It, from where a block begins.
    """
    at, end, fence = 0, 0, ""
    empty = False
    for line in text.splitlines(keepends=True):
        mark = _FENCE.match(line)
        if empty and not fence and line.strip() and not _GOES_ON.match(line):
            end = at
        if mark is not None and fence in ("", mark[1]):
            fence = "" if fence else mark[1]
        empty = not line.strip()
        at += len(line)
    return text[:end], text[end:]


def figures(answer: Answer) -> str:
    """How an answer was, in a line."""
    parts: list[str] = []
    if answer.usage is not None:
        usage = answer.usage
        parts.append(f"{usage.prompt_tokens} + {usage.completion_tokens} tokens")
    if answer.first_at is not None:
        parts.append(f"first after {answer.first_s * 1000:.0f} ms")
    if (speed := answer.tokens_per_s) is not None:
        parts.append(f"{speed:.0f} tokens/s")
    if not answer.finish_reason:
        parts.append("stopped")
    elif answer.finish_reason != "stop":
        parts.append(f"ended by {answer.finish_reason}")
    return " · ".join([answer.model, *parts] if answer.model else parts)
