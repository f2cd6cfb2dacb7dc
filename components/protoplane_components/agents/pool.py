"""Many hosts as one: agents start where there is most room, and are found wherever they are."""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from protoplane.agents.v1 import (
    Agent,
    AgentsClient,
    AgentSpec,
    AgentState,
    GetStatusRequest,
    HealthRequest,
    HealthResponse,
    ListAgentsRequest,
    SpawnRequest,
)
from protoplane_base import Code, PlaneError
from protoplane_client import Plane
from protoplane_client.route import Route
from protoplane_runtime.link.errors import UnsentError

TIMEOUT_S = 10.0
_ELSEWHERE = (Code.RESOURCE_EXHAUSTED,)


@dataclass(frozen=True, slots=True)
class HostLoad:
    """A host, and how it does.

    Attributes:
        route: The way to it.
        health: What it says.
    """

    route: Route
    health: HealthResponse

    @property
    def load(self) -> float:
        """Share of its room that is taken: 0 for idle, 1 for full."""
        return self.health.active / max(1, self.health.capacity)


class AgentPool:
    """The hosts that a plane leads to, by name all that discovery knows now and later on.

    Args:
        plane: The way to them; whoever opened it closes it.
        timeout_s: Seconds that each host has to answer where all are asked.
    """

    def __init__(self, plane: Plane, *, timeout_s: float = TIMEOUT_S) -> None:
        self._plane = plane
        self._timeout_s = timeout_s
        self._places: dict[str, str] = {}
        self._underway: Counter[str] = Counter()

    async def hosts(self) -> Sequence[HostLoad]:
        """The hosts that answer, the least loaded first.

        Raises:
            PlaneError: UNAVAILABLE; there is none.
        """
        routes = await self._routes()
        answers = await asyncio.gather(*(self._health(route) for route in routes))
        found = [
            HostLoad(route, answer)
            for route, answer in zip(routes, answers, strict=True)
            if isinstance(answer, HealthResponse)
        ]
        if not found:
            [*errors] = (each for each in answers if isinstance(each, PlaneError))
            raise errors[0]
        return sorted(found, key=self._crowd)

    async def spawn(
        self, spec: AgentSpec, *, id_: str = "", timeout_s: float | None = None
    ) -> Agent:
        """Start an agent on the least loaded host; on the next one where that is full after all.

        Cancelling it may leave the agent started.

        Args:
            spec: What to start.
            id_: Its id; made up where empty.
            timeout_s: Seconds that a host has to start it.

        Raises:
            PlaneError: See ``AgentsService.Spawn``; RESOURCE_EXHAUSTED where all hosts are full.
        """
        request = SpawnRequest(id=id_ or secrets.token_hex(6), spec=spec)
        failed: PlaneError | None = None
        if id_ and (known := await self._holder(id_)) is not None:
            # Asked again, it is for who has it to say whether it is the same.
            answer = await AgentsClient(known).spawn(request, timeout_s=timeout_s)
            return answer.agent or Agent()
        for host in await self.hosts():
            name = host.route.name
            self._underway[name] += 1
            try:
                answer = await AgentsClient(host.route).spawn(request, timeout_s=timeout_s)
            except PlaneError as error:
                # What may have begun elsewhere is not begun twice.
                if error.code not in _ELSEWHERE and not isinstance(error, UnsentError):
                    raise
                failed = error
            else:
                self._places[request.id] = name
                return answer.agent or Agent()
            finally:
                self._underway[name] -= 1
        assert failed is not None
        raise failed

    async def client(self, id_: str) -> AgentsClient:
        """A client of the host that has an agent.

        Args:
            id_: The agent.

        Raises:
            PlaneError: NOT_FOUND, no host has it; UNAVAILABLE, none that answers has it, and some
                do not answer.
        """
        route = await self._holder(id_)
        if route is None:
            raise PlaneError(Code.NOT_FOUND, f"no host has an agent {id_!r}")
        return AgentsClient(route)

    async def agents(
        self, states: Collection[AgentState] = (), *, limit: int = 100
    ) -> Sequence[Agent]:
        """The agents of all hosts that answer, the newest first.

        Args:
            states: Only those in one of these; in any where empty.
            limit: Most agents.

        Raises:
            PlaneError: No host answers.
        """
        request = ListAgentsRequest(states=[*states], limit=limit)
        found: list[Agent] = []
        for host, answer in await self._each(request):
            for agent in answer:
                self._places[agent.id] = host
            found += answer
        return sorted(found, key=_started, reverse=True)[:limit]

    async def _each(self, request: ListAgentsRequest) -> Sequence[tuple[str, Sequence[Agent]]]:
        async def ask(route: Route) -> Sequence[Agent] | PlaneError:
            try:
                answer = await AgentsClient(route).list_agents(request, timeout_s=self._timeout_s)
            except PlaneError as error:
                return error
            return answer.agents

        routes = await self._routes()
        answers = await asyncio.gather(*map(ask, routes))
        found = [
            (route.name, answer)
            for route, answer in zip(routes, answers, strict=True)
            if not isinstance(answer, PlaneError)
        ]
        if not found:
            raise next(each for each in answers if isinstance(each, PlaneError))
        return found

    async def _holder(self, id_: str) -> Route | None:
        routes = await self._routes()
        name = self._places.get(id_)
        if name is not None:
            # It goes first, and alone: most of the time it still has it.
            first = [route for route in routes if route.name == name]
            if first and await self._has(first[0], id_) is True:
                return first[0]
        answers = await asyncio.gather(*(self._has(route, id_) for route in routes))
        for route, answer in zip(routes, answers, strict=True):
            if answer is True:
                self._places[id_] = route.name
                return route
        self._places.pop(id_, None)
        for error in answers:
            if isinstance(error, PlaneError):
                raise error
        return None

    async def _has(self, route: Route, id_: str) -> bool | PlaneError:
        request = GetStatusRequest(id=id_)
        try:
            await AgentsClient(route).get_status(request, timeout_s=self._timeout_s)
        except PlaneError as error:
            return False if error.code is Code.NOT_FOUND else error
        return True

    async def _health(self, route: Route) -> HealthResponse | PlaneError:
        try:
            return await AgentsClient(route).health(HealthRequest(), timeout_s=self._timeout_s)
        except PlaneError as error:
            return error

    async def _routes(self) -> Sequence[Route]:
        if not self._plane.routes:
            # By name nobody is looked up before the first call.
            await AgentsClient(self._plane).health(HealthRequest(), timeout_s=self._timeout_s)
        return self._plane.routes

    def _crowd(self, host: HostLoad) -> float:
        """Its load, with the agents that this pool is starting there."""
        return host.load + self._underway[host.route.name] / max(1, host.health.capacity)


def _started(agent: Agent) -> tuple[int, int]:
    at = agent.status.started_at if agent.status is not None else None
    return (0, 0) if at is None else (at.seconds, at.nanos)
