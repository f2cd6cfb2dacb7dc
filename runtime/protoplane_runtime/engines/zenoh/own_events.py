"""The durable events that a node published itself, as a log of their own: what its groups share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any, cast

from protoplane_runtime.engines.interface import (
    Event,
    EventId,
    EventLog,
    Gap,
    LogStats,
    Publication,
    Since,
    Start,
)
from protoplane_runtime.engines.keys import matcher
from protoplane_runtime.engines.zenoh.journal import Journal
from protoplane_runtime.engines.zenoh.session import Session


class OwnEvents:
    """An `EventLog` of a node's own durable events, without copies of others' and ephemeral ones.

    Ids are those of the node's log. It holds nothing that has to be closed.

    Args:
        session: Has the thread that looks into the database.
        log: The node's log.
        journal: Knows which of its events are its own.
    """

    def __init__(self, session: Session, log: EventLog, journal: Journal) -> None:
        self._session = session
        self._log = log
        self._journal = journal

    @property
    def last(self) -> EventId:
        """Id of the newest event of the node's log, whoever's it is."""
        return self._log.last

    async def publish(
        self,
        key: str,
        type_: str,
        data: bytes,
        json: str,
        *,
        durable: bool = False,
        publication: Publication | None = None,
    ) -> EventId:
        """Append an event; see `EventLog.publish`."""
        return await self._log.publish(
            key, type_, data, json, durable=durable, publication=publication
        )

    async def read(
        self,
        expressions: Sequence[str],
        *,
        after: EventId | Start | Since = Start.NOW,
        latest: bool = False,
    ) -> AsyncIterator[Sequence[Event | Gap]]:
        """Read what any of the key expressions matches; see `EventLog.read`."""
        if isinstance(after, EventId) and after.epoch == self.last.epoch:
            # A node that publishes little has many copies behind its own last event.
            place = await self._session.run(self._journal.before_next, after.sequence)
            after = EventId(after.epoch, place)
        batches = cast("Any", self._log.read(expressions, after=after, latest=latest))
        async with aclosing(batches):
            async for batch in batches:
                ids = [item.id.sequence for item in batch if isinstance(item, Event)]
                own: frozenset[int] = frozenset()
                if ids:
                    own = await self._session.run(self._journal.own, ids[0], ids[-1])
                found = [item for item in batch if isinstance(item, Gap) or item.id.sequence in own]
                if found:
                    yield found

    async def stats(
        self, expressions: Sequence[str] = ("**",), *, after: EventId | None = None
    ) -> LogStats:
        """How many events there are; see `EventLog.stats`, of which it leaves out the rest."""
        match = matcher(expressions)
        place = after.sequence if after is not None and after.epoch == self.last.epoch else 0
        counts = await self._session.run(self._journal.counts, place)
        events = sum(count for key, count in counts if match.matches(key))
        return LogStats(events, None, None, None, None, None, ())

    async def purge(
        self, expressions: Sequence[str], *, before: EventId | Since | None = None
    ) -> int:
        """Delete events of the node's log, copies among them; see `EventLog.purge`."""
        return await self._log.purge(expressions, before=before)

    async def close(self) -> None:
        """Do nothing: the node's log is closed by who opened it."""
