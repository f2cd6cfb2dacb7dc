"""The agents component over its doors, with real processes."""

from __future__ import annotations

import asyncio
import base64
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.component_suite import component_options

from protoplane.agents.v1 import (
    Agent,
    AgentsClient,
    AgentSpec,
    AgentState,
    AgentStatus,
    AgentStatusChanged,
    EndCause,
    FollowOutputRequest,
    GetAgentRequest,
    GetStatusRequest,
    HealthRequest,
    KillRequest,
    Limits,
    ListAgentsRequest,
    ListKindsRequest,
    OutputStream,
    Overflow,
    PauseRequest,
    ReadOutputRequest,
    ResumeRequest,
    SpawnRequest,
    StopRequest,
    WatchStatusRequest,
    WriteStdinRequest,
)
from protoplane_base import Code, Duration, PlaneError
from protoplane_client import connect
from protoplane_components.agents import Agents, AllowedKind, AllowedLimits, AllowList
from protoplane_server import Server

pytestmark = pytest.mark.anyio

RUNNING, PAUSED = AgentState.AGENT_STATE_RUNNING, AgentState.AGENT_STATE_PAUSED
EXITED = AgentState.AGENT_STATE_EXITED
STDOUT, STDERR = OutputStream.OUTPUT_STREAM_STDOUT, OutputStream.OUTPUT_STREAM_STDERR
WAIT_S = 30


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def allowed(tmp_path: Path) -> AllowList:
    (tmp_path / "free").mkdir()
    return AllowList(
        commands=["cat", "sh"],
        kinds={
            "hello": AllowedKind(command=["echo", "hello"], description="Says hello."),
            "shell": AllowedKind(
                command=["sh", "-c"], takes_arguments=True, environment={"KIND": "shell"}
            ),
        },
        folders=[tmp_path / "free"],
        variables=["JOB_*"],
        limits=AllowedLimits(open_files=512),
        max_agents=4,
        max_ended=3,
    )


@pytest.fixture
async def server(tmp_path: Path, allowed: AllowList) -> AsyncIterator[Server]:
    options = component_options(
        grpc="127.0.0.1:0",
        http="127.0.0.1:0",
        inproc="agents",
        engine="memory:",
        name="protoplane/agents/one",
    )
    async with Server(Agents(allowed, folder=tmp_path / "agents"), options) as server:
        yield server


@pytest.fixture(params=["grpc", "http"])
async def client(server: Server, request: pytest.FixtureRequest) -> AsyncIterator[AgentsClient]:
    target = f"grpc://{server.grpc_address}" if request.param == "grpc" else str(server.http_url)
    async with connect(target) as plane:
        yield AgentsClient(plane)


@pytest.fixture
async def inside(server: Server) -> AsyncIterator[AgentsClient]:
    async with connect("inproc:agents") as plane:
        yield AgentsClient(plane)


async def spawn(client: AgentsClient, *command: str, id_: str = "", **more: Any) -> Agent:
    spec = AgentSpec(command=list(command), **more)
    answer = await client.spawn(SpawnRequest(id=id_, spec=spec), timeout_s=WAIT_S)
    assert answer.agent is not None
    return answer.agent


async def shell(client: AgentsClient, script: str, **more: Any) -> Agent:
    return await spawn(client, "sh", "-c", script, **more)


async def until(
    client: AgentsClient, id_: str, holds: Callable[[AgentStatus], bool]
) -> AgentStatus:
    """Wait until the status of an agent is so."""
    async with asyncio.timeout(WAIT_S):
        while True:
            status = (await client.get_status(GetStatusRequest(id=id_))).status
            assert status is not None
            if holds(status):
                return status
            await asyncio.sleep(0.02)


async def until_over(client: AgentsClient, id_: str) -> AgentStatus:
    return await until(client, id_, lambda status: status.state == EXITED)


async def everything(client: AgentsClient, id_: str) -> tuple[bytes, bytes]:
    """All that an agent writes, from the first to the last."""
    out: dict[int, bytes] = {STDOUT: b"", STDERR: b""}
    ended = set[int]()
    async with asyncio.timeout(WAIT_S):
        async for answer in client.follow_output(FollowOutputRequest(id=id_)):
            piece = answer.output
            assert piece is not None
            assert piece.offset == len(out[piece.stream])
            assert piece.next_offset == piece.offset + len(piece.data)
            out[piece.stream] += piece.data
            if piece.end:
                ended.add(piece.stream)
    assert ended == {STDOUT, STDERR}
    return out[STDOUT], out[STDERR]


def kernel_says(pid: int) -> list[str]:
    """What the kernel tells of a process after its name; nothing where there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return [""]
    return stat.rpartition(")")[2].split()


def process_state(pid: int) -> str:
    """The letter that the kernel has for a process; empty where there is none."""
    return kernel_says(pid)[0]


async def until_process(pid: int, states: str) -> None:
    async with asyncio.timeout(WAIT_S):
        while process_state(pid) not in states.split(","):  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_the_life_of_an_agent(client: AgentsClient) -> None:
    agent = await shell(client, "echo out; echo err >&2; exit 3", name="short")
    assert agent.spec is not None
    assert agent.spec.name == "short"
    assert agent.host == "protoplane/agents/one"
    assert await everything(client, agent.id) == (b"out\n", b"err\n")
    status = await until_over(client, agent.id)
    assert (status.exit_code, status.signal, status.pid) == (3, "", 0)
    assert status.cause == EndCause.END_CAUSE_ITSELF
    assert (status.stdout_bytes, status.stderr_bytes) == (4, 4)
    assert status.ended_at is not None
    answer = await client.get_agent(GetAgentRequest(id=agent.id))
    assert answer.agent is not None
    assert answer.agent.status == status


async def test_stdin_and_bytes_that_are_no_text(client: AgentsClient) -> None:
    data = bytes(range(256)) * 400 + b"\r\n\0\xff"
    agent = await spawn(client, "cat")
    for begin in range(0, len(data), 60_000):
        piece = data[begin : begin + 60_000]
        await client.write_stdin(WriteStdinRequest(id=agent.id, data=piece), timeout_s=WAIT_S)
    last = WriteStdinRequest(id=agent.id, data=b"!", close=True)
    answer = await client.write_stdin(last, timeout_s=WAIT_S)
    assert answer.written_bytes == len(data) + 1
    assert await everything(client, agent.id) == (data + b"!", b"")
    with pytest.raises(PlaneError) as caught:
        await client.write_stdin(last, timeout_s=WAIT_S)
    assert caught.value.code is Code.FAILED_PRECONDITION
    request = ReadOutputRequest(id=agent.id, stream=STDOUT, offset=65_000, max_bytes=100)
    output = (await client.read_output(request)).output
    assert output is not None
    assert (output.data, output.next_offset, output.end) == (data[65_000:65_100], 65_100, False)


async def test_pause_and_resume(client: AgentsClient) -> None:
    agent = await shell(client, "sleep 600 & echo $!; wait")
    status = await until(client, agent.id, lambda status: status.stdout_bytes > 0)
    piece = (await client.read_output(ReadOutputRequest(id=agent.id))).output
    assert piece is not None
    child = int(piece.data)
    paused = (await client.pause(PauseRequest(id=agent.id), timeout_s=WAIT_S)).status
    assert paused is not None
    assert paused.state == PAUSED
    for pid in (status.pid, child):
        await until_process(pid, "T")
    resumed = (await client.resume(ResumeRequest(id=agent.id), timeout_s=WAIT_S)).status
    assert resumed is not None
    assert resumed.state == RUNNING
    for pid in (status.pid, child):
        await until_process(pid, "S,R")
    # One that is paused is stopped, too, and its children with it.
    await client.pause(PauseRequest(id=agent.id), timeout_s=WAIT_S)
    stopped = (await client.stop(StopRequest(id=agent.id), timeout_s=WAIT_S)).status
    assert stopped is not None
    assert (stopped.state, stopped.signal) == (EXITED, "SIGTERM")
    assert stopped.cause == EndCause.END_CAUSE_STOPPED
    await until_process(child, ",Z")
    with pytest.raises(PlaneError) as caught:
        await client.pause(PauseRequest(id=agent.id), timeout_s=WAIT_S)
    assert caught.value.code is Code.FAILED_PRECONDITION


async def test_stop_lets_it_end_well_then_kills_it(client: AgentsClient) -> None:
    polite = await shell(
        client, "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.05; done"
    )
    await until(client, polite.id, lambda status: status.stdout_bytes > 0)
    status = (await client.stop(StopRequest(id=polite.id), timeout_s=WAIT_S)).status
    assert status is not None
    assert (status.exit_code, status.cause) == (0, EndCause.END_CAUSE_STOPPED)
    assert (await everything(client, polite.id))[0] == b"up\nbye\n"
    stubborn = await shell(client, "trap '' TERM; echo up; while :; do sleep 0.05; done")
    await until(client, stubborn.id, lambda status: status.stdout_bytes > 0)
    stop = StopRequest(id=stubborn.id, grace=Duration.from_seconds(0.1))
    status = (await client.stop(stop, timeout_s=WAIT_S)).status
    assert status is not None
    assert (status.signal, status.cause) == ("SIGKILL", EndCause.END_CAUSE_STOPPED)


async def test_kill_and_those_who_left_the_group(client: AgentsClient) -> None:
    agent = await shell(client, "setsid sleep 600 & echo $!; wait")
    await until(client, agent.id, lambda status: status.stdout_bytes > 0)
    piece = (await client.read_output(ReadOutputRequest(id=agent.id))).output
    assert piece is not None
    status = (await client.kill(KillRequest(id=agent.id), timeout_s=WAIT_S)).status
    assert status is not None
    assert (status.signal, status.cause) == ("SIGKILL", EndCause.END_CAUSE_KILLED)
    await until_process(int(piece.data), ",Z")
    again = (await client.kill(KillRequest(id=agent.id), timeout_s=WAIT_S)).status
    assert again == status


async def test_listing_health_and_room(client: AgentsClient) -> None:
    agents = [await spawn(client, "cat", name=f"cat {number}") for number in range(4)]
    with pytest.raises(PlaneError, match="4 agents") as caught:
        await spawn(client, "cat")
    assert caught.value.code is Code.RESOURCE_EXHAUSTED
    health = await client.health(HealthRequest())
    assert (health.protocol_version, health.active, health.capacity) == (1, 4, 4)
    assert health.uptime is not None
    await client.kill(KillRequest(id=agents[0].id), timeout_s=WAIT_S)
    listed = await client.list_agents(ListAgentsRequest(states=[RUNNING], limit=2))
    assert [agent.id for agent in listed.agents] == [agents[3].id, agents[2].id]
    assert listed.total == 3
    ended = await client.list_agents(ListAgentsRequest(states=[EXITED]))
    assert [agent.id for agent in ended.agents] == [agents[0].id]
    kinds = await client.list_kinds(ListKindsRequest())
    assert [kind.name for kind in kinds.kinds] == ["hello", "shell"]


async def test_the_status_of_one_and_of_all(client: AgentsClient, server: Server) -> None:
    one = await spawn(client, "cat")
    of_one = client.watch_status(WatchStatusRequest(id=one.id))
    of_all = client.watch_status(WatchStatusRequest())
    states: list[AgentState | int] = []
    async with asyncio.timeout(WAIT_S):
        for answers in (of_one, of_all):
            changed = (await anext(answers)).changed
            assert changed is not None
            assert (changed.agent_id, changed.host) == (one.id, "protoplane/agents/one")
        two = await spawn(client, "cat")
        changed = (await anext(of_all)).changed
        assert changed is not None
        assert changed.agent_id == two.id
        await client.kill(KillRequest(id=one.id))
        async for answer in of_one:
            assert answer.changed is not None
            assert answer.changed.status is not None
            states.append(answer.changed.status.state)
        await of_all.aclose()  # type: ignore[attr-defined]
    assert states[-1] == EXITED


async def test_status_is_published(inside: AgentsClient, server: Server) -> None:
    events = server.events.read(["agents/*/status"])
    agent = await shell(inside, "read line", name="reader")
    await inside.write_stdin(WriteStdinRequest(id=agent.id, close=True), timeout_s=WAIT_S)
    states: list[tuple[str, AgentState]] = []
    async with asyncio.timeout(WAIT_S):
        while not states or states[-1][1] != EXITED:
            for event in await anext(events):
                told = AgentStatusChanged.from_bytes(getattr(event, "data", b""))
                assert told.agent_id == agent.id
                assert told.status is not None
                states.append((told.name, AgentState(told.status.state)))
    assert states[-1] == ("reader", EXITED)


async def test_output_is_bounded_and_says_what_went(inside: AgentsClient) -> None:
    agent = await shell(
        inside, "i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done", output_bytes=4096
    )
    status = await until_over(inside, agent.id)
    piece = (await inside.read_output(ReadOutputRequest(id=agent.id, max_bytes=1 << 20))).output
    assert piece is not None
    assert len(piece.data) == 4096
    assert piece.dropped_bytes == piece.offset == status.stdout_bytes - 4096
    assert piece.data.endswith(b"line 2998\nline 2999\n")
    assert piece.end


async def test_an_agent_waits_to_be_read(inside: AgentsClient) -> None:
    total = 1_000_000
    agent = await shell(
        inside,
        f"head -c {total} /dev/zero; echo done >&2",
        output_bytes=4096,
        overflow=Overflow.OVERFLOW_BLOCK,
    )
    await until(inside, agent.id, lambda status: status.stdout_bytes >= 4096)
    # So much is kept and what one read of its pipe brings; the rest it cannot have written.
    status = (await inside.get_status(GetStatusRequest(id=agent.id))).status
    assert status is not None
    assert status.stdout_bytes <= 4096 + 65_536
    out, err = await everything(inside, agent.id)
    assert len(out) == total
    assert err == b"done\n"


async def test_an_agent_that_does_not_read_makes_its_writer_wait(inside: AgentsClient) -> None:
    agent = await shell(inside, "read go; exec cat >&2")
    data = b"x" * 300_000
    writing = asyncio.ensure_future(
        inside.write_stdin(WriteStdinRequest(id=agent.id, data=b"\n" + data, close=True))
    )
    try:
        assert (await everything(inside, agent.id))[1] == data
        async with asyncio.timeout(WAIT_S):
            await writing
    finally:
        writing.cancel()
    sleeper = await shell(inside, "sleep 600")
    request = WriteStdinRequest(id=sleeper.id, data=data)
    with pytest.raises(PlaneError) as caught:
        await inside.write_stdin(request, timeout_s=0.2)
    assert caught.value.code is Code.DEADLINE_EXCEEDED
    # The others are not kept waiting.
    await inside.pause(PauseRequest(id=sleeper.id), timeout_s=WAIT_S)
    await inside.kill(KillRequest(id=sleeper.id), timeout_s=WAIT_S)


async def test_timeout(inside: AgentsClient) -> None:
    agent = await spawn(inside, "cat", timeout=Duration.from_seconds(0.1))
    status = await until_over(inside, agent.id)
    assert (status.cause, status.signal) == (EndCause.END_CAUSE_TIMED_OUT, "SIGTERM")


async def test_limits_environment_and_folder(
    inside: AgentsClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "of the host")
    agent = await spawn(
        inside,
        "sh",
        "-c",
        'ulimit -n; ulimit -c; pwd; echo "$JOB_ID$SECRET"; echo $$; cut -d" " -f5 /proc/$$/stat',
        limits=Limits(open_files=77),
        environment={"JOB_ID": "ü7"},
        working_folder=str(tmp_path / "free"),
    )
    out = (await everything(inside, agent.id))[0].decode().split("\n")
    assert out[:4] == ["77", "0", str(tmp_path / "free"), "ü7"]
    assert out[4].strip() == out[5].strip()
    kind = AgentSpec(kind="shell", arguments=["echo $KIND; pwd; ls -a | wc -l; ulimit -n"])
    answer = await inside.spawn(SpawnRequest(spec=kind), timeout_s=WAIT_S)
    assert answer.agent is not None
    assert answer.agent.spec is not None
    assert answer.agent.spec.name == "shell"
    lines = (await everything(inside, answer.agent.id))[0].decode().split()
    assert lines[0] == "shell"
    assert lines[1].startswith(str(tmp_path / "agents"))
    assert lines[2:] == ["2", "512"]


@pytest.mark.parametrize(
    ("spec", "code", "told"),
    [
        (AgentSpec(), Code.INVALID_ARGUMENT, "one of kind and command"),
        (AgentSpec(command=["ls"]), Code.PERMISSION_DENIED, "'ls'"),
        (AgentSpec(command=["/tmp/sh"]), Code.PERMISSION_DENIED, "/tmp/sh"),
        (AgentSpec(kind="nobody"), Code.PERMISSION_DENIED, "hello, shell"),
        (AgentSpec(kind="hello", arguments=["x"]), Code.PERMISSION_DENIED, "no arguments"),
        (
            AgentSpec(command=["cat"], environment={"LD_PRELOAD": "x"}),
            Code.PERMISSION_DENIED,
            "LD_PRELOAD",
        ),
        (AgentSpec(command=["cat"], working_folder="/"), Code.PERMISSION_DENIED, "folders"),
        (AgentSpec(command=["cat"], working_folder="x"), Code.INVALID_ARGUMENT, "root"),
        (
            AgentSpec(command=["cat"], limits=Limits(open_files=513)),
            Code.INVALID_ARGUMENT,
            "1 to 512",
        ),
        (AgentSpec(command=["cat", "a\0b"]), Code.INVALID_ARGUMENT, "NUL"),
        (AgentSpec(command=["cat", "a" * 200_000]), Code.INVALID_ARGUMENT, "131072"),
        (AgentSpec(command=["cat"], timeout=Duration(0)), Code.INVALID_ARGUMENT, "timeout"),
        (AgentSpec(command=["cat"], output_bytes=1), Code.INVALID_ARGUMENT, "output_bytes"),
    ],
)
async def test_what_is_not_let(
    inside: AgentsClient, spec: AgentSpec, code: Code, told: str
) -> None:
    with pytest.raises(PlaneError) as caught:
        await inside.spawn(SpawnRequest(spec=spec), timeout_s=WAIT_S)
    assert caught.value.code is code
    assert told in caught.value.message
    assert (await inside.list_agents(ListAgentsRequest())).total == 0


async def test_a_folder_cannot_be_left_by_a_link(inside: AgentsClient, tmp_path: Path) -> None:
    (tmp_path / "free" / "way").symlink_to("/")
    with pytest.raises(PlaneError, match="does not let"):
        await spawn(inside, "cat", working_folder=str(tmp_path / "free" / "way" / "etc"))


async def test_the_same_id_is_the_same_agent(inside: AgentsClient) -> None:
    answers = await asyncio.gather(*(spawn(inside, "cat", id_="one") for _ in range(5)))
    assert {answer.status.pid for answer in answers if answer.status} != {0}
    assert (await inside.health(HealthRequest())).active == 1
    with pytest.raises(PlaneError) as caught:
        await spawn(inside, "cat", "-", id_="one")
    assert caught.value.code is Code.ALREADY_EXISTS
    with pytest.raises(PlaneError) as caught:
        await spawn(inside, "cat", id_="../one")
    assert caught.value.code is Code.INVALID_ARGUMENT


async def test_ended_agents_are_forgotten_one_day(inside: AgentsClient, tmp_path: Path) -> None:
    for _ in range(5):
        agent = await shell(inside, "exit 0")
        await until_over(inside, agent.id)
    assert (await inside.list_agents(ListAgentsRequest())).total <= 4
    folders = [path for path in (tmp_path / "agents" / "0").iterdir() if path.is_dir()]
    assert len(folders) <= 4


async def test_nobody_of_that_id(inside: AgentsClient) -> None:
    with pytest.raises(PlaneError) as caught:
        await inside.stop(StopRequest(id="nobody"))
    assert caught.value.code is Code.NOT_FOUND


async def test_a_supervisor_that_is_killed_takes_its_agent_along(inside: AgentsClient) -> None:
    agent = await shell(inside, "sleep 600 & echo $!; wait")
    assert agent.status is not None
    await until(inside, agent.id, lambda status: status.stdout_bytes > 0)
    piece = (await inside.read_output(ReadOutputRequest(id=agent.id))).output
    assert piece is not None
    os.kill(int(kernel_says(agent.status.pid)[1]), signal.SIGKILL)
    lost = await until(inside, agent.id, lambda status: status.state == AgentState.AGENT_STATE_LOST)
    assert lost.pid == 0
    for pid in (agent.status.pid, int(piece.data)):
        await until_process(pid, ",Z")
    followed = inside.follow_output(FollowOutputRequest(id=agent.id))
    async with asyncio.timeout(WAIT_S):
        assert [answer.output.end async for answer in followed if answer.output][-2:] == [True] * 2
    with pytest.raises(PlaneError, match="ended"):
        await inside.write_stdin(WriteStdinRequest(id=agent.id, data=b"x"), timeout_s=WAIT_S)


async def test_by_curl(server: Server) -> None:
    async with httpx.AsyncClient(base_url=str(server.http_url), timeout=WAIT_S) as http:
        spec = {"id": "curl", "spec": {"command": ["cat"]}}
        answer = await http.post("/agents/v1/agents", json=spec)
        assert answer.status_code == 200
        data = base64.b64encode(b"\xffbytes").decode()
        body = {"data": data, "close": True}
        assert (await http.post("/agents/v1/agents/curl/stdin", json=body)).status_code == 200
        followed = await http.get("/agents/v1/agents/curl/output:follow?streams=1")
        assert data in followed.text
        answer = await http.get("/agents/v1/agents/curl/output?offset=1")
        assert answer.json()["output"]["data"] == base64.b64encode(b"bytes").decode()
        assert (await http.get("/agents/v1/agents?limit=1")).json()["total"] == 1
        assert (await http.post("/agents/v1/agents", json={"spec": {}})).status_code == 400
        refused = {"spec": {"command": ["rm"]}}
        assert (await http.post("/agents/v1/agents", json=refused)).status_code == 403
