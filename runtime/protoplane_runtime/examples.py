"""Examples in the help of commands that belong together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click


class ExampleGroup(click.Group):
    """A group of commands whose help has examples; each command shows those that are its own.

    Args:
        examples: Lines to type, ``protoplane GROUP COMMAND …``.
    """

    def __init__(self, *arguments: Any, examples: Sequence[str] = (), **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._examples = tuple(examples)
        self.epilog = _epilog(self._examples)

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        """Add a command, with its examples."""
        super().add_command(cmd, name)
        words = f" {self.name} {name or cmd.name} "
        cmd.epilog = _epilog([line for line in self._examples if words in f"{line} "])


def _epilog(lines: Sequence[str]) -> str | None:
    if not lines:
        return None
    # As they are: a line that is to be copied must not be broken.
    heading = "Examples:" if len(lines) > 1 else "Example:"
    return "\n".join(["\b", heading, *(f"  {line}" for line in lines)])
