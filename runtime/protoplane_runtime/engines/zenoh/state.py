"""The state store of the engine ``zenoh:``: one node owns the state, and the others hold a copy.

The owner is the node that joined first of those that are there. It answers what the others ask, and
tells them each change before it acknowledges it. When it goes, the next one goes on with its copy.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, suppress
from typing import Self

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.keys import check_key, matcher
from protoplane_runtime.engines.state import (
    Deleted,
    Entry,
    Snapshot,
    check_expected,
    check_put,
)
from protoplane_runtime.engines.state_changes import Changes
from protoplane_runtime.engines.zenoh.api import Declared, Query
from protoplane_runtime.engines.zenoh.inbox import Inbox
from protoplane_runtime.engines.zenoh.session import Session
from protoplane_runtime.engines.zenoh.state_table import StateTable
from protoplane_runtime.engines.zenoh.state_wire import (
    Change,
    Request,
    Told,
    Wanted,
    decode_answer,
    decode_request,
    decode_told,
    encode_answer,
    encode_request,
    encode_told,
)

_log = logging.getLogger("protoplane.engines")

_TIMEOUT_S = 5.0
_RETRY_S = 0.01
_LOOK_TIMEOUT_S = 2.0
_HANDOVER = 1_000_000
"""Revisions left out when the owner changes: it may have used some that nobody heard of."""


class ZenohState:
    """A `StateStore` among the nodes of a Zenoh network; get one from `open`.

    It lives for as long as one of its nodes does. When the owner is killed, the changes of its last
    moments may be lost that it acknowledged and had not yet told another node. Parts of a network
    that do not reach each other have an owner each; when they meet, that of the older one stays,
    and what the other part changed meanwhile is dropped: its watchers get a `Snapshot`. While the
    owner is there and does not answer, calls raise UNAVAILABLE; Zenoh gives it up after 10 s.

    A put or delete without ``expected`` may be done twice where the owner goes meanwhile; one with
    it raises UNAVAILABLE then, and may have been done.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._prefix = f"{session.prefix}/state"
        self._table = StateTable()
        self._changes = Changes()
        self._candidates: set[str] = set()
        self._mine = ""
        self._owner = ""
        self._synced = asyncio.Event()
        self._heard = 0
        self._inbox: Inbox[bytes | Query | tuple[str, bool]] = Inbox()
        self._turn = asyncio.Event()
        self._held: list[Declared] = []
        self._tokens: list[Declared] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    @classmethod
    async def open(cls, session: Session) -> Self:
        """Open the state, and copy it.

        Args:
            session: The session; held until the store is closed.
        """
        self = cls(session)
        session.hold()
        try:
            await self._join()
        except BaseException:
            await self.close()
            raise
        return self

    async def get(self, key: str) -> Entry | None:
        """The value of a key; see `StateStore.get`."""
        check_key(key)
        told = await self._ask(Request(Wanted.GET, key))
        return next((each for each in told.changes if isinstance(each, Entry)), None)

    async def put(
        self,
        key: str,
        value: bytes,
        *,
        expected: int | None = None,
        ttl_s: float | None = None,
    ) -> int:
        """Give a key a value; see `StateStore.put`."""
        check_put(key, value, expected, ttl_s)
        return (await self._ask(Request(Wanted.PUT, key, bytes(value), expected, ttl_s))).revision

    async def delete(self, key: str, *, expected: int | None = None) -> bool:
        """Take the value of a key away; see `StateStore.delete`."""
        check_key(key)
        check_expected(expected)
        return bool((await self._ask(Request(Wanted.DELETE, key, expected=expected))).changes)

    async def list(self, expression: str = "**") -> Sequence[Entry]:
        """All entries that a key expression matches; see `StateStore.list`."""
        matcher([expression])
        return (await self._snapshot(expression)).entries

    def watch(self, expression: str = "**") -> AsyncGenerator[Snapshot | Entry | Deleted, None]:
        """Follow what a key expression matches; see `StateStore.watch`."""
        return self._changes.follow(matcher([expression]), lambda: self._snapshot(expression))

    async def close(self) -> None:
        """End all watches, hand over what it owns, and let go of the session."""
        if self._closed:
            return
        self._closed = True
        self._changes.close()
        self._turn.set()
        if self._timer is not None:
            self._timer.cancel()
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._session.release)
            stack.push_async_callback(self._stop)
            # The others have all changes before they see that this one is gone; who asks it until
            # then is told to ask another. Zenoh lets declarations overtake what is published, but
            # not a question: who answers it has all.
            await self._session.sent()
            await self._session.settled()
            await self._session.withdraw(*self._tokens)
            await self._session.settled()

    async def _stop(self) -> None:
        self._inbox.close()
        await self._session.withdraw(*self._held)
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with suppress(asyncio.CancelledError):
                await task

    async def _join(self) -> None:
        session, prefix = self._session, self._prefix
        self._held.append(await session.subscribe(f"{prefix}/changes/*", self._inbox.put))
        self._held.append(await session.queries(f"{prefix}/ask/{session.id}", self._inbox.put))
        self._held.append(
            await session.follow(
                f"{prefix}/node/*/*", lambda key, there: self._inbox.put((key, there))
            )
        )
        await session.settled()
        self._candidates.update(
            await session.tokens(f"{prefix}/node/*/*", timeout_s=_LOOK_TIMEOUT_S)
        )
        # After all that are there, whatever their clocks say.
        newest = max((_rank(each) for each in self._candidates), default=0)
        rank = max(time.time_ns(), newest + 1)
        self._mine = f"{prefix}/node/{rank:020d}/{session.id}"
        self._tasks.append(asyncio.ensure_future(self._receive()))
        self._tasks.append(asyncio.ensure_future(self._keep_synced()))
        self._decide()
        if self._candidates:
            await self._until_synced()
        await session.token(self._mine, self._tokens)
        self._candidates.add(self._mine)
        # Of several that find nobody, all have seen each other now.
        await session.settled()
        self._candidates.update(
            await session.tokens(f"{prefix}/node/*/*", timeout_s=_LOOK_TIMEOUT_S)
        )
        self._decide()
        await self._until_synced()

    async def _until_synced(self) -> None:
        # An owner that does not answer is tried again later.
        with suppress(TimeoutError):
            async with asyncio.timeout(_TIMEOUT_S):
                await self._synced.wait()

    def _decide(self) -> None:
        owner = min(self._candidates, default="").rpartition("/")[2]
        if owner == self._owner:
            return
        before, self._owner = self._owner, owner
        self._synced.clear()
        self._heard = 0
        if owner == self._session.id:
            if before or self._table.revision:
                self._table.revision += _HANDOVER
                self._changes.restart(self._table.revision)
            self._synced.set()
            self._expire()
        self._turn.set()

    # What the owner does.

    def _serve(self, query: Query) -> None:
        answer: Told | PlaneError | None = None
        payload = query.payload
        try:
            request = decode_request(payload.to_bytes() if payload is not None else b"")
            if self._owner == self._session.id and self._synced.is_set() and not self._closed:
                answer = self._do(request)
        except PlaneError as error:
            answer = error
        except ValueError as error:
            answer = PlaneError(Code.INVALID_ARGUMENT, str(error))
        self._session.reply(query, encode_answer(answer))

    def _do(self, request: Request) -> Told:
        table, now_ns = self._table, time.time_ns()
        if (next_ns := table.next_expiry_ns) is not None and next_ns <= now_ns:
            self._expire()
        match request.wanted:
            case Wanted.GET:
                entry = table.get(request.key)
                return Told(0, table.revision, () if entry is None else (entry,))
            case Wanted.PUT:
                ttl_s = request.ttl_s
                expires_ns = None if ttl_s is None else now_ns + int(ttl_s * 1e9)
                put = table.put(request.key, request.value, request.expected, expires_ns)
                self._tell([put])
                if expires_ns is not None:
                    self._set_timer()
                return Told(0, put.revision)
            case Wanted.DELETE:
                gone = table.delete(request.key, request.expected)
                if gone is not None:
                    self._tell([gone])
                return Told(0, table.revision, () if gone is None else (gone,))
            case Wanted.LIST:
                return Told(0, table.revision, table.matching(matcher([request.key])))
            case Wanted.SYNC:
                # Who was an owner too may be further; revisions only grow, also for its watchers.
                if (request.expected or 0) > table.revision:
                    table.revision = (request.expected or 0) + _HANDOVER
                    self._changes.restart(table.revision)
                return Told(0, table.revision, table.matching(matcher(["**"])))

    def _tell(self, changes: Sequence[Change]) -> None:
        previous = changes[0].revision - 1
        self._changes.add(changes)
        told = Told(previous, changes[-1].revision, changes)
        self._session.send(f"{self._prefix}/changes/{self._session.id}", _from(self._owner, told))

    def _expire(self) -> None:
        if self._owner == self._session.id:
            gone = self._table.expire(time.time_ns())
            if gone:
                self._tell(gone)
            self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        next_ns = self._table.next_expiry_ns
        if next_ns is not None and not self._closed:
            wait_s = max(0.0, (next_ns - time.time_ns()) / 1e9)
            self._timer = asyncio.get_running_loop().call_later(wait_s + 0.001, self._expire)

    # What the others do.

    async def _ask(self, request: Request) -> Told:
        deadline = time.monotonic() + _TIMEOUT_S
        while True:
            if self._closed:
                raise PlaneError(Code.UNAVAILABLE, "the state store is closed")
            if self._owner == self._session.id and self._synced.is_set():
                return self._do(request)
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise PlaneError(
                    Code.UNAVAILABLE,
                    f"the owner of the state did not answer within {_TIMEOUT_S:g} s; try again",
                )
            if self._owner and self._owner != self._session.id:
                answers = await self._session.ask(
                    f"{self._prefix}/ask/{self._owner}", encode_request(request), timeout_s=left_s
                )
                answer = _answer(answers[0][1]) if answers else None
                if isinstance(answer, PlaneError):
                    raise answer
                if answer is not None:
                    return answer
                if not answers and request.expected is not None and request.wanted in _WRITES:
                    raise PlaneError(
                        Code.UNAVAILABLE,
                        f"the owner of the state went while {request.key} was changed; read it and "
                        "try again",
                    )
            await asyncio.sleep(_RETRY_S)

    async def _snapshot(self, expression: str) -> Snapshot:
        told = await self._ask(Request(Wanted.LIST, expression))
        entries = tuple(each for each in told.changes if isinstance(each, Entry))
        return Snapshot(told.revision, entries)

    async def _receive(self) -> None:
        while batch := await self._inbox.take():
            for item in batch:
                if isinstance(item, bytes):
                    self._hear(item)
                elif isinstance(item, tuple):
                    key, there = item
                    if there:
                        self._candidates.add(key)
                    elif key != self._mine:
                        self._candidates.discard(key)
                    if self._mine in self._candidates:
                        self._decide()
                else:
                    self._serve(item)

    def _hear(self, message: bytes) -> None:
        try:
            owner, told = _read_from(message)
        except ValueError as error:
            _log.warning("zenoh: a change of the state was left out: %s", error)
            return
        if owner != self._owner or owner == self._session.id:
            return
        if told.revision <= self._table.revision:
            return
        self._heard = max(self._heard, told.revision)
        if not self._synced.is_set() or told.previous != self._table.revision:
            # It comes with the copy that is asked for.
            self._synced.clear()
            self._turn.set()
            return
        self._table.apply(told.changes)
        self._changes.add(told.changes)

    async def _keep_synced(self) -> None:
        while not self._closed:
            if self._synced.is_set() or not self._owner:
                self._turn.clear()
                await self._turn.wait()
                continue
            owner = self._owner
            request = Request(Wanted.SYNC, "**", expected=self._table.revision)
            answers = await self._session.ask(
                f"{self._prefix}/ask/{owner}", encode_request(request), timeout_s=_TIMEOUT_S
            )
            told = _answer(answers[0][1]) if answers else None
            if isinstance(told, Told) and owner == self._owner:
                entries = [each for each in told.changes if isinstance(each, Entry)]
                self._table.replace(told.revision, entries)
                self._changes.restart(told.revision)
                # What was told after this copy was taken, and left out, is in another one.
                if self._heard <= told.revision:
                    self._synced.set()
            else:
                await asyncio.sleep(_RETRY_S)


_WRITES = (Wanted.PUT, Wanted.DELETE)


def _rank(key: str) -> int:
    rank = key.rsplit("/", 2)[1]
    return int(rank) if rank.isdigit() else 0


def _answer(message: bytes) -> Told | PlaneError | None:
    try:
        return decode_answer(message)
    except ValueError as error:
        return PlaneError(Code.UNAVAILABLE, f"the owner of the state was not understood: {error}")


def _from(owner: str, told: Told) -> bytes:
    name = owner.encode()
    return bytes((len(name),)) + name + encode_told(told)


def _read_from(message: bytes) -> tuple[str, Told]:
    size = message[0] if message else 0
    return message[1 : 1 + size].decode(), decode_told(message[1 + size :])
