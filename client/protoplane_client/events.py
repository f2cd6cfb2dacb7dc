"""The events of one instance or of many, through their HTTP doors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from protoplane_base import Code, PlaneError
from protoplane_client.addressing import Whom, means, path_of, path_or_id
from protoplane_client.connect_protocol import error_of_response
from protoplane_client.http_session import HttpSession
from protoplane_client.merging import merged
from protoplane_client.route import Route
from protoplane_client.subscription import Received, Reconnect, subscribe
from protoplane_runtime.engines.interface import EventId, Gap, Publication, Since, Start
from protoplane_runtime.entities import EntityId
from protoplane_runtime.link.errors import UnsentError

Place = EventId | Start | Since | str
"""Where to begin reading a log: behind an event, at one of its ends, or at a time."""


@dataclass(frozen=True, slots=True)
class EventDoor:
    """Where the events of one instance come out, and go in.

    Attributes:
        session: Its HTTP door.
        given: Name of the instance, where it was given.
        route: A route to the same instance, which may know its name.
    """

    session: HttpSession
    given: str | None = None
    route: Route | None = None

    @property
    def name(self) -> str:
        """The instance, or the address of its door while its name is not known."""
        if self.given is not None:
            return self.given
        return self.session.base_url if self.route is None else self.route.name


@dataclass(frozen=True, slots=True)
class Outgoing:
    """An event to publish.

    Attributes:
        key: Key to file it under.
        type: Full name of its message.
        json: The message as ProtoJSON.
        publication: Names the publication, so that it is not appended twice; ``None`` for none.
    """

    key: str
    type: str
    json: str
    publication: Publication | None = None


class Events:
    """Publishes and subscribes at a set of doors.

    Args:
        doors: At least the doors that there are; none where events have no way.
        target: What the plane was connected to, for messages.
    """

    def __init__(self, doors: Sequence[EventDoor], target: str) -> None:
        self._doors = tuple(doors)
        self._target = target

    async def publish(self, event: Outgoing, entity: Whom | None) -> EventId:
        """Publish an event; see `Plane.publish`."""
        doors = self._meant("publish", entity)
        publish = publish_to_any if entity is None else publish_to_all
        return await publish(doors, event)

    def subscribe(
        self,
        key_expression: str | Sequence[str],
        *,
        entity: Whom | None,
        after: Place | Mapping[str, Place] | None,
        latest: bool,
        on_reconnect: Callable[[Reconnect], object] | None,
        give_up_s: float | None,
        idle_s: float,
    ) -> AsyncIterator[Received | Gap]:
        """Follow events; see `Plane.subscribe`."""
        doors = self._meant("subscribe", entity)
        several = len(doors) > 1
        check_after(after, len(doors))
        streams = [
            subscribe(
                door.session,
                key_expression,
                after=after.get(door.name) if isinstance(after, Mapping) else after,
                latest=latest,
                on_reconnect=on_reconnect,
                give_up_s=give_up_s,
                idle_s=idle_s,
                instance=door.name if several else "",
            )
            for door in doors
        ]
        return merged(streams) if several else streams[0]

    async def aclose(self) -> None:
        """Close the doors' connections; closing twice does nothing."""
        for door in self._doors:
            await door.session.aclose()

    def _meant(self, what: str, entity: Whom | None) -> tuple[EventDoor, ...]:
        if not self._doors:
            raise PlaneError(
                Code.FAILED_PRECONDITION,
                f"to {what}, events go through the HTTP door; give its address too: "
                f"connect({self._target!r}, http='http://host:port')",
            )
        if entity is None:
            return self._doors
        whom = path_or_id(entity)
        if isinstance(whom, EntityId):
            path = path_of(whom, (door.name for door in self._doors))
        else:
            path = whom
        if path is not None:
            found = tuple(door for door in self._doors if means(path, door.name))
            if found:
                return found
        there = ", ".join(door.name for door in self._doors)
        raise PlaneError(
            Code.NOT_FOUND,
            f"no HTTP door is known to be that of {entity}; there are: {there}. Say which is "
            "whose: connect(…, http={'forge/captioner/a': 'http://host:port'})",
        )


_ENDS: tuple[Place, ...] = (*Start, *(start.value for start in Start))


def check_after(after: Place | Mapping[str, Place] | None, logs: int) -> None:
    """Make sure that a place to begin fits so many logs.

    Raises:
        PlaneError: INVALID_ARGUMENT; it is a place in one, and there are several.
    """
    if logs > 1 and not (after is None or after in _ENDS or isinstance(after, Mapping | Since)):
        raise PlaneError(
            Code.INVALID_ARGUMENT,
            f"after={after!s} is a place in the log of one instance, and here are {logs}; say "
            "entity=, or after={name: id, …}",
        )


async def publish_to_any(doors: Sequence[EventDoor], event: Outgoing) -> EventId:
    """Publish an event at the first door that can be reached."""
    for door in doors[:-1]:
        try:
            return await _publish(door.session, event)
        except UnsentError:
            continue
    return await _publish(doors[-1].session, event)


async def publish_to_all(doors: Sequence[EventDoor], event: Outgoing) -> EventId:
    """Publish an event at all doors; the id is that at the first.

    Raises:
        PlaneError: Not all of them took it, which the message tells.
    """
    if len(doors) == 1:
        return await _publish(doors[0].session, event)
    results = await asyncio.gather(
        *(_publish(door.session, event) for door in doors), return_exceptions=True
    )
    failures: list[tuple[EventDoor, PlaneError]] = []
    for door, result in zip(doors, results, strict=True):
        if isinstance(result, PlaneError):
            failures.append((door, result))
        elif isinstance(result, BaseException):
            raise result
    if failures:
        told = len(doors) - len(failures)
        words = "; ".join(f"{door.name}: {error.message}" for door, error in failures)
        raise PlaneError(
            failures[0][1].code, f"{told} of {len(doors)} instances have the event; {words}"
        )
    first = results[0]
    assert isinstance(first, EventId)
    return first


async def _publish(session: HttpSession, event: Outgoing) -> EventId:
    params = {"type": event.type}
    if event.publication is not None:
        params["publisher"] = event.publication.publisher
        params["number"] = str(event.publication.number)
    with session.errors():
        response = await session.client.post(
            "/events/" + quote(event.key, safe="/"),
            params=params,
            content=event.json.encode(),
            headers={"content-type": "application/json"},
        )
    if response.status_code not in (200, 201, 202):
        raise error_of_response(response.status_code, response.content)
    try:
        return EventId.parse(response.json()["id"])
    except (ValueError, KeyError, TypeError) as error:
        raise PlaneError(Code.INTERNAL, f"{session.base_url} did not say the event's id") from error
