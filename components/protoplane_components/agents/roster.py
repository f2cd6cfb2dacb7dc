"""The agents of one host: started, found again, remembered and forgotten."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from time import time_ns
from typing import Self

from protoplane.agents.v1 import AgentSpec, Lifetime
from protoplane_base import Code, Duration, PlaneError
from protoplane_components.agents import supervisor
from protoplane_components.agents.agent import ANNOUNCED, Agent, AgentRecord
from protoplane_components.agents.allowlist import AllowList
from protoplane_components.agents.launching import Launch, checked_id, planned
from protoplane_components.agents.places import Place
from protoplane_components.agents.remains import MARK

_START_S = 60.0
_END_S = 10.0
_log = logging.getLogger("protoplane.agents")


class Roster:
    """The agents of one host; use it with ``async with``.

    Entered, it takes a place and finds the agents that are kept there. Left, it ends those that
    are to end with their host, and lets go of the others.

    Args:
        allowed: What may be started.
        base: The folder of all hosts' folders, see `Place.take`.
        changed: Is told of each agent whose state is another, and of new ones.
    """

    def __init__(
        self, allowed: AllowList, base: Path | None, changed: Callable[[Agent], None]
    ) -> None:
        self.allowed = allowed
        self._base = base
        self._changed = changed
        self._agents: dict[str, Agent] = {}
        self._starting: dict[str, asyncio.Task[Agent]] = {}
        self._place: Place | None = None
        self._lifeline: tuple[int, int] | None = None

    async def __aenter__(self) -> Self:
        if not sys.platform.startswith("linux"):
            raise PlaneError(Code.UNIMPLEMENTED, "agents need Linux: pidfd and prctl")
        self._place = place = await asyncio.to_thread(Place.take, self._base)
        # Its end is with the supervisors, and the kernel closes this one however the host ends.
        self._lifeline = os.pipe()
        try:
            for record in await asyncio.to_thread(place.records):
                agent = self._add(record)
                await agent.attach()
                if agent.over and not await asyncio.to_thread((agent.folder / ANNOUNCED).exists):
                    self._changed(agent)
        except BaseException:
            await self._leave()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in [*self._starting.values()]:
            await asyncio.wait([task])
        self._cut()
        ending = [each for each in self.active if not _outlives(each.spec)]
        grace_s = max((_grace_s(each.spec) for each in ending), default=0.0)
        try:
            async with asyncio.timeout(grace_s + _END_S):
                for agent in ending:
                    await agent.until_over()
        except TimeoutError:
            _log.warning("some agents have not ended yet; their supervisors see to it")
        finally:
            await self._leave()

    def _cut(self) -> None:
        """Tell the supervisors that this host ends."""
        if self._lifeline is not None:
            for end in self._lifeline:
                os.close(end)
            self._lifeline = None

    async def _leave(self) -> None:
        self._cut()
        for agent in self._agents.values():
            await agent.detach()
        if self._place is not None:
            self._place.release()
            self._place = None

    @property
    def agents(self) -> Sequence[Agent]:
        """All that are known, the newest first."""
        return sorted(self._agents.values(), key=lambda each: each.created_ns, reverse=True)

    @property
    def active(self) -> Sequence[Agent]:
        """Those that have not ended."""
        return [each for each in self._agents.values() if not each.over]

    def find(self, id_: str) -> Agent:
        """The agent of an id.

        Raises:
            PlaneError: NOT_FOUND; there is none.
        """
        agent = self._agents.get(id_)
        if agent is None:
            raise PlaneError(
                Code.NOT_FOUND, f"this host has no agent {id_[:80]!r}; it never had, or forgot it"
            )
        return agent

    async def spawn(self, id_: str, asked: AgentSpec) -> Agent:
        """Start an agent, once for an id; cancelling leaves it started.

        Raises:
            PlaneError: See `AgentsService.Spawn`.
        """
        id_ = checked_id(id_)
        known = self._agents.get(id_)
        if known is not None:
            return _same(known, asked)
        starting = self._starting.get(id_)
        if starting is not None:
            return _same(await asyncio.shield(starting), asked)
        launch = await asyncio.to_thread(planned, asked, self.allowed, os.environ)
        # Somebody else may have come meanwhile.
        if id_ in self._agents or id_ in self._starting:
            return await self.spawn(id_, asked)
        if len(self.active) + len(self._starting) >= self.allowed.max_agents:
            raise PlaneError(
                Code.RESOURCE_EXHAUSTED,
                f"this host has {self.allowed.max_agents} agents, as many as it takes; end some, "
                "or ask another host",
            )
        record = AgentRecord(
            id=id_,
            created_ns=time_ns(),
            asked=asked.model_dump_json(),
            spec=launch.spec.model_dump_json(),
        )
        task = asyncio.create_task(self._start(record, launch), name=f"spawn {id_}")
        self._starting[id_] = task
        task.add_done_callback(lambda _: self._starting.pop(id_, None))
        return await asyncio.shield(task)

    async def _start(self, record: AgentRecord, launch: Launch) -> Agent:
        assert self._place is not None
        place = self._place
        environment = launch.process["environment"]
        environment[MARK] = str(place.folder / record["id"])
        try:
            folder = await asyncio.to_thread(place.prepare, record, launch.process)
            error = await self._supervise(folder, outlives=_outlives(launch.spec))
        except subprocess.TimeoutExpired:
            error = f"its supervisor was not there within {_START_S:g} s"
        except OSError as failure:
            error = failure.strerror or str(failure)
        if error:
            await asyncio.to_thread(place.remove, record["id"])
            raise PlaneError(
                Code.FAILED_PRECONDITION, f"{launch.process['argv'][0]} cannot be started: {error}"
            )
        agent = self._add(record)
        await agent.attach()
        self._changed(agent)
        await self._forget()
        return agent

    async def _supervise(self, folder: Path, *, outlives: bool) -> str:
        """Start a supervisor; gives why its agent does not run."""
        assert self._lifeline is not None
        lifeline = -1 if outlives else self._lifeline[0]
        # Not through the loop: uvloop forks by the hooks of gRPC, and now and then that crashes.
        return await asyncio.to_thread(_supervised, folder, lifeline)

    def _add(self, record: AgentRecord) -> Agent:
        assert self._place is not None
        folder = self._place.folder / record["id"]
        agent = Agent(folder, record, self._changed)
        self._agents[agent.id] = agent
        return agent

    async def _forget(self) -> None:
        ended = [each for each in self.agents if each.over]
        for agent in ended[self.allowed.max_ended :]:
            await agent.detach()
            del self._agents[agent.id]
            assert self._place is not None
            await asyncio.to_thread(self._place.remove, agent.id)


def _same(agent: Agent, asked: AgentSpec) -> Agent:
    if AgentSpec.model_validate_json(agent.asked) != asked:
        raise PlaneError(
            Code.ALREADY_EXISTS,
            f"{agent.id} is the id of an agent that was started otherwise; give another id",
        )
    return agent


def _outlives(spec: AgentSpec) -> bool:
    return spec.lifetime == Lifetime.LIFETIME_OUTLIVES_HOST


def _grace_s(spec: AgentSpec) -> float:
    return (spec.grace or Duration()).total_seconds


def _supervised(folder: Path, lifeline: int) -> str:
    with (folder / supervisor.LOG).open("ab") as log:
        # It leaves a child behind that is nobody's, and ends.
        done = subprocess.run(
            [sys.executable, "-I", "-S", supervisor.__file__, str(folder), str(lifeline)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            pass_fds=() if lifeline < 0 else (lifeline,),
            timeout=_START_S,
            check=False,
        )
    if done.stdout == supervisor.STARTED:
        return ""
    told = done.stdout.decode(errors="replace")
    return told or f"its supervisor failed with {done.returncode}"
