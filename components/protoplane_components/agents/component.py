"""The component, as a user would write it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from time import monotonic
from typing import Self

from protoplane.agents.v1 import (
    AgentsService,
    FollowOutputRequest,
    FollowOutputResponse,
    GetAgentRequest,
    GetAgentResponse,
    GetStatusRequest,
    GetStatusResponse,
    HealthRequest,
    HealthResponse,
    KillRequest,
    KillResponse,
    Kind,
    ListAgentsRequest,
    ListAgentsResponse,
    ListKindsRequest,
    ListKindsResponse,
    PauseRequest,
    PauseResponse,
    ReadOutputRequest,
    ReadOutputResponse,
    ResumeRequest,
    ResumeResponse,
    SpawnRequest,
    SpawnResponse,
    StopRequest,
    StopResponse,
    WatchStatusRequest,
    WatchStatusResponse,
    WriteStdinRequest,
    WriteStdinResponse,
)
from protoplane_base import VERSION, Code, Duration, PlaneError
from protoplane_components.agents.agent import Agent
from protoplane_components.agents.allowlist import VARIABLE, AllowList, read_allow_list, resolved
from protoplane_components.agents.announcing import Announcer
from protoplane_components.agents.conversion import (
    agent_of,
    changed_of,
    offset_of,
    output_of,
    state_of,
    status_of,
    stream_of,
)
from protoplane_components.agents.launching import grace_of
from protoplane_components.agents.roster import Roster
from protoplane_server import Context, Host

PROTOCOL_VERSION = 1

_MAX_BYTES = 1_048_576
_READ_BYTES = 65_536
_LISTED, _MAX_LISTED = 100, 1000


class Agents(AgentsService):
    """Starts processes that its allow-list lets be started, and keeps them under control.

    Args:
        allowed: What may be started, or the TOML file that says so; by default that of
            ``$PROTOPLANE_AGENTS``, and nothing where there is none.
        folder: Where the hosts of this machine keep their agents; by default
            ``$PROTOPLANE_AGENTS_FOLDER``, else beside the default engine. A host that starts in the
            same one finds the agents of one that ended.

    Raises:
        PlaneError: The allow-list cannot be read.
    """

    endless_methods = ("WatchStatus", "FollowOutput")

    def __init__(
        self, allowed: AllowList | Path | None = None, *, folder: Path | None = None
    ) -> None:
        self._allowed = _allow_list(allowed)
        self._folder = folder
        self._host: Host | None = None
        self._opened: tuple[Roster, Announcer] | None = None
        self._stack = AsyncExitStack()
        self._began = monotonic()

    def hosted(self, host: Host) -> None:
        """Remember the server, to publish events."""
        self._host = host

    async def __aenter__(self) -> Self:
        announcer = Announcer(self._server)
        roster = Roster(self._allowed, self._folder, announcer.changed)
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(announcer)
            await stack.enter_async_context(roster)
            self._stack = stack.pop_all()
        self._opened = roster, announcer
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    @property
    def _server(self) -> Host:
        if self._host is None:
            raise PlaneError(Code.FAILED_PRECONDITION, "Agents runs in a Server; give it to one")
        return self._host

    @property
    def _roster(self) -> Roster:
        assert self._opened is not None
        return self._opened[0]

    async def spawn(self, request: SpawnRequest, ctx: Context) -> SpawnResponse:
        """Start an agent."""
        if request.spec is None:
            raise PlaneError(Code.INVALID_ARGUMENT, "spec is absent; say what to start")
        agent = await self._roster.spawn(request.id, request.spec)
        return SpawnResponse(agent=agent_of(agent, self._server.name))

    async def list_agents(self, request: ListAgentsRequest, ctx: Context) -> ListAgentsResponse:
        """List agents."""
        limit = request.limit or _LISTED
        if not 1 <= limit <= _MAX_LISTED:
            raise PlaneError(
                Code.INVALID_ARGUMENT, f"limit is {request.limit}; it is 1 to {_MAX_LISTED}"
            )
        found = [
            agent
            for agent in self._roster.agents
            if not request.states or state_of(agent) in request.states
        ]
        name = self._server.name
        return ListAgentsResponse(
            agents=[agent_of(agent, name) for agent in found[:limit]], total=len(found)
        )

    async def get_agent(self, request: GetAgentRequest, ctx: Context) -> GetAgentResponse:
        """Tell all about one agent."""
        return GetAgentResponse(agent=agent_of(self._find(request.id), self._server.name))

    async def get_status(self, request: GetStatusRequest, ctx: Context) -> GetStatusResponse:
        """Tell how one agent does."""
        return GetStatusResponse(status=status_of(self._find(request.id)))

    async def pause(self, request: PauseRequest, ctx: Context) -> PauseResponse:
        """Halt an agent."""
        agent = self._find(request.id)
        await agent.pause()
        return PauseResponse(status=status_of(agent))

    async def resume(self, request: ResumeRequest, ctx: Context) -> ResumeResponse:
        """Let an agent go on."""
        agent = self._find(request.id)
        await agent.resume()
        return ResumeResponse(status=status_of(agent))

    async def stop(self, request: StopRequest, ctx: Context) -> StopResponse:
        """End an agent."""
        agent = self._find(request.id)
        await agent.stop(grace_of(request.grace))
        return StopResponse(status=status_of(agent))

    async def kill(self, request: KillRequest, ctx: Context) -> KillResponse:
        """End an agent at once."""
        agent = self._find(request.id)
        await agent.kill()
        return KillResponse(status=status_of(agent))

    async def write_stdin(self, request: WriteStdinRequest, ctx: Context) -> WriteStdinResponse:
        """Write to an agent's standard input."""
        agent = self._find(request.id)
        if len(request.data) > _MAX_BYTES:
            raise PlaneError(
                Code.INVALID_ARGUMENT,
                f"{len(request.data)} bytes are too many at a time; send {_MAX_BYTES} at most",
            )
        await agent.write(request.data, last=request.close)
        return WriteStdinResponse(written_bytes=agent.status["written"])

    async def read_output(self, request: ReadOutputRequest, ctx: Context) -> ReadOutputResponse:
        """Read what an agent wrote."""
        agent = self._find(request.id)
        most = request.max_bytes or _READ_BYTES
        if not 1 <= most <= _MAX_BYTES:
            raise PlaneError(Code.INVALID_ARGUMENT, f"max_bytes is {most}; it is 1 to {_MAX_BYTES}")
        stream = stream_of(request.stream)
        piece = await agent.read(stream, offset_of(request.offset), most)
        return ReadOutputResponse(output=output_of(stream, piece))

    async def follow_output(
        self, request: FollowOutputRequest, ctx: Context
    ) -> AsyncIterator[FollowOutputResponse]:
        """Follow what an agent writes."""
        agent = self._find(request.id)
        wanted = {stream_of(each) for each in request.streams} or {0, 1}
        begin = offset_of(request.stdout_offset), offset_of(request.stderr_offset)
        pieces = agent.follow({stream: begin[stream] for stream in sorted(wanted)})
        async with aclosing(pieces):
            async for each in pieces:
                yield FollowOutputResponse(output=output_of(each.stream, each.piece))

    async def watch_status(
        self, request: WatchStatusRequest, ctx: Context
    ) -> AsyncIterator[WatchStatusResponse]:
        """Follow how agents do."""
        assert self._opened is not None
        roster, announcer = self._opened
        there = [self._find(request.id)] if request.id else reversed(roster.agents)
        told = announcer.watch(there, only=request.id)
        async with aclosing(told):
            async for agent in told:
                yield WatchStatusResponse(changed=changed_of(agent, self._server.name))

    async def list_kinds(self, request: ListKindsRequest, ctx: Context) -> ListKindsResponse:
        """Tell what may be started."""
        return ListKindsResponse(
            kinds=[
                Kind(name=name, description=kind.description, takes_arguments=kind.takes_arguments)
                for name, kind in sorted(self._allowed.kinds.items())
            ],
            commands=[*self._allowed.commands],
        )

    async def health(self, request: HealthRequest, ctx: Context) -> HealthResponse:
        """Tell how the host does."""
        roster = self._roster
        active = len(roster.active)
        return HealthResponse(
            protocol_version=PROTOCOL_VERSION,
            uptime=Duration.from_seconds(monotonic() - self._began),
            active=active,
            capacity=self._allowed.max_agents,
            ended=len(roster.agents) - active,
            instance=self._server.name,
            version=VERSION,
        )

    def _find(self, id_: str) -> Agent:
        return self._roster.find(id_)


def _allow_list(allowed: AllowList | Path | None) -> AllowList:
    if isinstance(allowed, AllowList):
        return resolved(allowed, Path.cwd())
    named = os.environ.get(VARIABLE)
    path = allowed or (Path(named) if named else None)
    return AllowList() if path is None else read_allow_list(path)
