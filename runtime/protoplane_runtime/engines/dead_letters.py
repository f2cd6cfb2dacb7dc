"""Events that a consumer group could not take: put aside, listed, and published once more."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, cast

from protoplane.v1 import DeadLetter
from protoplane_base import Code, PlaneError, ProtoplaneError
from protoplane_runtime.engines.groups import DEAD_LETTERS
from protoplane_runtime.engines.interface import Event, EventId, EventLog, Publication, Since, Start

TYPE = "protoplane.v1.DeadLetter"
"""Type of the events that hold them."""

_TOO_LARGE = "; its message is too large to be kept here, so look for it in the log"


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter that is kept.

    Attributes:
        id: Its own id.
        letter: What it says.
    """

    id: EventId
    letter: DeadLetter


def key_of(group: str, key: str) -> str:
    """Key of the dead letters of a group's events under a key."""
    # As long as the two together; a key that is too long for that keeps its first segments.
    room = 1024 - len(f"{DEAD_LETTERS}/{group}/")
    # Who reads a group's letters reads all of them, and `**` matches no segment that begins so.
    key = f"/{key}".replace("/@", "/%40")[1:]
    return f"{DEAD_LETTERS}/{group}/{key[:room].rstrip('/')}"


async def bury(
    log: EventLog, group: str, event: Event, *, generation: str, deliveries: int, reason: str
) -> None:
    """Publish the dead letter of an event; once more does nothing as long as it is kept.

    Args:
        log: Where.
        group: Whose it is.
        event: The event.
        generation: Another one after the group was reset, so that the event may die once more.
        deliveries: How often the event was delivered.
        reason: Why the last delivery came to nothing.

    Raises:
        PlaneError: As `EventLog.publish`.
    """
    letter = DeadLetter(
        group=group,
        id=str(event.id),
        key=event.key,
        type=event.type,
        data=event.data,
        json_=event.json,
        time_ns=event.time_ns,
        deliveries=deliveries,
        reason=reason,
    )
    name = Publication(f"{DEAD_LETTERS}/{group}/{generation}/{event.id.epoch}", event.id.sequence)
    try:
        await _publish(log, group, letter, name)
    except PlaneError as error:
        if error.code is not Code.RESOURCE_EXHAUSTED:
            raise
        letter.data, letter.json_, letter.reason = b"", "", reason + _TOO_LARGE
        await _publish(log, group, letter, name)


async def _publish(log: EventLog, group: str, letter: DeadLetter, name: Publication) -> None:
    await log.publish(
        key_of(group, letter.key),
        TYPE,
        letter.to_bytes(),
        letter.model_dump_json(),
        durable=True,
        publication=name,
    )


async def dead_letters(log: EventLog, group: str | None = None) -> AsyncGenerator[Letter, None]:
    """The dead letters that are kept, of one group or of all, the oldest first.

    Raises:
        PlaneError: As `EventLog.stats`.
    """
    expression = f"{DEAD_LETTERS}/{group or '*'}/**"
    async with aclosing(kept_events(log, [expression])) as events:
        async for event in events:
            if event.type == TYPE:
                yield Letter(event.id, read(event))


async def redrive(log: EventLog, group: str) -> int:
    """Publish the events of a group's dead letters once more, then delete the letters.

    The events get new ids under their old keys, so all that read these see them again, not only the
    group. Cancelling may leave some published and not deleted; redriving again publishes these
    only once, as far as the engine knows them again.

    Returns:
        How many events were published.

    Raises:
        PlaneError: As `EventLog.publish` and `EventLog.purge`.
    """
    count = 0
    whole = True
    last: EventId | None = None
    async with aclosing(dead_letters(log, group)) as letters:
        async for each in letters:
            letter = each.letter
            if letter.reason.endswith(_TOO_LARGE):
                whole = False
                continue
            await log.publish(
                letter.key,
                letter.type,
                letter.data,
                letter.json_,
                durable=True,
                publication=Publication(f"redrive/{group}/{each.id.epoch}", each.id.sequence),
            )
            count += 1
            # One that is not whole stays, and those behind it.
            last = each.id if whole else last
    if last is not None:
        before = EventId(last.epoch, last.sequence + 1)
        await log.purge([f"{DEAD_LETTERS}/{group}/**"], before=before)
    return count


async def kept_events(
    log: EventLog, expressions: Sequence[str], after: EventId | Start | Since = Start.EARLIEST
) -> AsyncGenerator[Event, None]:
    """The events that are kept by now, up to the newest durable one.

    Ephemeral ones before it come too, where the engine still has them in memory.

    Raises:
        PlaneError: As `EventLog.stats`.
    """
    kept = await log.stats(expressions)
    last, last_ns = kept.newest, kept.newest_ns
    if last is None or after is Start.NOW:
        return
    if isinstance(after, EventId) and after >= last:
        return
    if isinstance(after, Since) and last_ns is not None and after.time_ns > last_ns:
        return
    batches = cast("Any", log.read(expressions, after=after))
    async with aclosing(batches):
        async for batch in batches:
            for item in batch:
                if isinstance(item, Event):
                    if item.id <= last:
                        yield item
                    if item.id >= last:
                        return


def read(event: Event) -> DeadLetter:
    """The dead letter that an event holds.

    Raises:
        PlaneError: DATA_LOSS; it holds something else.
    """
    try:
        return DeadLetter.from_bytes(event.data)
    except ProtoplaneError as error:
        raise PlaneError(
            Code.DATA_LOSS, f"event {event.id} says that it is a dead letter, and is none: {error}"
        ) from error
