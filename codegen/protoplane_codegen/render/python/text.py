"""Text of generated Python code: string literals and docstrings that no comment can break."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast


def literal(value: Any) -> str:
    """A Python literal, with double quotes as a formatter would have them."""
    if isinstance(value, str):
        body = value.encode("unicode_escape").decode() if not value.isprintable() else value
        if value.isprintable():
            body = value.replace("\\", "\\\\")
        return '"' + body.replace('"', '\\"') + '"'
    if isinstance(value, tuple):
        items = [literal(item) for item in cast("tuple[object, ...]", value)]
        return f"({items[0]},)" if len(items) == 1 else f"({', '.join(items)})"
    if isinstance(value, dict):
        pairs = cast("dict[object, object]", value).items()
        return "{" + ", ".join(f"{literal(k)}: {literal(v)}" for k, v in pairs) + "}"
    return repr(value)


def docstring(text: str, indent: int = 4) -> str:
    """A docstring with its quotes, for code that is indented by ``indent``."""
    bare = text.strip()
    start = bare.rstrip('"')
    # All quotes at the end, as one of them would end it too early.
    body = start.replace("\\", "\\\\").replace('"""', '\\"\\"\\"')
    body += '\\"' * (len(bare) - len(start))
    if "\n" not in body:
        return f'"""{body}"""'
    pad = " " * indent
    lines = [pad + line if line else "" for line in body.split("\n")]
    return f'"""{chr(10).join(lines).lstrip()}\n{pad}"""'


LINE_LENGTH = 100
"""Longest line of generated code, where no single word is longer."""


def call(head: str, arguments: Sequence[str], tail: str = "", indent: int = 0) -> str:
    """``head(arguments)tail`` on one line, or an argument a line where that would be too long."""
    line = f"{' ' * indent}{head}({', '.join(arguments)}){tail}"
    if len(line) <= LINE_LENGTH or not arguments:
        return line
    pad = " " * indent
    inner = "".join(f"{pad}    {argument},\n" for argument in arguments)
    return f"{pad}{head}(\n{inner}{pad}){tail}"


def entry(head: str, value: str, indent: int) -> str:
    """``head value,`` on one line, or with the value in parentheses on a line of its own."""
    pad = " " * indent
    line = f"{pad}{head}{value},"
    if len(line) <= LINE_LENGTH:
        return line
    return f"{pad}{head}(\n{pad}    {value}\n{pad}),"
