"""``protoplane down``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from protoplane_components.stack.place import StackPlace
from protoplane_components.stack.stopping import Outcome, Stopped, stop
from protoplane_runtime import terminal
from protoplane_runtime.engines.folders import default_folder

_EXAMPLE = """
\b
Examples:
  protoplane down
  protoplane down --timeout 60
"""


@click.command(epilog=_EXAMPLE)
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    help="Folder that was given to protoplane up.  [default: the folder of local:]",
)
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0),
    default=20,
    show_default=True,
    help="Seconds to end by itself; then it is killed.",
)
@click.option("--json", "plain", is_flag=True, help="Print JSON.")
def down(*, folder: Path | None, timeout_s: float, plain: bool) -> None:
    """End the stack that `protoplane up` has started, and wait until it has ended."""
    folder = (folder or default_folder()).absolute()
    with terminal.errors():
        done = stop(StackPlace(folder), timeout_s)
    if plain:
        said = {"outcome": done.outcome, "processes": done.processes, "tookS": done.took_s}
        click.echo(json.dumps(said))
    else:
        click.echo(_words(done, folder))


def _words(done: Stopped, folder: Path) -> str:
    match done.outcome:
        case Outcome.STOPPED:
            return f"ended {done.processes} processes"
        case Outcome.KILLED:
            return "ended; not all did so by themselves in time, so they were killed"
        case Outcome.CLEARED:
            left = f", {done.processes} processes too," if done.processes else ""
            return f"the supervisor was gone already; what it had left{left} is cleared away"
        case Outcome.ABSENT:
            return f"no stack is up in {folder}"
