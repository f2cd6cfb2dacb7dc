"""Several hosts as one: in one process, and by the command line."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from asyncio.subprocess import PIPE
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.component_suite import component_options
from tests.components.agents.hosts import COMMAND, HostProcess, host_process
from tests.components.agents.test_agents import WAIT_S

from protoplane.agents.v1 import AgentSpec, AgentState, KillRequest, Lifetime, StopRequest
from protoplane_base import Code, PlaneError
from protoplane_client import connect
from protoplane_components.agents import AgentPool, Agents, AllowList
from protoplane_components.commands.agents import agents
from protoplane_server import Server

pytestmark = pytest.mark.anyio

CAT = AgentSpec(command=["cat"])


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@asynccontextmanager
async def host(folder: Path, name: str, room: int) -> AsyncGenerator[Server]:
    options = component_options(
        link=("link+tcp://127.0.0.1:0",),
        engine=f"local:{folder / 'engine'}",
        name=f"protoplane/agents/{name}",
    )
    allowed = AllowList(commands=["cat"], max_agents=room)
    async with Server(Agents(allowed, folder=folder / "agents"), options) as server:
        yield server


@pytest.fixture
async def pool(tmp_path: Path) -> AsyncIterator[AgentPool]:
    engine = f"local:{tmp_path / 'engine'}"
    async with (
        host(tmp_path, "small", 2),
        host(tmp_path, "large", 4),
        connect("protoplane/agents", engine=engine) as plane,
    ):
        pool = AgentPool(plane)
        async with asyncio.timeout(WAIT_S):
            while len(await pool.hosts()) < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        yield pool


async def test_agents_start_where_there_is_most_room(pool: AgentPool) -> None:
    started = [await pool.spawn(CAT) for _ in range(3)]
    assert Counter(agent.host for agent in started) == {
        "protoplane/agents/small": 1,
        "protoplane/agents/large": 2,
    }
    started += await asyncio.gather(*(pool.spawn(CAT) for _ in range(3)))
    assert Counter(agent.host for agent in started) == {
        "protoplane/agents/small": 2,
        "protoplane/agents/large": 4,
    }
    with pytest.raises(PlaneError) as caught:
        await pool.spawn(CAT)
    assert caught.value.code is Code.RESOURCE_EXHAUSTED
    listed = await pool.agents()
    assert {agent.id for agent in listed} == {agent.id for agent in started}
    for agent in started:
        client = await pool.client(agent.id)
        status = (await client.kill(KillRequest(id=agent.id), timeout_s=WAIT_S)).status
        assert status is not None
    assert await pool.agents([AgentState.AGENT_STATE_RUNNING]) == []


async def test_an_id_is_one_agent_of_the_pool(pool: AgentPool) -> None:
    first = await pool.spawn(CAT, id_="mine")
    again = await pool.spawn(CAT, id_="mine")
    assert (first.host, first.status) == (again.host, again.status)
    with pytest.raises(PlaneError) as caught:
        await pool.client("nobody")
    assert caught.value.code is Code.NOT_FOUND


async def test_an_agent_is_found_at_the_next_host(tmp_path: Path) -> None:
    spec = AgentSpec(command=["cat"], lifetime=Lifetime.LIFETIME_OUTLIVES_HOST)
    async with connect("protoplane/agents", engine=f"local:{tmp_path / 'engine'}") as plane:
        pool = AgentPool(plane)
        async with host_process(tmp_path) as first:
            agent = await pool.spawn(spec)
            await first.end(signal.SIGKILL)
        async with host_process(tmp_path):
            async with asyncio.timeout(WAIT_S):
                while True:
                    try:
                        client = await pool.client(agent.id)
                        break
                    except PlaneError:  # The pool may not have heard of it yet.
                        await asyncio.sleep(0.05)
            answer = await client.stop(StopRequest(id=agent.id), timeout_s=WAIT_S)
            assert answer.status is not None
            assert answer.status.signal == "SIGTERM"


async def typed(host: HostProcess, *words: str) -> tuple[int, bytes, bytes]:
    """Run ``protoplane agents …`` here."""
    environment = {"PROTOPLANE_ENGINE": host.engine, "COLUMNS": "200"}
    runner = CliRunner(env=environment)
    done = await asyncio.to_thread(runner.invoke, agents, [*words])
    return done.exit_code, done.stdout_bytes, done.stderr_bytes


async def typed_elsewhere(host: HostProcess, *words: str, stdin: bytes = b"") -> bytes:
    """Run ``protoplane agents …`` as a process; gives its output."""
    process = await asyncio.create_subprocess_exec(
        *COMMAND[:2],
        "from protoplane_components.commands.agents import agents; agents()",
        *words,
        stdin=PIPE,
        stdout=PIPE,
        env={**os.environ, "PROTOPLANE_ENGINE": host.engine},
    )
    out, _ = await asyncio.wait_for(process.communicate(stdin), 60)
    assert process.returncode == 0
    return out


async def test_the_command_line(tmp_path: Path) -> None:
    data = b"\xff\x00binary"
    async with host_process(tmp_path) as host:
        done = await typed(host, "spawn", "--name", "mine", "--id", "c", "--", "cat", "-u")
        assert done == (0, b"c\n", b"")
        following = asyncio.create_task(typed_elsewhere(host, "logs", "c", "-f"))
        await typed_elsewhere(host, "send", "c", "-", stdin=data)
        _, listed, _ = await typed(host, "list", "--json")
        assert json.loads(listed)["spec"]["name"] == "mine"
        _, table, _ = await typed(host, "list")
        assert b"mine" in table
        _, table, _ = await typed(host, "hosts")
        assert b"protoplane/agents/" in table
        assert await typed(host, "pause", "c") == (0, b"paused\n", b"")
        assert await typed(host, "resume", "c") == (0, b"running\n", b"")
        assert await typed(host, "send", "c", "end", "--close") == (0, b"", b"")
        assert await following == data + b"end\n"
        assert await typed(host, "logs", "c") == (0, data + b"end\n", b"")
        # It has ended by itself, so there is nothing to stop.
        assert await typed(host, "stop", "c") == (0, b"exited, code 0\n", b"")
        script = "echo a; echo b >&2; exit 2"
        code, out, err = await typed(host, "spawn", "-f", "--id", "d", "--", "sh", "-c", script)
        assert (code, out, err) == (1, b"a\n", b"d\nb\n")
        code, out, err = await typed(host, "spawn", "rm", "-r", "x")
        assert (code, out) == (1, b"")
        assert err.startswith(b"error: PERMISSION_DENIED")
        assert len(err.splitlines()) == 1
        assert (await typed(host, "kill", "nobody"))[0] == 1
        assert (await typed(host, "spawn"))[0] == 2
