"""``protoplane events``: what an engine's log keeps, and how its consumer groups do."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from protoplane_client.commands.places import Place
from protoplane_runtime import terminal
from protoplane_runtime.engines.dead_letters import dead_letters, kept_events, redrive
from protoplane_runtime.engines.engine import Engine
from protoplane_runtime.engines.groups import DEAD_LETTERS, GroupStatus
from protoplane_runtime.engines.interface import Event, EventId, LogStats, Since, Start
from protoplane_runtime.engines.opening import DEFAULT_URL, VARIABLE, open_engine

_F = TypeVar("_F", bound=Callable[..., Any])

_IDLE_S = 5.0

_EXAMPLE = """
\b
Examples:
  protoplane events stats
  protoplane events read 'forge/captions/*' --after 1h
  protoplane events groups
  protoplane events dead-letters indexer --redrive
"""


def _options(command: _F) -> _F:
    command = click.option(
        "--json", "plain", is_flag=True, help="Print lines of JSON also on a terminal."
    )(command)
    return click.option(
        "--engine",
        envvar=VARIABLE,
        default=DEFAULT_URL,
        show_default=True,
        show_envvar=True,
        metavar="URL",
        help="Whose log and groups.",
    )(command)


@click.group(epilog=_EXAMPLE)
def events() -> None:
    """Look into an engine's events, delete some, and look after its consumer groups."""


_STATS = """
\b
Examples:
  protoplane events stats
  protoplane events stats 'forge/**' --depth 2 --json
"""


@events.command(epilog=_STATS)
@click.argument("key_expression", default="**")
@click.option(
    "--depth",
    type=click.IntRange(min=1),
    help="Add up keys whose first segments, so many, are alike; each key by itself without it.",
)
@_options
def stats(*, key_expression: str, depth: int | None, engine: str, plain: bool) -> None:
    """Show how many events are kept under each key that KEY_EXPRESSION matches."""

    async def work() -> tuple[LogStats, Sequence[GroupStatus]]:
        async with _opened(engine) as opened:
            return await opened.events.stats([key_expression]), await opened.groups.list()

    found, groups = terminal.run(work())
    rows = _summed(found, depth)
    if plain or not terminal.is_terminal():
        click.echo(
            json.dumps(
                {
                    "events": found.events,
                    "bytes": found.bytes,
                    "oldest": _text(found.oldest),
                    "newest": _text(found.newest),
                    "oldest_time": _time(found.oldest_ns),
                    "newest_time": _time(found.newest_ns),
                    "keys": [
                        {"key": key, "events": count, "bytes": size} for key, count, size in rows
                    ],
                    "groups": [_group(each) for each in groups],
                }
            )
        )
        return
    table = _table("KEY", ">EVENTS", ">BYTES")
    for key, count, size in rows:
        table.add_row(Text(key), f"{count:,}", _size(size))
    table.add_section()
    table.add_row("all", f"{found.events:,}", _size(found.bytes))
    Console().print(table)
    if found.events:
        click.echo(
            f"oldest {found.oldest} of {_time(found.oldest_ns)}, "
            f"newest {found.newest} of {_time(found.newest_ns)}"
        )
    if groups:
        click.echo(f"consumer groups: {', '.join(each.name for each in groups)}")


_READ = """
\b
Examples:
  protoplane events read '**'
  protoplane events read 'forge/**' --after 1h --count 10 --json
"""


@events.command(epilog=_READ)
@click.argument("key_expression", default="**")
@click.option(
    "--after",
    type=Place(),
    default="earliest",
    show_default=True,
    help="Begin behind this event, or with those of this time (2026-11-20T17:30) or age (2h).",
)
@click.option("--count", type=click.IntRange(min=1), help="Stop after so many events.")
@_options
def read(
    *,
    key_expression: str,
    after: EventId | Start | Since,
    count: int | None,
    engine: str,
    plain: bool,
) -> None:
    """Print the events that the log keeps and that KEY_EXPRESSION matches.

    Those are the durable ones, and such ephemeral ones before the newest of them as the engine
    still has in memory.

    'protoplane listen' follows what comes.
    """
    for_program = plain or not terminal.is_terminal()

    async def work() -> None:
        async with (
            _opened(engine) as opened,
            aclosing(kept_events(opened.events, [key_expression], after)) as found,
        ):
            seen = 0
            while True:
                try:
                    # One that is deleted meanwhile does not come.
                    async with asyncio.timeout(_IDLE_S):
                        event = await anext(found)
                except (StopAsyncIteration, TimeoutError):
                    return
                _show(event, for_program=for_program)
                seen += 1
                if seen == count:
                    return

    terminal.run(work())


_PURGE = """
\b
Examples:
  protoplane events purge 'forge/tokens/**' --before 2h
  protoplane events purge '**' --before 2026-11-20T17:30 --yes
"""


@events.command(epilog=_PURGE)
@click.argument("key_expression")
@click.option(
    "--before",
    type=Place(),
    help="Delete what lies before this id, time (2026-11-20T17:30) or age (2h); all without it.",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@_options
def purge(
    *,
    key_expression: str,
    before: EventId | Start | Since | None,
    yes: bool,
    engine: str,
    plain: bool,
) -> None:
    """Delete the events that KEY_EXPRESSION matches, for good."""
    if before is Start.EARLIEST:
        raise click.BadParameter("nothing lies before the earliest", param_hint="--before")
    until = before if isinstance(before, EventId | Since) else None

    async def count() -> int:
        async with _opened(engine) as opened:
            return (await opened.events.stats([key_expression])).events

    async def work() -> int:
        async with _opened(engine) as opened:
            return await opened.events.purge([key_expression], before=until)

    if not yes:
        there = terminal.run(count())
        what = f"{there} events" if until is None else f"those of {there} events that are older"
        _confirm(f"Delete {what}?")
    gone = terminal.run(work())
    _tell({"purged": gone}, f"{gone} events deleted", plain=plain)


_GROUPS = """
\b
Example:
  protoplane events groups --json
"""


@events.command(epilog=_GROUPS)
@_options
def groups(*, engine: str, plain: bool) -> None:
    """Show the consumer groups and how far they have come."""

    async def work() -> Sequence[GroupStatus]:
        async with _opened(engine) as opened:
            return await opened.groups.list()

    found = terminal.run(work())
    if plain or not terminal.is_terminal():
        for each in found:
            click.echo(json.dumps(_group(each)))
        return
    if not found:
        click.echo("there are no consumer groups")
        return
    headings = (">LAG", ">PENDING", ">WAITING", ">DELIVERED", ">AGAIN", ">DEAD")
    table = _table("GROUP", "READS", "POSITION", *headings)
    for each in found:
        table.add_row(
            each.name,
            Text("\n".join(each.expressions)),
            str(each.position),
            "-" if each.lag is None else f"{each.lag:,}",
            f"{each.pending:,}",
            f"{each.waiting:,}",
            f"{each.delivered:,}",
            f"{each.redelivered:,}",
            f"{each.dead_lettered:,}",
        )
    Console().print(table)


@events.group(epilog="\b\nExample:\n  protoplane events group reset indexer --to 2-1041\n")
def group() -> None:
    """Delete or reset a consumer group."""


@group.command(epilog="\b\nExample:\n  protoplane events group delete indexer --yes\n")
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@_options
def delete(*, name: str, yes: bool, engine: str, plain: bool) -> None:
    """Forget the group NAME and what it has done; its dead letters stay."""
    if not yes:
        _confirm(f"Forget how far the group {name} has come?")

    async def work() -> bool:
        async with _opened(engine) as opened:
            return await opened.groups.delete(name)

    if not terminal.run(work()):
        terminal.fail(f"there is no group {name}; 'protoplane events groups' lists them")
    _tell({"deleted": name}, f"group {name} deleted", plain=plain)


@group.command(epilog="\b\nExample:\n  protoplane events group reset indexer --to earliest --yes\n")
@click.argument("name")
@click.option(
    "--to",
    "place",
    type=Place(),
    required=True,
    help="Go on after this id, with what comes from 'now' on, or with the 'earliest' that is kept.",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@_options
def reset(
    *, name: str, place: EventId | Start | Since, yes: bool, engine: str, plain: bool
) -> None:
    """Let the group NAME go on from another place."""
    if isinstance(place, Since):
        raise click.BadParameter(
            "a group goes on from an id, 'earliest' or 'now'", param_hint="--to"
        )
    start = place
    if not yes:
        _confirm(
            f"Let the group {name} go on from {start.value if isinstance(start, Start) else start}?"
        )

    async def work() -> None:
        async with _opened(engine) as opened:
            await opened.groups.reset(name, start)

    terminal.run(work())
    _tell({"reset": name}, f"group {name} reset", plain=plain)


_LETTERS = """
\b
Examples:
  protoplane events dead-letters
  protoplane events dead-letters indexer --redrive
"""


@events.command("dead-letters", epilog=_LETTERS)
@click.argument("group_name", metavar="[GROUP]", required=False)
@click.option("--redrive", "again", is_flag=True, help="Publish GROUP's events once more.")
@_options
def letters(*, group_name: str | None, again: bool, engine: str, plain: bool) -> None:
    """Show the events that groups, or GROUP, could not take.

    Redriven, they are published under their keys with new ids, for all who read these, and their
    dead letters are deleted.
    """
    if again:
        if group_name is None:
            raise click.UsageError("--redrive needs the name of a group")
        name = group_name

        async def drive() -> int:
            async with _opened(engine) as opened:
                return await redrive(opened.events, name)

        count = terminal.run(drive())
        _tell({"redriven": count}, f"{count} events published once more", plain=plain)
        return
    for_program = plain or not terminal.is_terminal()

    async def work() -> int:
        count = 0
        table = _table("GROUP", "EVENT", "KEY", ">TRIES", "REASON")
        async with (
            _opened(engine) as opened,
            aclosing(dead_letters(opened.events, group_name)) as found,
        ):
            async for each in found:
                letter = each.letter
                count += 1
                if for_program:
                    head = json.dumps({"id": str(each.id)})
                    click.echo(f'{head[:-1]}, "letter": {letter.model_dump_json()}}}')
                else:
                    table.add_row(
                        letter.group,
                        letter.id,
                        Text(letter.key),
                        str(letter.deliveries),
                        Text(letter.reason),
                    )
        if count and not for_program:
            Console().print(table)
        return count

    if not terminal.run(work()) and not for_program:
        click.echo(f"there is nothing under {DEAD_LETTERS}/{group_name or '*'}/**")


@asynccontextmanager
async def _opened(url: str) -> AsyncGenerator[Engine]:
    engine = await open_engine(url)
    try:
        yield engine
    finally:
        await engine.close()


def _confirm(question: str) -> None:
    if not terminal.is_terminal():
        raise click.UsageError("nobody is there to be asked; say --yes")
    click.confirm(question, abort=True)


def _tell(data: dict[str, object], text: str, *, plain: bool) -> None:
    click.echo(json.dumps(data) if plain else text)


def _summed(found: LogStats, depth: int | None) -> Sequence[tuple[str, int, int | None]]:
    """The keys' figures, added up by their first segments."""
    rows: dict[str, tuple[int, int | None]] = {}
    for each in found.keys:
        segments = each.key.split("/")
        whole = depth is None or len(segments) <= depth
        name = each.key if whole else "/".join([*segments[:depth], "**"])
        count, size = rows.get(name, (0, 0))
        rows[name] = (
            count + each.events,
            None if size is None or each.bytes is None else size + each.bytes,
        )
    return [(name, *rows[name]) for name in sorted(rows)]


def _show(event: Event, *, for_program: bool) -> None:
    if for_program:
        head = json.dumps(
            {
                "id": str(event.id),
                "key": event.key,
                "type": event.type,
                "time": _time(event.time_ns),
            }
        )
        click.echo(f'{head[:-1]}, "message": {event.json}}}')
        return
    prefix = Text.assemble(
        (f"{event.id}  {_time(event.time_ns)}  ", "dim"),
        (event.key, "bold cyan"),
        (f"  {event.type.rpartition('.')[2]}  ", "green"),
    )
    terminal.print_json(event.json, plain=False, prefix=prefix)


def _group(status: GroupStatus) -> dict[str, object]:
    return {
        "group": status.name,
        "expressions": status.expressions,
        "position": str(status.position),
        "lag": status.lag,
        "pending": status.pending,
        "waiting": status.waiting,
        "delivered": status.delivered,
        "acknowledged": status.acknowledged,
        "redelivered": status.redelivered,
        "dead_lettered": status.dead_lettered,
    }


def _table(*headings: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in headings:
        right = heading.startswith(">")
        table.add_column(
            heading.removeprefix(">"), justify="right" if right else "left", overflow="fold"
        )
    return table


def _size(size: int | None) -> str:
    return "-" if size is None else f"{size:,}"


def _text(event_id: EventId | None) -> str | None:
    return None if event_id is None else str(event_id)


def _time(time_ns: int | None) -> str | None:
    if time_ns is None:
        return None
    moment = datetime.fromtimestamp(time_ns // 10**9, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{time_ns // 10**6 % 1000:03d}Z"
