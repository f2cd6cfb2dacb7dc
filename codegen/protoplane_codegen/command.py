"""``protoplane generate``."""

from __future__ import annotations

import json
from pathlib import Path

import click
from rich.console import Console
from rich.syntax import Syntax

from protoplane_base import ProtoplaneError
from protoplane_codegen.generate import generate as run
from protoplane_codegen.generate import render
from protoplane_codegen.outputs import FAMILIES, Outputs
from protoplane_codegen.tree import Change, compare

_EXAMPLE = """
\b
Example:
  protoplane generate proto --out generated
  protoplane generate proto --out generated --check
"""


@click.command(epilog=_EXAMPLE)
@click.argument("proto_root", type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="Folder to write the code to."
)
@click.option(
    "-I",
    "--include",
    "includes",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Another folder to find imports in; may be given more than once.",
)
@click.option(
    "--models",
    type=click.Choice(FAMILIES),
    help="Render plain Python types of this family beside the Pydantic models.",
)
@click.option("--no-documents", is_flag=True, help="Leave out OpenAPI, AsyncAPI and JSON Schema.")
@click.option(
    "--check", is_flag=True, help="Write nothing; print a diff and exit 1 when files are stale."
)
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON for machines.")
def generate(  # noqa: PLR0917 - click passes each option by name
    proto_root: Path,
    out: Path,
    includes: tuple[Path, ...],
    models: str | None,
    no_documents: bool,
    check: bool,
    as_json: bool,
) -> None:
    """Generate Python code for all schemas under PROTO_ROOT.

    Imports are relative to PROTO_ROOT. Google's common schemas, the well-known types, protovalidate
    and Protoplane's own annotations can always be imported; nothing is fetched.
    """
    console = Console(stderr=True)
    try:
        outputs = Outputs(documents=not no_documents, models=models or "")
        with console.status("Generating…"):
            if check:
                files = render(proto_root, includes=includes, outputs=outputs)
                changes = compare(out, files)
            else:
                changes = run(proto_root, out, includes=includes, outputs=outputs)
    except (ProtoplaneError, OSError) as error:
        click.echo(f"error: {error}", err=True)
        raise SystemExit(2) from None
    if as_json:
        click.echo(json.dumps([{"path": c.path, "change": c.kind} for c in changes]))
    else:
        _show(changes, out, check=check)
    raise SystemExit(1 if check and changes else 0)


def _show(changes: list[Change], out: Path, *, check: bool) -> None:
    if not changes:
        click.echo(f"{out} is up to date")
        return
    if check:
        for change in changes:
            _print_diff(change)
        click.echo(f"{len(changes)} files in {out} are stale; run it without --check", err=True)
        return
    for kind, word in (("add", "written"), ("update", "updated"), ("remove", "removed")):
        count = sum(change.kind == kind for change in changes)
        if count:
            click.echo(f"{count} files {word} in {out}")


def _print_diff(change: Change) -> None:
    console = Console()
    if console.is_terminal:
        console.print(Syntax(change.diff, "diff", background_color="default"))
    else:
        click.echo(change.diff, nl=False)
