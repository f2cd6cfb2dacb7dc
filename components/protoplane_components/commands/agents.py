"""``protoplane agents``."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from functools import update_wrapper
from typing import Any

import click

from protoplane.agents.v1 import (
    AgentSpec,
    AgentState,
    KillRequest,
    Lifetime,
    Limits,
    Overflow,
    PauseRequest,
    ResumeRequest,
    StopRequest,
)
from protoplane_base import Duration
from protoplane_components.agents.pool import AgentPool
from protoplane_components.commands import agents_acts as acts
from protoplane_components.commands.numbers import COUNT, Seconds
from protoplane_components.commands.targets import Target, targeted
from protoplane_runtime import terminal
from protoplane_runtime.examples import ExampleGroup

_STATES = {
    state.name.removeprefix("AGENT_STATE_").lower(): state for state in AgentState if state.value
}
_NUMBER = re.compile(r"\d{1,18}", re.ASCII)
_LIMITS = ("memory_bytes", "cpu_seconds", "open_files", "processes", "file_bytes")

_EXAMPLES = (
    "protoplane agents spawn -- python train.py --epochs 3",
    "protoplane agents spawn --kind notebook --name mine --outlive",
    "protoplane agents list --state running",
    "protoplane agents hosts",
    "protoplane agents logs 3f2a9c1b7d20 -f",
    "echo 'print(1)' | protoplane agents send 3f2a9c1b7d20 - --close",
    "protoplane agents pause 3f2a9c1b7d20",
    "protoplane agents resume 3f2a9c1b7d20",
    "protoplane agents stop 3f2a9c1b7d20",
    "protoplane agents kill 3f2a9c1b7d20",
)


@click.group(cls=ExampleGroup, examples=_EXAMPLES)
def agents() -> None:
    """Start processes on the hosts of agents, and keep them under control."""


_hosts = targeted(
    "--at", "protoplane/agents", "The hosts: a name that discovery knows, or an address."
)


def _pooled(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add what says where the hosts are; what the command gives is asked of them."""

    def pooled(*, target: Target, **others: Any) -> None:
        async def asked(act: acts.Act) -> int:
            async with target.connect() as plane:
                return await act(AgentPool(plane))

        code = terminal.run(asked(command(**others)))
        if code:
            raise SystemExit(code)

    return _hosts(update_wrapper(pooled, command))


def _limits(ctx: click.Context, param: click.Parameter, pairs: tuple[str, ...]) -> Limits | None:
    found: dict[str, int] = {}
    for pair in pairs:
        name, _, value = pair.partition("=")
        name = name.replace("-", "_")
        if name not in _LIMITS or not _NUMBER.fullmatch(value):
            raise click.BadParameter(
                f"{pair!r} is not NAME=NUMBER; a name is one of {', '.join(_LIMITS)}"
            )
        found[name] = int(value)
    return Limits(**found) if found else None


def _variables(
    ctx: click.Context, param: click.Parameter, pairs: tuple[str, ...]
) -> dict[str, str]:
    found: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not name or not equals:
            raise click.BadParameter(f"{pair!r} is not NAME=VALUE")
        found[name] = value
    return found


@agents.command(context_settings={"ignore_unknown_options": True})
@click.argument("command", nargs=-1)
@click.option("--kind", default="", help="A registered kind; COMMAND is then its arguments.")
@click.option("--name", default="", help="What to call it.")
@click.option("--id", "id_", default="", help="Its id; made up where absent.")
@click.option(
    "--env",
    "-e",
    "environment",
    multiple=True,
    metavar="NAME=VALUE",
    callback=_variables,
    help="A variable of its environment; again for more.",
)
@click.option("--folder", "working_folder", default="", help="Where it starts, on its host.")
@click.option(
    "--timeout",
    type=Seconds(),
    help="Seconds after which it is stopped.",
)
@click.option(
    "--grace",
    type=Seconds(zero=True),
    help="Seconds between being asked to end and being killed.  [default: 5]",
)
@click.option(
    "--limit",
    "limits",
    multiple=True,
    metavar="NAME=NUMBER",
    callback=_limits,
    help=f"What its processes may take, of {', '.join(_LIMITS)}; again for more.",
)
@click.option("--outlive", is_flag=True, help="It goes on when its host ends.")
@click.option("--output-bytes", type=COUNT, help="Bytes kept of each stream.")
@click.option("--block", is_flag=True, help="It waits to be read, instead of losing the oldest.")
@click.option("--follow", "-f", is_flag=True, help="Print what it writes until it has ended.")
@_pooled
def spawn(
    *,
    command: tuple[str, ...],
    kind: str,
    id_: str,
    outlive: bool,
    output_bytes: int | None,
    block: bool,
    follow: bool,
    **rest: Any,
) -> acts.Act:
    """Start COMMAND, or an agent of a kind, on the least loaded host, and print its id.

    With --follow it exits with 1 where the agent did not end well.
    """
    if bool(kind) == bool(command) and not kind:
        raise click.UsageError("Missing argument 'COMMAND...': give a command, or a --kind")
    spec = AgentSpec(
        kind=kind,
        command=[] if kind else [*command],
        arguments=[*command] if kind else [],
        lifetime=Lifetime.LIFETIME_OUTLIVES_HOST if outlive else Lifetime.LIFETIME_UNSPECIFIED,
        overflow=Overflow.OVERFLOW_BLOCK if block else Overflow.OVERFLOW_UNSPECIFIED,
        output_bytes=output_bytes or 0,
        **rest,
    )
    return acts.spawning(spec, id_, follow=follow)


@agents.command("list")
@click.option("--state", "states", multiple=True, type=click.Choice([*_STATES]), help="Only these.")
@click.option("--limit", type=click.IntRange(1, 1000), default=100, show_default=True)
@click.option("--json", "plain", is_flag=True, help="Print a line of JSON for each agent.")
@_pooled
def list_(*, states: tuple[str, ...], limit: int, plain: bool) -> acts.Act:
    """Show the agents of all hosts, the newest first."""
    return acts.listing([_STATES[state] for state in states], limit, plain=plain)


@agents.command()
@click.option("--json", "plain", is_flag=True, help="Print a line of JSON for each host.")
@_pooled
def hosts(*, plain: bool) -> acts.Act:
    """Show the hosts, the least loaded first."""
    return acts.hosts(plain=plain)


@agents.command()
@click.argument("id_", metavar="ID")
@click.option("--follow", "-f", is_flag=True, help="Go on until it has ended.")
@click.option("--stdout", "only_out", is_flag=True, help="Its standard output alone.")
@click.option("--stderr", "only_err", is_flag=True, help="Its standard error alone.")
@_pooled
def logs(*, id_: str, follow: bool, only_out: bool, only_err: bool) -> acts.Act:
    """Print what an agent wrote, byte for byte, to the same stream as it did."""
    streams = [0] * (only_out or not only_err) + [1] * (only_err or not only_out)
    return acts.printing(id_, streams, follow=follow)


@agents.command()
@click.argument("id_", metavar="ID")
@click.argument("text", required=False)
@click.option("--close", is_flag=True, help="End its input then.")
@_pooled
def send(*, id_: str, text: str | None, close: bool) -> acts.Act:
    """Write TEXT and a newline to an agent's standard input; - for all of this one's, as it is."""
    if text is None and not close:
        raise click.UsageError("Missing argument 'TEXT': give a text, - or --close")
    data = b"" if text is None else f"{text}\n".encode()
    return acts.sending(id_, sys.stdin.buffer if text == "-" else data, close=close)


@agents.command()
@click.argument("id_", metavar="ID")
@_pooled
def pause(*, id_: str) -> acts.Act:
    """Halt an agent."""
    return acts.ordering(id_, lambda client: client.pause(PauseRequest(id=id_)))


@agents.command()
@click.argument("id_", metavar="ID")
@_pooled
def resume(*, id_: str) -> acts.Act:
    """Let a paused agent go on."""
    return acts.ordering(id_, lambda client: client.resume(ResumeRequest(id=id_)))


@agents.command()
@click.argument("id_", metavar="ID")
@click.option(
    "--grace",
    type=Seconds(zero=True),
    help="Seconds until it is killed; those that it was started with by default.",
)
@_pooled
def stop(*, id_: str, grace: Duration | None) -> acts.Act:
    """Ask an agent to end, kill it where it does not, and say how it ended."""
    return acts.ordering(id_, lambda client: client.stop(StopRequest(id=id_, grace=grace)))


@agents.command()
@click.argument("id_", metavar="ID")
@_pooled
def kill(*, id_: str) -> acts.Act:
    """End an agent at once."""
    return acts.ordering(id_, lambda client: client.kill(KillRequest(id=id_)))
