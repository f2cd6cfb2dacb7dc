"""Brings the events of other nodes into a node's own log.

What is published comes by itself, in the order of its node. Each durable event names the one before
it, so what is missing is seen, and asked for: when a node joins, comes back, or was not understood.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from contextlib import suppress

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.interface import EventId
from protoplane_runtime.engines.local.log import LocalLog
from protoplane_runtime.engines.zenoh.api import Declared
from protoplane_runtime.engines.zenoh.inbox import Inbox
from protoplane_runtime.engines.zenoh.journal import copy_of
from protoplane_runtime.engines.zenoh.session import Session
from protoplane_runtime.engines.zenoh.wire import Carried, decode, decode_page, encode_asked

_log = logging.getLogger("protoplane.engines")

_ASK_TIMEOUT_S = 5.0
_FIRST_TIMEOUT_S = 10.0
_RETRY_S = 0.5
_MOST_AT_ONCE = 1024


class Mirror:
    """Copies what others publish until it is closed.

    Args:
        session: The session.
        origin: The node's own log, which needs no copy.
        log: Where the copies go.
        positions: Up to where the log has each origin's durable events.
    """

    def __init__(
        self, session: Session, origin: str, log: LocalLog, positions: Mapping[str, int]
    ) -> None:
        self._session = session
        self._origin = origin
        self._local = log
        self._have = dict(positions)
        self._heard: dict[str, int] = {}
        self._there: set[str] = set()
        self._inbox: Inbox[bytes | tuple[str, bool]] = Inbox()
        self._declared: list[Declared] = []
        self._catching: dict[str, asyncio.Task[None]] = {}
        self._task: asyncio.Task[None] | None = None

    @property
    def positions(self) -> Mapping[str, int]:
        """Up to where the log has each origin's durable events now."""
        return self._have

    async def open(self) -> None:
        """Begin, and wait for what the nodes that are there published before; not for ever."""
        session = self._session
        self._task = asyncio.ensure_future(self._receive())
        self._declared.append(await session.subscribe(f"{session.prefix}/ev/**", self._inbox.put))
        self._declared.append(
            await session.follow(
                f"{session.prefix}/node/*", lambda key, there: self._inbox.put((key, there))
            )
        )
        # Who answers has also heard that this node listens.
        for key, _ in await session.ask(f"{session.prefix}/log/*", timeout_s=_ASK_TIMEOUT_S):
            self._comes(key.rpartition("/")[2])
        if self._catching:
            await asyncio.wait(self._catching.values(), timeout=_FIRST_TIMEOUT_S)

    async def close(self) -> None:
        """Copy nothing more."""
        self._inbox.close()
        await self._session.withdraw(*self._declared)
        tasks = [*self._catching.values(), *([self._task] if self._task is not None else [])]
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task

    async def _receive(self) -> None:
        while batch := await self._inbox.take():
            events: list[Carried] = []
            for item in batch:
                if isinstance(item, bytes):
                    try:
                        events.append(decode(item))
                    except ValueError as error:
                        _log.warning("zenoh: an event was left out: %s", error)
                elif item[1]:
                    self._comes(item[0].rpartition("/")[2])
                else:
                    self._there.discard(item[0].rpartition("/")[2])
            for at in range(0, len(events), _MOST_AT_ONCE):
                await self._accept(events[at : at + _MOST_AT_ONCE])

    def _comes(self, origin: str) -> None:
        if origin != self._origin:
            self._there.add(origin)
            self._catch_up(origin)

    async def _accept(self, events: Iterable[Carried]) -> None:
        wanted: list[Carried] = []
        for event in events:
            origin, number = event.origin, event.number
            if number:
                self._heard[origin] = max(number, self._heard.get(origin, 0))
                have = self._have.get(origin, 0)
                if number <= have:
                    continue
                if origin in self._catching or event.previous != have:
                    # It comes with what is asked for.
                    self._catch_up(origin)
                    continue
                self._have[origin] = number
            wanted.append(event)
        failed = await self._append(wanted)
        for event in failed:
            if event.number:
                # Asked for again, once there is room.
                self._have[event.origin] = min(self._have[event.origin], event.previous)
                self._catch_up(event.origin)

    async def _append(self, events: Iterable[Carried]) -> list[Carried]:
        """Append copies in their order; those that could not be, which is told."""
        listed = list(events)
        results = await asyncio.gather(*map(self._copy, listed), return_exceptions=True)
        failed: list[Carried] = []
        for event, result in zip(listed, results, strict=True):
            if isinstance(result, PlaneError):
                if not failed and result.code is not Code.UNAVAILABLE:
                    _log.warning("zenoh: an event of another node was not kept: %s", result)
                failed.append(event)
            elif isinstance(result, BaseException):
                raise result
        return failed

    async def _copy(self, event: Carried) -> EventId:
        return await self._local.publish(
            event.key,
            event.type,
            event.data,
            event.json,
            durable=bool(event.number),
            publication=copy_of(event.origin, event.number) if event.number else None,
        )

    def _catch_up(self, origin: str) -> None:
        if origin not in self._catching:
            task = asyncio.ensure_future(self._caught_up(origin))
            self._catching[origin] = task
            task.add_done_callback(lambda _: self._catching.pop(origin, None))

    async def _caught_up(self, origin: str) -> None:
        key = f"{self._session.prefix}/log/{origin}"
        while True:
            have = self._have.get(origin, 0)
            answers = await self._session.ask(key, encode_asked(have), timeout_s=_ASK_TIMEOUT_S)
            if not answers:
                if origin not in self._there:
                    return  # It is asked again when it comes back.
                await asyncio.sleep(_RETRY_S)
                continue
            try:
                page = decode_page(answers[0][1])
            except ValueError as error:
                _log.warning("zenoh: the log of node %s cannot be read: %s", origin, error)
                return
            if have and page.deleted > have:
                _log.warning(
                    "zenoh: node %s may have deleted events that this node had not got yet", origin
                )
            failed = await self._append(page.events)
            if failed:
                self._have[origin] = max(have, failed[0].previous)
                await asyncio.sleep(_RETRY_S)
                continue
            self._have[origin] = max(self._have.get(origin, 0), page.end)
            if not page.more and self._heard.get(origin, 0) <= self._have[origin]:
                return
