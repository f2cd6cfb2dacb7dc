"""The event log of the engine ``zenoh:``: each node's own, and in it a copy of what others publish.

Ids are places in this node's log, so a reader resumes at the node where it read; at another it gets
a `Gap` and what is kept there. All nodes see the events of one node in the order in which that node
accepted them; nothing orders the events of different nodes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Self

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.batches import Batch
from protoplane_runtime.engines.interface import (
    EventId,
    LogStats,
    Publication,
    Since,
    Start,
)
from protoplane_runtime.engines.local.log import LocalLog
from protoplane_runtime.engines.zenoh.journal import COPY, Journal
from protoplane_runtime.engines.zenoh.mirror import Mirror
from protoplane_runtime.engines.zenoh.node_folder import NodeFolder
from protoplane_runtime.engines.zenoh.own_events import OwnEvents
from protoplane_runtime.engines.zenoh.session import Session
from protoplane_runtime.engines.zenoh.wire import (
    Carried,
    decode_asked,
    encode,
    encode_page,
)


class ZenohLog:
    """An `EventLog` among the nodes of a Zenoh network; get one from `open`.

    A durable event is acknowledged once it is on this node's disk, and reaches the others at once;
    who was away, or joins later, gets it from this node, for as long as it keeps it. Where this
    process is killed it comes back when another takes its folder. An ephemeral event reaches the
    nodes that are connected when it is published. A `Publication` is known again at the node at
    which it was published, not at others.

    Use it from the event loop on which it was opened.

    Attributes:
        origin: What tells this log from those of all other nodes: ``<folder>-<epoch>``.
        folder: Where it lies.
        journal: Which of its events are its own.
        own: Its own durable events.
    """

    def __init__(
        self,
        session: Session,
        log: LocalLog,
        *,
        origin: str,
        folder: Path,
        journal: Journal,
        newest: int,
        remember: Callable[[], Awaitable[None]],
        holding: AsyncExitStack,
    ) -> None:
        self._session = session
        self._log = log
        self.origin = origin
        self.folder = folder
        self.journal = journal
        self.own = OwnEvents(session, self, journal)
        self._newest = newest
        self._remember = remember
        self._holding = holding
        self._publishing: set[asyncio.Task[EventId]] = set()
        self._closed = False

    @classmethod
    async def open(cls, session: Session) -> Self:
        """Open the log of a node, and copy into it what it missed.

        Args:
            session: The session; held until the log is closed.

        Raises:
            PlaneError: What taking the folder raises, or `LocalLog.open`.
        """
        settings = session.settings
        async with AsyncExitStack() as stack:
            stack.push_async_callback(session.hold().release)
            folder = await session.run(NodeFolder.take, settings)
            stack.callback(folder.release)
            log = await LocalLog.open(folder.path, retention=settings.retention)
            stack.push_async_callback(log.close)
            origin = f"{folder.id}-{log.last.epoch}"
            journal = await session.run(Journal, folder.path / "events.db", origin)
            stack.callback(journal.close)
            mirror = Mirror(session, origin, log, await session.run(journal.positions))
            newest = await session.run(journal.newest)

            def answer(asked: bytes) -> bytes | None:
                try:
                    return encode_page(journal.page(decode_asked(asked))) if asked else b""
                except (ValueError, PlaneError):
                    return None  # Who asked asks again.

            await session.answer(f"{session.prefix}/log/{origin}", answer)

            async def remember() -> None:
                await session.run(journal.remember, dict(mirror.positions))

            stack.push_async_callback(remember)
            stack.push_async_callback(mirror.close)
            await mirror.open()
            await session.token(f"{session.prefix}/node/{origin}", [])
            await session.settled()
            return cls(
                session,
                log,
                origin=origin,
                folder=folder.path,
                journal=journal,
                newest=newest,
                remember=remember,
                holding=stack.pop_all(),
            )

    @property
    def last(self) -> EventId:
        """Id of the newest event at this node; sequence 0 where there is none."""
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
        """Append an event and tell the others of it; see `EventLog.publish`.

        Raises:
            PlaneError: As `LocalLog.publish`.
        """
        if publication is not None and publication.publisher.startswith(COPY):
            raise PlaneError(Code.INVALID_ARGUMENT, f"no publisher begins with {COPY!r}")
        await self._session.room()
        content = Carried(self.origin, 0, 0, key, type_, data, json)
        # In a task of its own: what is in the log is told, also where who published has gone.
        accepting = self._log.publish(
            key, type_, data, json, durable=durable, publication=publication
        )
        task = asyncio.ensure_future(self._publish(accepting, content, durable=durable))
        self._publishing.add(task)
        task.add_done_callback(self._publishing.discard)
        return await asyncio.shield(task)

    def read(
        self,
        expressions: Sequence[str],
        *,
        after: EventId | Start | Since = Start.NOW,
        latest: bool = False,
    ) -> AsyncIterator[Batch]:
        """Read what any of the key expressions matches; see `EventLog.read`.

        `Start.NOW` and times go by when an event arrived here, so what a node that was away brings
        along is new.

        Raises:
            PlaneError: INVALID_ARGUMENT for a bad key expression.
        """
        return self._log.read(expressions, after=after, latest=latest)

    async def stats(
        self, expressions: Sequence[str] = ("**",), *, after: EventId | None = None
    ) -> LogStats:
        """What this node's log keeps; see `EventLog.stats`."""
        return await self._log.stats(expressions, after=after)

    async def purge(
        self, expressions: Sequence[str], *, before: EventId | Since | None = None
    ) -> int:
        """Delete durable events at this node, not at others; see `EventLog.purge`."""
        if not self._closed:
            # So that copies that are deleted now are not asked for again.
            await self._remember()
        return await self._log.purge(expressions, before=before)

    async def close(self) -> None:
        """Tell the others what was accepted, end all readers, and let go of all it holds."""
        if self._closed:
            return
        self._closed = True
        async with self._holding:
            if self._publishing:
                await asyncio.wait(self._publishing)
            await self._session.sent()

    async def _publish(
        self, accepting: Coroutine[None, None, EventId], event: Carried, *, durable: bool
    ) -> EventId:
        event_id = await accepting
        if durable:
            number, previous = event_id.sequence, self._newest
            if number <= previous:
                return event_id  # It was published before.
            self._newest = number
            event = event._replace(number=number, previous=previous)
        self._session.send(f"{self._session.prefix}/ev/{_name(event.key)}", encode(event))
        return event_id


def _name(key: str) -> str:
    # Zenoh's `**` does not match what begins with an '@'.
    return key.replace("/@", "/%40") if key[0] != "@" else "%40" + key[1:].replace("/@", "/%40")
