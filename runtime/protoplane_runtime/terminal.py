"""What all commands do alike: one clear line for an error, an exit code, and JSON that reads well.

Exit codes: 1 for a failure, 2 for wrong usage, 130 for Ctrl-C.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
from collections.abc import Coroutine, Generator
from contextlib import contextmanager
from typing import Any, NoReturn, TypeVar

import click
from rich.console import Console
from rich.text import Text

from protoplane_base import PlaneError, ProtoplaneError

_T = TypeVar("_T")

FAILED = 1
USAGE = 2
INTERRUPTED = 130


def fail(message: str, code: int = FAILED) -> NoReturn:
    """Print one line on stderr and exit."""
    line = " ".join(message.split())
    console = Console(stderr=True)
    if console.is_terminal:
        console.print(Text.assemble(("error: ", "bold red"), line), soft_wrap=True)
    else:
        click.echo(f"error: {line}", err=True)
    raise SystemExit(code)


@contextmanager
def errors() -> Generator[None]:
    """Turn what a command may meet into one line and an exit code; never a traceback."""
    try:
        yield
    except PlaneError as error:
        fail(describe(error))
    except ssl.SSLError as error:
        fail(f"TLS: {error}")
    except (ProtoplaneError, OSError) as error:
        fail(str(error) or type(error).__name__)
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None


def run(work: Coroutine[Any, Any, _T]) -> _T:
    """Run a command's coroutine under `errors`."""
    with errors():
        return asyncio.run(work)


def describe(error: PlaneError) -> str:
    """An error on one line, with the field violations that its message leaves out."""
    parts = [str(error)]
    for detail in error.details:
        for violation in getattr(detail, "field_violations", ()):
            words = f"{violation.field}: {violation.description}"
            parts += [words] if violation.field not in error.message else []
    return "; ".join(parts)


def is_terminal() -> bool:
    """Whether a person reads stdout."""
    return sys.stdout.isatty()


def print_json(text: str, *, plain: bool, prefix: Text | None = None, tall: bool = False) -> None:
    """Print one JSON value: in colour on a terminal, else on one line for a program.

    Args:
        text: The JSON.
        plain: Print it for a program wherever it goes.
        prefix: What to put before it on a terminal.
        tall: Spread it over lines on a terminal.
    """
    if plain or not is_terminal():
        click.echo(text)
        return
    console = Console(highlight=True)
    shown = json.dumps(json.loads(text), ensure_ascii=False, indent=2) if tall else text
    line = Text(shown)
    _JSON.highlight(line)
    console.print(Text.assemble(prefix or "", line), soft_wrap=True, highlight=False)


def _highlighter() -> Any:
    from rich.highlighter import JSONHighlighter

    return JSONHighlighter()


_JSON: Any = _highlighter()
