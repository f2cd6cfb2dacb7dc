"""Tells of agents whose state is another: the event plane, and those who watch."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterable
from typing import Self

from protoplane.agents.v1 import AgentState, AgentStatusChanged
from protoplane_base import PlaneError
from protoplane_components.agents.agent import ANNOUNCED, Agent
from protoplane_components.agents.conversion import changed_of
from protoplane_runtime.engines.interface import Publication
from protoplane_server import Host

_MOST = 10_000
_OVER = (AgentState.AGENT_STATE_EXITED, AgentState.AGENT_STATE_LOST)
_LAST_S = 2.0
_log = logging.getLogger("protoplane.agents")


class Announcer:
    """Tells of agents; use it with ``async with``. It owns one task.

    An agent whose end could not be told, because the log was away or closed, is not marked as
    announced; the next host tells it.

    Args:
        host: The server.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self._watchers: set[Watcher] = set()
        self._waiting: asyncio.Queue[tuple[Agent, AgentStatusChanged]] = asyncio.Queue(_MOST)
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._publish(), name="agents are announced")
        return self

    async def __aexit__(self, *_: object) -> None:
        task, self._task = self._task, None
        if task is None:
            return
        try:
            async with asyncio.timeout(_LAST_S):
                await self._waiting.join()
        except TimeoutError:
            _log.warning("not all are told how their agents ended; the next host tells them")
        task.cancel()
        await asyncio.wait([task])

    def changed(self, agent: Agent) -> None:
        """An agent's state is another."""
        for watcher in self._watchers:
            watcher.changed(agent)
        try:
            self._waiting.put_nowait((agent, changed_of(agent, self._host.name)))
        except asyncio.QueueFull:
            _log.warning("nobody is told that agent %s is %s", agent.id, agent.status["state"])

    async def watch(
        self, agents: Iterable[Agent], *, only: str = ""
    ) -> AsyncGenerator[Agent, None]:
        """Each agent that is there, then each that changes; without end, but for one alone.

        A slow watcher is told of each agent once, however often it changed meanwhile.

        Args:
            agents: Those that are there.
            only: The id of one, to be told of it alone, until it has ended.
        """
        watcher = Watcher(only)
        self._watchers.add(watcher)
        try:
            for agent in agents:
                watcher.changed(agent)
            while True:
                agent = await watcher.next()
                over = agent.over
                yield agent
                if only and over:
                    return
        finally:
            self._watchers.discard(watcher)

    async def _publish(self) -> None:
        heard = True
        while True:
            agent, changed = await self._waiting.get()
            over = changed.status is not None and changed.status.state in _OVER
            try:
                await self._host.events.publish(
                    f"agents/{agent.id}/status",
                    AgentStatusChanged.__pb__.DESCRIPTOR.full_name,
                    changed.to_bytes(),
                    changed.model_dump_json(),
                    durable=True,
                    # A host that dies now leaves the next one to tell it, once.
                    publication=Publication(f"agents/{agent.id}/{agent.created_ns}", 0)
                    if over
                    else None,
                )
                if over:
                    await asyncio.to_thread((agent.folder / ANNOUNCED).touch)
                heard = True
            except PlaneError as error:
                if heard:
                    _log.warning("nobody is told how agents do: %s", error.message)
                heard = False
            except FileNotFoundError:
                pass  # It was forgotten meanwhile.
            finally:
                self._waiting.task_done()


class Watcher:
    """What one watcher has not been told yet.

    Args:
        only: The id of the agent that it wants to hear of; of all where empty.
    """

    def __init__(self, only: str) -> None:
        self._only = only
        self._news: dict[str, Agent] = {}
        self._some = asyncio.Event()

    def changed(self, agent: Agent) -> None:
        """An agent is there, or has another state."""
        if self._only in ("", agent.id):
            self._news[agent.id] = agent
            self._some.set()

    async def next(self) -> Agent:
        """The agent that it is told of next."""
        while not self._news:
            self._some.clear()
            await self._some.wait()
        return self._news.pop(next(iter(self._news)))
