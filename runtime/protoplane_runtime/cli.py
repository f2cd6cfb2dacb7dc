"""The command ``protoplane``: each part of the house brings commands of its own.

A command is an entry point of the group ``protoplane.commands``; it is imported only when it is
asked for, so that ``protoplane --help`` needs no extra.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

import click

from protoplane_base import VERSION, MissingExtraError


class Commands(click.Group):
    """A group whose commands are entry points."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all installed commands, in order."""
        return sorted(_entry_points())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command; one whose extra is missing says how to install it."""
        entry_point = _entry_points().get(cmd_name)
        if entry_point is None:
            return None
        try:
            command: click.Command = entry_point.load()
        except MissingExtraError as error:
            return _unavailable(cmd_name, str(error))
        except ModuleNotFoundError as error:
            return _unavailable(
                cmd_name, f"{error.name} is not installed: pip install 'protoplane[all]'"
            )
        return command


def _entry_points() -> dict[str, EntryPoint]:
    return {found.name: found for found in entry_points(group="protoplane.commands")}


def _unavailable(name: str, reason: str) -> click.Command:
    """A command that takes any arguments and says why it cannot run."""

    def fail(arguments: tuple[str, ...]) -> None:
        raise click.ClickException(f"{name} is not available: {reason}")

    return click.Command(
        name,
        callback=fail,
        params=[click.Argument(["arguments"], nargs=-1, type=click.UNPROCESSED)],
        context_settings={"ignore_unknown_options": True},
        short_help=f"(not installed) {reason}",
    )


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(VERSION, prog_name="protoplane")
def main() -> None:
    """Turn schemas into distributed inference components, run them and call them."""
