"""The Zenoh session that all links of an event loop with the same settings share.

What comes is told on threads of Zenoh's own and handed to the loop, many at a time.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
from collections import deque
from collections.abc import Callable
from typing import TypeVar, cast

from protoplane_base import Code, MissingExtraError, PlaneError
from protoplane_runtime.link.carriers.windowed import Kind
from protoplane_runtime.link.carriers.zenoh_address import SessionSettings
from protoplane_runtime.link.carriers.zenoh_thread import (
    Declared,
    Native,
    Put,
    ZenohThread,
    said,
)

try:
    import zenoh
except ModuleNotFoundError as error:
    raise MissingExtraError("zenoh", "a link over Zenoh") from error

# A chunk that begins with "@" is matched by no wildcard, so who subscribes ** gets no links.
_ROOT = "@protoplane/link"
_INBOX = re.compile(rf"{_ROOT}/inbox/([0-9a-f]{{32}})/[0-9a-f]{{32}}")
_QUERY_TIMEOUT_S = 10.0
_TIMEOUT_S = 15.0
_T = TypeVar("_T")
_BLOCK = zenoh.CongestionControl.BLOCK

Incoming = Callable[[bytes, str], None]
"""Takes a message and the inbox to answer to, empty for none; called on the event loop."""


class Session:
    """A session; `session` gives the one that is there already.

    Args:
        settings: What it is opened with.

    Attributes:
        users: How many need it.
        locators: Where it takes connections, as others can connect to it.
    """

    def __init__(self, settings: SessionSettings) -> None:
        self.settings = settings
        self.users = 0
        self.locators: tuple[str, ...] = ()
        self._loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._id = secrets.token_hex(16)
        self._inboxes: dict[str, Incoming] = {}
        self._lost: dict[str, dict[str, Callable[[str], None]]] = {}
        self._arrived: deque[tuple[str, bytes, str]] = deque()
        self._woken = False
        self._thread = ZenohThread(settings, self._declare, self._refused, self._failed)
        self._thread.start()

    async def opened(self) -> None:
        """Wait until it is open.

        Raises:
            PlaneError: UNAVAILABLE where there is no way to a locator, or none to listen at.
        """
        await _within(asyncio.shield(self._ready), "opening a session")

    def inbox(self, incoming: Incoming) -> str:
        """A key of one's own, which nobody can guess; what is sent there goes to ``incoming``."""
        key = f"{_ROOT}/inbox/{self._id}/{secrets.token_hex(16)}"
        self._inboxes[key] = incoming
        return key

    def close_inbox(self, inbox: str) -> None:
        """Take nothing there any more."""
        self._inboxes.pop(inbox, None)

    def watch(self, theirs: str, ours: str, lost: Callable[[str], None]) -> None:
        """Be told when the session of another inbox is gone, until `unwatch`.

        Args:
            theirs: The other inbox.
            ours: Who watches.
            lost: Called with why.
        """
        self._lost.setdefault(_owner(theirs), {})[ours] = lost

    def unwatch(self, theirs: str, ours: str) -> None:
        """Be told no more."""
        owner = _owner(theirs)
        watching = self._lost.get(owner)
        if watching is not None:
            watching.pop(ours, None)
            if not watching:
                del self._lost[owner]

    def publish(self, key: zenoh.KeyExpr, data: bytes, inbox: str) -> None:
        """Send a message, after all that was sent before.

        Args:
            key: Where to.
            data: What.
            inbox: Where to answer to; empty where that is known.
        """
        self._thread.do(Put(key, data, inbox))

    def ask(self, name: str, data: bytes, inbox: str, failed: Callable[[str], None]) -> None:
        """Send a message to the nearest listener of a name.

        Args:
            name: The name.
            data: What.
            inbox: Where to answer to.
            failed: Called with why, where nobody took it.
        """

        def ask(session: Native) -> None:
            taken: list[bool] = []

            def reply(reply: zenoh.Reply) -> None:
                taken.append(reply.ok is not None)

            def done() -> None:
                if not any(taken):
                    self._thread.tell(failed, "nobody listens there")

            try:
                session.get(
                    f"{_ROOT}/open/{name}",
                    zenoh.handlers.Callback(reply, done),
                    target=zenoh.QueryTarget.BEST_MATCHING,
                    timeout=_QUERY_TIMEOUT_S,
                    congestion_control=_BLOCK,
                    payload=data,
                    attachment=inbox,
                )
            except zenoh.ZError as error:
                self._thread.tell(failed, said(error))

        self._thread.do(ask)

    async def take(self, name: str, incoming: Incoming) -> Declared:
        """Take what is asked of a name, until `leave`.

        Raises:
            PlaneError: UNAVAILABLE where Zenoh refuses it.
        """

        def asked(query: Native) -> None:
            with query:
                data = b"" if query.payload is None else query.payload.to_bytes()
                inbox = _text(query.attachment)
                if data[:1] == bytes([Kind.OPEN]) and _INBOX.fullmatch(inbox):
                    query.reply(query.key_expr, b"")
                    self._thread.tell(incoming, data, inbox)

        declared: asyncio.Future[Declared] = self._loop.create_future()

        def take(session: Native) -> None:
            try:
                queryable = session.declare_queryable(
                    f"{_ROOT}/open/{name}", zenoh.handlers.Callback(asked), complete=True
                )
            except zenoh.ZError as error:
                self._thread.tell(
                    _refuse, declared, PlaneError(Code.UNAVAILABLE, f"zenoh: {said(error)}")
                )
            else:
                self._thread.tell(_settle, declared, queryable)

        self._thread.do(take)
        return await _within(declared, "listening")

    async def leave(self, queryable: Declared) -> None:
        """Take nothing of a name any more.

        Raises:
            PlaneError: UNAVAILABLE where the network holds it up for too long.
        """
        left: asyncio.Future[None] = self._loop.create_future()

        def leave(_: Native) -> None:
            try:
                queryable.undeclare()
            finally:
                self._thread.tell(_settle, left, None)

        self._thread.do(leave)
        await _within(left, "ending to listen")

    def release(self) -> None:
        """Whoever got this from `session` needs it no more; the last one closes it."""
        self.users -= 1
        if self.users == 0:
            self._forget()
            self._thread.stop()

    # On the thread.

    def _declare(self, session: Native) -> Declared:
        token: Declared = session.liveliness().declare_token(f"{_ROOT}/alive/{self._id}")
        session.declare_subscriber(
            f"{_ROOT}/inbox/{self._id}/*", zenoh.handlers.Callback(self._came)
        )
        session.liveliness().declare_subscriber(
            f"{_ROOT}/alive/*", zenoh.handlers.Callback(self._alive), history=True
        )
        self.locators = _locators(session) if self.settings.vague else self.settings.listen
        self._thread.tell(_settle, self._ready, None)
        return token

    # On threads of Zenoh's.

    def _came(self, sample: zenoh.Sample) -> None:
        item = (str(sample.key_expr), sample.payload.to_bytes(), _text(sample.attachment))
        self._arrived.append(item)
        if not self._woken:
            self._woken = True
            self._thread.tell(self._deliver)

    def _alive(self, sample: zenoh.Sample) -> None:
        if sample.kind == zenoh.SampleKind.DELETE:
            self._thread.tell(self._gone, str(sample.key_expr).rpartition("/")[2])

    # On the loop.

    def _deliver(self) -> None:
        self._woken = False
        arrived = self._arrived
        while arrived:
            key, data, inbox = arrived.popleft()
            inbox = inbox if _INBOX.fullmatch(inbox) else ""
            incoming = self._inboxes.get(key)
            if incoming is not None:
                incoming(data, inbox)
            elif inbox and self.users:
                # Who asked for this link has left before it was answered.
                abort = bytes([Kind.ABORT, 0, 0, 0, 0])
                self.publish(zenoh.KeyExpr(inbox), abort, "")

    def _gone(self, owner: str) -> None:
        for lost in tuple(self._lost.get(owner, {}).values()):
            lost("the other end is gone")

    def _failed(self, why: str) -> None:
        for owner in tuple(self._lost.values()):
            for lost in tuple(owner.values()):
                lost(why)

    def _refused(self, why: str) -> None:
        self._forget()
        if not self._ready.done():
            self._ready.set_exception(PlaneError(Code.UNAVAILABLE, f"zenoh: {why}"))
            # Whoever waited may be gone.
            self._ready.exception()

    def _forget(self) -> None:
        key = (self._loop, self.settings)
        if _sessions.get(key) is self:
            del _sessions[key]


_sessions: dict[tuple[asyncio.AbstractEventLoop, SessionSettings], Session] = {}


async def session(settings: SessionSettings) -> Session:
    """The session of some settings; `Session.release` it in the end.

    Raises:
        PlaneError: UNAVAILABLE where it cannot be opened. Cancelling it leaves nothing open.
    """
    key = (asyncio.get_running_loop(), settings)
    found = _sessions.get(key)
    if found is None:
        found = _sessions[key] = Session(settings)
    found.users += 1
    try:
        await found.opened()
    except BaseException:
        found.release()
        raise
    return found


async def _within(future: asyncio.Future[_T], what: str) -> _T:
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            return await future
    except TimeoutError:
        raise PlaneError(
            Code.UNAVAILABLE, f"zenoh: {what} took longer than {_TIMEOUT_S:g} s"
        ) from None


def _owner(inbox: str) -> str:
    match = _INBOX.fullmatch(inbox)
    return match[1] if match else ""


def _text(data: zenoh.ZBytes | None) -> str:
    return "" if data is None else data.to_bytes().decode("ascii", "replace")


def _locators(session: Native) -> tuple[str, ...]:
    for reply in session.get(f"@/{session.zid()}/peer"):
        if reply.ok is not None:
            about = cast("dict[str, list[str]]", json.loads(reply.ok.payload.to_bytes()))
            return tuple(about["locators"])
    return ()


def _settle(future: asyncio.Future[object], result: object) -> None:
    if not future.done():
        future.set_result(result)


def _refuse(future: asyncio.Future[object], error: PlaneError) -> None:
    if not future.done():
        future.set_exception(error)
