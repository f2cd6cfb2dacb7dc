"""One Zenoh session, which the parts of an engine share; what may block is done in its threads.

Zenoh calls back on threads of its own, which must not wait: put what it brings into an `Inbox`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, ParamSpec, Self, TypeVar, cast

from protoplane_base import Code, MissingExtraError, PlaneError
from protoplane_runtime.engines.zenoh.api import Declared, Query, Reply, Sample, Zenoh
from protoplane_runtime.engines.zenoh.inbox import MAX_WAITING
from protoplane_runtime.engines.zenoh.settings import ZenohSettings

try:
    import zenoh
except ModuleNotFoundError as error:
    raise MissingExtraError("zenoh", "the engine zenoh:") from error

_log = logging.getLogger("protoplane.engines")

_SETTLE_TIMEOUT_S = 1.0

_P = ParamSpec("_P")
_R = TypeVar("_R")


class Session:
    """A session that is shared: each part of an engine holds it, the last to let go closes it.

    Get one from `open`. What may block runs in its two threads, one that sends and one for the
    rest.

    Attributes:
        settings: What it was opened by.
        prefix: What all its key expressions begin with.
        id: What tells it from all others.
    """

    def __init__(self, settings: ZenohSettings, session: Zenoh) -> None:
        self.settings = settings
        self.prefix = settings.prefix
        self.id = str(session.zid())
        self._session = session
        self._loop = asyncio.get_running_loop()
        self._control = ThreadPoolExecutor(1, "protoplane-zenoh")
        self._sender = ThreadPoolExecutor(1, "protoplane-zenoh-send")
        self._outbox: deque[Callable[[], None]] = deque()
        self._sending = threading.Lock()
        self._scheduled = False
        self._emptied = asyncio.Event()
        self._emptied.set()
        self._holders = 0
        self._closing: asyncio.Future[None] | None = None

    @classmethod
    async def open(cls, settings: ZenohSettings) -> Self:
        """Open one; it takes half a second where others are looked for by multicast.

        Raises:
            PlaneError: INVALID_ARGUMENT for settings that Zenoh does not take, UNAVAILABLE where it
                cannot listen, or a client finds no router.
        """
        config = await asyncio.to_thread(_config, settings)
        opening = asyncio.ensure_future(asyncio.to_thread(zenoh.open, config))
        try:
            session = await asyncio.shield(opening)
        except zenoh.ZError as error:
            raise PlaneError(
                Code.UNAVAILABLE, f"zenoh: cannot be opened: {_said(error)}"
            ) from error
        except asyncio.CancelledError:
            opening.add_done_callback(_close_late)
            raise
        self = cls(settings, cast(Zenoh, session))
        await self.answer(f"{self.prefix}/here/{self.id}", lambda _: b"")
        return self

    def hold(self) -> Self:
        """Hold it; let go by `release`."""
        self._holders += 1
        return self

    async def release(self) -> None:
        """Let go of it; the last one sends what waits, and closes it."""
        self._holders -= 1
        if self._holders > 0:
            return
        if self._closing is None:
            self._closing = self._loop.run_in_executor(None, self._close)
        await asyncio.shield(self._closing)

    async def run(self, call: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
        """Do what may block in the thread; a cancelled one is done all the same, in turn."""
        return await asyncio.shield(
            self._loop.run_in_executor(self._control, lambda: call(*args, **kwargs))
        )

    def send(self, key: str, payload: bytes) -> None:
        """Send a message after all that was sent before; see also `room`."""
        control = zenoh.CongestionControl.BLOCK
        self._post(lambda: self._session.put(key, payload, congestion_control=control))

    def reply(self, query: Query, payload: bytes) -> None:
        """Answer a question after all that was sent before."""

        def answer() -> None:
            with query:
                query.reply(str(query.key_expr), payload)

        self._post(answer)

    def _post(self, call: Callable[[], None]) -> None:
        with self._sending:
            self._outbox.append(call)
            if len(self._outbox) >= MAX_WAITING:
                self._emptied.clear()
            if self._scheduled:
                return
            self._scheduled = True
        self._sender.submit(self._send)

    async def room(self) -> None:
        """Wait while too much waits to be sent."""
        await self._emptied.wait()

    async def sent(self) -> None:
        """Wait until all is with Zenoh that was sent before."""
        await asyncio.shield(self._loop.run_in_executor(self._sender, lambda: None))

    async def ask(
        self, key: str, payload: bytes = b"", *, timeout_s: float
    ) -> list[tuple[str, bytes]]:
        """Ask all who answer at a key.

        Args:
            key: Key expression of those who are asked.
            payload: What they are asked.
            timeout_s: Seconds after which nothing more is waited for.

        Returns:
            The key and the payload of each answer. None from who is gone, or answers too late.
        """
        return await self._gather(
            lambda handler: self._session.get(
                key,
                handler,
                payload=payload,
                timeout=timeout_s,
                target=zenoh.QueryTarget.ALL,
                consolidation=zenoh.ConsolidationMode.NONE,
                congestion_control=zenoh.CongestionControl.BLOCK,
            )
        )

    async def tokens(self, key: str, *, timeout_s: float) -> list[str]:
        """The liveliness tokens that match a key expression, as this node knows them."""
        found = await self._gather(
            lambda handler: self._session.liveliness().get(key, handler, timeout=timeout_s)
        )
        return [key for key, _ in found]

    async def subscribe(self, key: str, bring: Callable[[bytes], None]) -> Declared:
        """Have what others send brought, in their order, on a thread."""

        def call(sample: Sample) -> None:
            bring(sample.payload.to_bytes())

        return await self.run(
            self._session.declare_subscriber,
            key,
            _callback(call),
            allowed_origin=zenoh.Locality.REMOTE,
        )

    async def answer(self, key: str, answer: Callable[[bytes], bytes | None]) -> Declared:
        """Answer who asks at a key, on a thread; ``None`` is no answer."""

        def call(query: Query) -> None:
            with query:
                asked = query.payload
                said = answer(asked.to_bytes() if asked is not None else b"")
                if said is not None:
                    # Who asked may be gone.
                    with suppress(zenoh.ZError):
                        query.reply(key, said)

        def bring(query: Query) -> None:
            # The network's own thread neither reads files nor waits. Too late is no answer.
            with suppress(RuntimeError):
                self._control.submit(call, query)

        return await self.queries(key, bring)

    async def queries(self, key: str, bring: Callable[[Query], None]) -> Declared:
        """Have questions brought, on a thread; who takes one answers it."""
        return await self.run(self._session.declare_queryable, key, _callback(bring))

    async def token(self, key: str, held: list[Declared]) -> None:
        """Show a liveliness token until it is undeclared, or the process dies.

        Args:
            key: Its key.
            held: Where it is put, also when this is cancelled and before what `run` does next.
        """
        await self.run(lambda: held.append(self._session.liveliness().declare_token(key)))

    async def settled(self, *, timeout_s: float = _SETTLE_TIMEOUT_S) -> None:
        """Wait until the others know what was declared here; not longer than the timeout.

        Declarations go ahead of the question, so who answers it has them.
        """
        await self.ask(f"{self.prefix}/here/*", timeout_s=timeout_s)

    async def follow(self, key: str, bring: Callable[[str, bool], None]) -> Declared:
        """Have tokens brought as they come (`True`) and go, also those that are there."""

        def call(sample: Sample) -> None:
            bring(str(sample.key_expr), sample.kind == zenoh.SampleKind.PUT)

        return await self.run(
            self._session.liveliness().declare_subscriber,
            key,
            _callback(call),
            history=True,
        )

    async def withdraw(self, *declared: Declared | None) -> None:
        """Take back what was declared."""
        for each in declared:
            if each is not None:
                await self.run(_undeclare, each)

    async def _gather(self, ask: Callable[[object], None]) -> list[tuple[str, bytes]]:
        found: list[tuple[str, bytes]] = []
        ended: asyncio.Future[None] = self._loop.create_future()

        def bring(reply: Reply) -> None:
            sample = reply.ok
            if sample is not None:
                found.append((str(sample.key_expr), sample.payload.to_bytes()))

        def end() -> None:
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(_settle, ended)

        try:
            await self.run(ask, _callback(bring, end))
        except zenoh.ZError as error:
            raise away(error) from error
        await ended
        return found

    # What follows runs in threads.

    def _send(self) -> None:
        while True:
            with self._sending:
                if not self._outbox:
                    self._scheduled = False
                    break
                call = self._outbox.popleft()
                roomy = len(self._outbox) == MAX_WAITING // 2
            if roomy:
                self._tell_room()
            try:
                call()
            except zenoh.ZError as error:
                _log.warning("zenoh: a message was not sent: %s", _said(error))
        self._tell_room()

    def _tell_room(self) -> None:
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._emptied.set)

    def _close(self) -> None:
        self._sender.shutdown(wait=True)
        self._control.shutdown(wait=True)
        with suppress(zenoh.ZError):
            self._session.close()


def away(error: Exception) -> PlaneError:
    """The error of who uses a session that cannot be used."""
    return PlaneError(Code.UNAVAILABLE, f"zenoh: {_said(error)}")


def _callback(call: Callable[[Any], None], end: Callable[[], None] | None = None) -> object:
    # Without a thread for each, which would keep a process from its end that closed nothing.
    return zenoh.handlers.Callback(call, end, indirect=False)


def _config(settings: ZenohSettings) -> zenoh.Config:
    try:
        config = (
            zenoh.Config() if settings.config is None else zenoh.Config.from_file(settings.config)
        )
        wanted: dict[str, object] = {
            "mode": settings.mode,
            "scouting/multicast/enabled": settings.multicast,
        }
        if settings.connect:
            wanted["connect/endpoints"] = settings.connect
        if settings.listen:
            wanted["listen/endpoints"] = settings.listen
        insert: Callable[[str, str], None] = getattr(config, "insert_json5")  # noqa: B009
        for key, value in wanted.items():
            insert(key, json.dumps(value))
    except zenoh.ZError as error:
        raise PlaneError(
            Code.INVALID_ARGUMENT, f"zenoh: does not take these settings: {_said(error)}"
        ) from error
    return config


def _said(error: Exception) -> str:
    # Zenoh adds where in its source it happened.
    return str(error).partition(" at /")[0]


def _undeclare(declared: Declared) -> None:
    # One that its session took back already.
    with suppress(zenoh.ZError):
        declared.undeclare()


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _close_late(opening: asyncio.Future[Any]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.get_loop().run_in_executor(None, opening.result().close)
