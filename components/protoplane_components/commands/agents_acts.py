"""What the commands of ``protoplane agents`` do with a pool, and how it looks."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import BinaryIO, Protocol

import click
from rich.console import Console
from rich.table import Table

from protoplane.agents.v1 import (
    Agent,
    AgentsClient,
    AgentSpec,
    AgentState,
    AgentStatus,
    FollowOutputRequest,
    GetStatusRequest,
    Output,
    OutputStream,
    ReadOutputRequest,
    WriteStdinRequest,
)
from protoplane_base import Timestamp
from protoplane_components.agents.pool import AgentPool
from protoplane_runtime import terminal

Act = Callable[[AgentPool], Awaitable[int]]
"""Asks a pool for something, shows what it says, and gives the exit code."""

_STREAMS = (OutputStream.OUTPUT_STREAM_STDOUT, OutputStream.OUTPUT_STREAM_STDERR)
_PIECE_BYTES = 65_536


class _Answer(Protocol):
    @property
    def status(self) -> AgentStatus | None: ...


def spawning(spec: AgentSpec, id_: str, *, follow: bool) -> Act:
    """Start an agent."""

    async def act(pool: AgentPool) -> int:
        agent = await pool.spawn(spec, id_=id_)
        # Where its output goes to this one's, the id would be among it.
        click.echo(agent.id, err=follow)
        if not follow:
            return 0
        client = await pool.client(agent.id)
        await _follow(client, agent.id, (0, 1))
        status = (await client.get_status(GetStatusRequest(id=agent.id))).status
        return 0 if status is not None and status.exit_code == 0 else terminal.FAILED

    return act


def listing(states: Sequence[AgentState], limit: int, *, plain: bool) -> Act:
    """Show agents."""

    async def act(pool: AgentPool) -> int:
        found = await pool.agents(states, limit=limit)
        if plain:
            for agent in found:
                click.echo(agent.model_dump_json())
        elif found:
            Console().print(_agents(found))
        else:
            click.echo("there are no agents")
        return 0

    return act


def hosts(*, plain: bool) -> Act:
    """Show hosts."""

    async def act(pool: AgentPool) -> int:
        table = _table("HOST", "ACTIVE", "CAPACITY", "ENDED", "UP")
        for host in await pool.hosts():
            health = host.health
            if plain:
                click.echo(health.model_dump_json())
            up = "-" if health.uptime is None else f"{health.uptime.total_seconds:.0f}s"
            row = (health.instance, health.active, health.capacity, health.ended, up)
            table.add_row(*map(str, row))
        if not plain:
            Console().print(table)
        return 0

    return act


def printing(id_: str, streams: Sequence[int], *, follow: bool) -> Act:
    """Print what an agent wrote."""

    async def act(pool: AgentPool) -> int:
        client = await pool.client(id_)
        if follow:
            await _follow(client, id_, streams)
            return 0
        for stream in streams:
            offset, more = 0, True
            while more:
                request = ReadOutputRequest(id=id_, stream=_STREAMS[stream], offset=offset)
                output = (await client.read_output(request)).output or Output()
                _print(output)
                offset, more = output.next_offset, bool(output.data) and not output.end
        return 0

    return act


def sending(id_: str, data: bytes | BinaryIO, *, close: bool) -> Act:
    """Write to an agent's standard input."""

    async def act(pool: AgentPool) -> int:
        client = await pool.client(id_)
        if isinstance(data, bytes):
            await client.write_stdin(WriteStdinRequest(id=id_, data=data, close=close))
            return 0
        while piece := await asyncio.to_thread(os.read, data.fileno(), _PIECE_BYTES):
            await client.write_stdin(WriteStdinRequest(id=id_, data=piece))
        if close:
            await client.write_stdin(WriteStdinRequest(id=id_, close=True))
        return 0

    return act


def ordering(id_: str, order: Callable[[AgentsClient], Awaitable[_Answer]]) -> Act:
    """Give an order, and say how the agent does then."""

    async def act(pool: AgentPool) -> int:
        answer = await order(await pool.client(id_))
        if answer.status is not None:
            click.echo(_how(answer.status))
        return 0

    return act


async def _follow(client: AgentsClient, id_: str, streams: Iterable[int]) -> None:
    request = FollowOutputRequest(id=id_, streams=[_STREAMS[stream] for stream in streams])
    async for answer in client.follow_output(request):
        if answer.output is not None:
            _print(answer.output)


def _print(output: Output) -> None:
    if output.dropped_bytes:
        click.echo(f"[{output.dropped_bytes} bytes are not kept any more]", err=True)
    file = sys.stderr if output.stream == OutputStream.OUTPUT_STREAM_STDERR else sys.stdout
    file.buffer.write(output.data)
    file.buffer.flush()


def _how(status: AgentStatus) -> str:
    words = [_word(AgentState(status.state).name, "AGENT_STATE_")]
    if status.exit_code is not None:
        words.append(f"code {status.exit_code}")
    if status.signal:
        words.append(status.signal)
    return ", ".join(words)


def _word(name: str, prefix: str) -> str:
    return name.removeprefix(prefix).lower().replace("_", " ")


def _agents(found: Iterable[Agent]) -> Table:
    table = _table("ID", "NAME", "STATE", "PID", "AGE", "OUTPUT", "HOST")
    for agent in found:
        status = agent.status or AgentStatus()
        name = agent.spec.name if agent.spec is not None else ""
        output = f"{status.stdout_bytes + status.stderr_bytes:,}"
        table.add_row(
            agent.id, name, _how(status), str(status.pid or "-"), _age(status), output, agent.host
        )
    return table


def _table(*headings: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in headings:
        table.add_column(heading, no_wrap=True, overflow="fold")
    return table


def _age(status: AgentStatus) -> str:
    end = time.time() if status.ended_at is None else _seconds(status.ended_at)
    seconds = end - _seconds(status.started_at)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds / size:.0f}{unit}"
    return f"{max(0.0, seconds):.0f}s"


def _seconds(moment: Timestamp | None) -> float:
    return 0.0 if moment is None else moment.seconds + moment.nanos / 1e9
