"""The events of whoever discovery says is there, through their HTTP doors."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any, cast

from protoplane_base import Code, PlaneError
from protoplane_client.addressing import Whom, means, path_of, path_or_id
from protoplane_client.discovering import Resolver
from protoplane_client.events import (
    EventDoor,
    Outgoing,
    Place,
    check_after,
    publish_to_all,
    publish_to_any,
)
from protoplane_client.http_session import HttpSession
from protoplane_client.merging import merged
from protoplane_client.subscription import Received, Reconnect, subscribe
from protoplane_runtime.engines.discovery import Instance
from protoplane_runtime.engines.interface import EventId, Gap
from protoplane_runtime.entities import EntityId

_Doors = dict[str, Instance]
"""HTTP doors that lead to one event log, by their addresses."""


class NamedEvents:
    """Publishes to the logs of the instances of a path, and subscribes to them.

    Instances that share an engine's log are one: what is published to all of them is in it once,
    and any of them tells what is in it.

    Args:
        resolver: Says who is there; whoever made it closes it.
        session: Opens a session with an HTTP door; this closes it.
        path: The path, for messages.
    """

    def __init__(
        self, resolver: Resolver, session: Callable[[str], HttpSession], path: str
    ) -> None:
        self._resolver = resolver
        self._open = session
        self._path = path
        self._sessions: dict[str, HttpSession] = {}

    async def publish(self, event: Outgoing, entity: Whom | None) -> EventId:
        """Publish an event; see `Plane.publish`."""
        await self._resolver.ready()
        logs = self._logs(entity)
        if entity is None:
            doors = [self._door(address, log) for log in logs for address in log]
            return await publish_to_any(doors, event)
        return await publish_to_all([self._door(next(iter(log)), log) for log in logs], event)

    async def subscribe(
        self,
        key_expression: str | Sequence[str],
        *,
        entity: Whom | None,
        after: Place | Mapping[str, Place] | None,
        latest: bool,
        on_reconnect: Callable[[Reconnect], object] | None,
        give_up_s: float | None,
        idle_s: float,
    ) -> AsyncGenerator[Received | Gap, None]:
        """Follow events; see `Plane.subscribe`."""
        await self._resolver.ready()
        logs = self._logs(entity)
        check_after(after, len(logs))
        streams = [
            subscribe(
                partial(self._current, log),
                key_expression,
                after=_place(log, after),
                latest=latest,
                on_reconnect=on_reconnect,
                give_up_s=give_up_s,
                idle_s=idle_s,
                instance=_first(log).name if len(logs) > 1 else "",
            )
            for log in logs
        ]
        one = merged(streams) if len(streams) > 1 else streams[0]
        async with aclosing(cast("AsyncGenerator[Received | Gap, None]", one)) as stream:
            async for item in stream:
                yield item

    async def aclose(self) -> None:
        """Close the doors' connections; closing twice does nothing."""
        for session in self._sessions.values():
            await session.aclose()

    def _logs(self, entity: Whom | None) -> list[_Doors]:
        """The event logs of those who are meant, each with the doors that lead to it."""
        found = self._resolver.http()
        names = [instance.name for _, instance in found]
        path: str | None = None
        if entity is not None:
            whom = path_or_id(entity)
            path = path_of(whom, names) if isinstance(whom, EntityId) else whom
        logs: dict[str, _Doors] = {}
        for address, instance in found:
            if entity is None or (path is not None and means(path, instance.name)):
                logs.setdefault(_log_of(instance), {})[address] = instance
        if logs:
            return [*logs.values()]
        there = ", ".join(names) or "none"
        raise PlaneError(
            Code.FAILED_PRECONDITION if entity is None else Code.NOT_FOUND,
            f"events go through HTTP doors, and {entity or self._path} has none that this process "
            f"can use; there are: {there}",
        )

    def _door(self, address: str, log: _Doors) -> EventDoor:
        return EventDoor(self._session(address), log[address].name)

    def _current(self, log: _Doors) -> HttpSession:
        """A door to a log, of those that are there now; the last one known where there is none."""
        known = _first(log)
        now: _Doors = {
            address: instance
            for address, instance in self._resolver.http()
            if _log_of(instance) == _log_of(known)
            # Without a shared log there is but this instance's, wherever it is now.
            and (known.log or instance.name == known.name)
        }
        # The first of a dict stays the one that was taken last time, where that is still there.
        kept = {address: instance for address, instance in log.items() if address in now}
        if now:
            log.clear()
            log.update(kept | now)
        return self._session(next(iter(log)))

    def _session(self, address: str) -> HttpSession:
        session = self._sessions.get(address)
        if session is None:
            session = self._sessions[address] = self._open(address)
        return session


def _log_of(instance: Instance) -> str:
    return instance.log or f"that of {instance.name}"


def _first(log: _Doors) -> Instance:
    return next(iter(log.values()))


def _place(log: _Doors, after: Place | Mapping[str, Place] | None) -> Any:
    if not isinstance(after, Mapping):
        return after
    return next((after[each.name] for each in log.values() if each.name in after), None)
