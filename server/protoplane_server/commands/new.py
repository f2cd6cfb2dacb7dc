"""``protoplane new``."""

from __future__ import annotations

import keyword
import re
from importlib.resources import files
from pathlib import Path
from string import Template

import click

from protoplane_runtime import terminal

_EXAMPLE = """
\b
Examples:
  protoplane new forge/captioner
  protoplane new forge/captioner --to captioner-service
"""
_SEGMENT = re.compile(r"[a-z][a-z0-9]*([_-][a-z0-9]+)*")


@click.command(epilog=_EXAMPLE)
@click.argument("component")
@click.option(
    "--to", type=click.Path(path_type=Path), help="Folder to write to; by default its last word."
)
def new(*, component: str, to: Path | None) -> None:
    """Write a project for COMPONENT, a path such as forge/captioner, that works at once.

    It has a schema, a component, a test, a README and a pyproject.toml.
    """
    words = _words(component)
    folder = to or Path(component.rpartition("/")[2])
    with terminal.errors():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            terminal.fail(f"{folder} is there already; choose another place with --to")
        written = write_project(component, words, folder)
    for path in written:
        click.echo(f"  {path}")
    click.echo(
        f"\nNext:\n  cd {folder}\n  protoplane generate proto --out generated\n  pytest\n"
        f"  protoplane serve {words[-1]}:{_title(words[-1])}"
    )


def write_project(component: str, words: list[str], folder: Path) -> list[Path]:
    """Write the files of a project.

    Args:
        component: Its path, for example ``forge/captioner``.
        words: The segments of the path as Python and proto can write them.
        folder: Where to.

    Raises:
        OSError: A file cannot be written.
    """
    module, package = words[-1], ".".join((*words, "v1"))
    proto = Path("proto", *words, "v1", f"{module}.proto")
    names = {
        "component": component,
        "module": module,
        "title": _title(module),
        "package": package,
        "proto": proto.as_posix(),
        "distribution": "-".join(words).replace("_", "-"),
    }
    targets = {
        "schema.proto.in": proto,
        "component.py.in": Path(f"{module}.py"),
        "test_component.py.in": Path(f"test_{module}.py"),
        "README.md.in": Path("README.md"),
        "pyproject.toml.in": Path("pyproject.toml"),
        "gitignore.in": Path(".gitignore"),
    }
    templates = files("protoplane_server.commands") / "project"
    written: list[Path] = []
    for source, target in targets.items():
        text = Template((templates / source).read_text(encoding="utf-8")).substitute(names)
        path = folder / target
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        written.append(path)
    return written


def _words(component: str) -> list[str]:
    segments = component.split("/")
    if len(segments) < 2 or not all(_SEGMENT.fullmatch(segment) for segment in segments):
        raise click.BadParameter(
            f"{component!r} is not a component's name; give at least two words in lower case, as "
            "in forge/captioner",
            param_hint="COMPONENT",
        )
    words = [segment.replace("-", "_") for segment in segments]
    for word in words:
        if keyword.iskeyword(word):
            raise click.BadParameter(f"{word!r} is a word of Python", param_hint="COMPONENT")
    return words


def _title(word: str) -> str:
    return "".join(part.capitalize() for part in word.split("_"))
