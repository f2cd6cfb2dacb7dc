"""Hosts that are killed or stopped, and what becomes of their agents: real processes."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.components.agents.hosts import HostProcess, host_process
from tests.components.agents.test_agents import WAIT_S, everything, until, until_over, until_process

from protoplane.agents.v1 import (
    AgentsClient,
    AgentSpec,
    AgentState,
    AgentStatusChanged,
    EndCause,
    KillRequest,
    Lifetime,
    ListAgentsRequest,
    PauseRequest,
    ResumeRequest,
    SpawnRequest,
    WatchStatusRequest,
    WriteStdinRequest,
)
from protoplane_base import PlaneError
from protoplane_client import connect
from protoplane_runtime.engines.interface import Event, Start
from protoplane_runtime.engines.opening import open_engine

pytestmark = pytest.mark.anyio

OUTLIVES = Lifetime.LIFETIME_OUTLIVES_HOST


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@asynccontextmanager
async def hosted(folder: Path) -> AsyncGenerator[tuple[HostProcess, AgentsClient]]:
    async with host_process(folder) as host, connect(f"grpc://{host.grpc}") as plane:
        yield host, AgentsClient(plane)


async def spawn(client: AgentsClient, id_: str, script: str, lifetime: Lifetime) -> int:
    spec = AgentSpec(command=["sh", "-c", script], lifetime=lifetime)
    answer = await client.spawn(SpawnRequest(id=id_, spec=spec), timeout_s=WAIT_S)
    assert answer.agent is not None
    assert answer.agent.status is not None
    return answer.agent.status.pid


async def ends_published(host: HostProcess) -> list[str]:
    """The agents whose end the log of events tells, each as often as it does."""
    engine = await open_engine(host.engine)
    ends: list[str] = []
    try:
        mark = await engine.events.publish("mark", "forge.v1.None", b"", "{}", durable=True)
        events: Any = engine.events.read(["agents/*/status", "mark"], after=Start.EARLIEST)
        async with asyncio.timeout(WAIT_S), aclosing(events):
            async for batch in events:
                for event in batch:
                    assert isinstance(event, Event)
                    if event.id == mark:
                        return ends
                    if event.key == "mark":
                        continue
                    told = AgentStatusChanged.from_bytes(event.data)
                    assert told.status is not None
                    if told.status.state == AgentState.AGENT_STATE_EXITED:
                        ends.append(told.agent_id)
    finally:
        await engine.close()
    raise AssertionError("the log ended")


async def until_published(host: HostProcess, wanted: set[str]) -> None:
    """Wait until the ends of these agents are told, each once."""
    async with asyncio.timeout(WAIT_S):
        while {*(ends := await ends_published(host))} != wanted:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert len(ends) == len(wanted)


async def test_a_host_that_is_killed(tmp_path: Path) -> None:
    async with hosted(tmp_path) as (host, client):
        pid = await spawn(client, "goes-on", "while read x; do echo got $x; done; exit 7", OUTLIVES)
        await spawn(client, "short", "read x; exit 5", OUTLIVES)
        ending = await spawn(client, "ends", "sleep 600", Lifetime.LIFETIME_ENDS_WITH_HOST)
        await client.write_stdin(WriteStdinRequest(id="goes-on", data=b"1\n"), timeout_s=WAIT_S)
        await client.pause(PauseRequest(id="short"), timeout_s=WAIT_S)
        await client.resume(ResumeRequest(id="short"), timeout_s=WAIT_S)
        await client.write_stdin(WriteStdinRequest(id="short", data=b"\n"), timeout_s=WAIT_S)
        await host.end(signal.SIGKILL)
    await until_process(ending, ",Z")
    async with hosted(tmp_path) as (host, client):
        listed = (await client.list_agents(ListAgentsRequest())).agents
        assert [agent.id for agent in listed] == ["ends", "short", "goes-on"]
        assert all(agent.host.startswith("protoplane/agents/") for agent in listed)
        status = await until_over(client, "ends")
        assert status.cause == EndCause.END_CAUSE_HOST_ENDED
        status = await until_over(client, "short")
        assert (status.exit_code, status.cause) == (5, EndCause.END_CAUSE_ITSELF)
        status = await until(client, "goes-on", lambda status: status.stdout_bytes > 0)
        assert (status.state, status.pid) == (AgentState.AGENT_STATE_RUNNING, pid)
        last = WriteStdinRequest(id="goes-on", data=b"2\n", close=True)
        await client.write_stdin(last, timeout_s=WAIT_S)
        assert await everything(client, "goes-on") == (b"got 1\ngot 2\n", b"")
        assert (await until_over(client, "goes-on")).exit_code == 7
        await until_published(host, {"ends", "goes-on", "short"})
        await host.end(signal.SIGTERM)
    async with hosted(tmp_path) as (host, client):
        # What was told is not told again.
        await spawn(client, "last", "exit 0", OUTLIVES)
        await until_published(host, {"ends", "goes-on", "short", "last"})


async def test_a_host_that_is_stopped(tmp_path: Path) -> None:
    async with hosted(tmp_path) as (host, client):
        pid = await spawn(client, "goes-on", "sleep 600", OUTLIVES)
        ending = await spawn(client, "ends", "sleep 600", Lifetime.LIFETIME_UNSPECIFIED)
        watching: Any = client.watch_status(WatchStatusRequest())
        await anext(watching)
        await host.end(signal.SIGTERM)
        with pytest.raises(PlaneError):
            _ = [answer async for answer in watching]
        assert host.process.returncode == 0
        # It waited for them.
        await until_process(ending, "")
    async with hosted(tmp_path) as (host, client):
        listed = (await client.list_agents(ListAgentsRequest())).agents
        assert [(agent.id, agent.status and agent.status.pid) for agent in listed] == [
            ("ends", 0),
            ("goes-on", pid),
        ]
        await until_published(host, {"ends"})
        await client.kill(KillRequest(id="goes-on"), timeout_s=WAIT_S)
