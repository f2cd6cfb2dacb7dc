"""The connection to a NATS server that all NATS links of an event loop share."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from protoplane_base import Code, MissingExtraError, PlaneError
from protoplane_runtime.nats_client import NatsClient
from protoplane_runtime.tls import ClientTls

try:
    from nats import errors
    from nats.aio.msg import Msg
except ModuleNotFoundError as error:
    raise MissingExtraError("nats", "a link over NATS") from error

_log = logging.getLogger("protoplane.link")

_CONNECT_TIMEOUT_S = 5
_CLOSE_TIMEOUT_S = 2.0
_PING_INTERVAL_S = 10

Incoming = Callable[[Msg], None]
"""Takes a message; called on the event loop."""


@dataclass(frozen=True, slots=True)
class BrokerSettings:
    """Which server, and how one is let in.

    Attributes:
        server: ``host:port``.
        user: User name, where there is a password, otherwise a token; empty for none.
        password: Password of the user.
        credentials: File with the JWT and the key of a user; empty for none.
        tls: Whom to trust and who one is; ``None`` for what the server wants.
    """

    server: str
    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    credentials: str = ""
    tls: ClientTls | None = None


class Broker:
    """A connection to a NATS server; `broker` gives the one that is there already.

    It never reconnects by itself: messages are lost meanwhile, so the links are over anyway.

    Args:
        settings: The server.

    Attributes:
        gone: Done when the connection is over; its result is why.
        max_payload_bytes: Most bytes of a message.
    """

    def __init__(self, settings: BrokerSettings) -> None:
        self.settings = settings
        self.users = 0
        self.max_payload_bytes = 0
        loop = asyncio.get_running_loop()
        self._loop = loop
        self.gone: asyncio.Future[str] = loop.create_future()
        self._ready: asyncio.Future[None] = loop.create_future()
        self._client = NatsClient(settings.tls is not None)
        self._inbox = ""
        self._inboxes: dict[str, Incoming] = {}
        self._numbers = count(1)
        self._queue: deque[tuple[str, bytes, str]] = deque()
        self._wakeup: asyncio.Future[None] | None = None
        self._stopping = False
        self._problem = ""
        self._task = loop.create_task(self._run())

    async def connected(self) -> None:
        """Wait for the connection.

        Raises:
            PlaneError: UNAVAILABLE where there is none.
        """
        await asyncio.shield(self._ready)

    def inbox(self, incoming: Incoming) -> str:
        """A subject of one's own; what is sent there goes to ``incoming``."""
        subject = f"{self._inbox}.{next(self._numbers)}"
        self._inboxes[subject] = incoming
        return subject

    def close_inbox(self, subject: str) -> None:
        """Take nothing there any more."""
        self._inboxes.pop(subject, None)

    @contextlib.asynccontextmanager
    async def subscribed(
        self, subject: str, queue: str, incoming: Incoming
    ) -> AsyncGenerator[None]:
        """Take what is sent to a subject; at the end, what is under way already still comes.

        Cancelled, it does without that.

        Args:
            subject: The subject.
            queue: Each message goes to one of those that name this group.
            incoming: Takes the messages.
        """

        async def bring(message: Msg) -> None:
            incoming(message)

        try:
            subscription = await self._client.subscribe(  # pyright: ignore[reportUnknownMemberType]
                subject, queue=queue, cb=bring
            )
            # The server says by now if one may not.
            await self._client.flush(_CONNECT_TIMEOUT_S)
        except errors.Error as error:
            raise PlaneError(Code.UNAVAILABLE, f"{self.settings.server}: {error}") from error
        try:
            yield
        except asyncio.CancelledError:
            with contextlib.suppress(errors.Error):
                await subscription.unsubscribe()
            raise
        with contextlib.suppress(errors.Error, TimeoutError):
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                await subscription.drain()  # type: ignore[no-untyped-call]

    def publish(self, subject: str, data: bytes, reply: str) -> None:
        """Send a message, after all that was sent before.

        Args:
            subject: Where to.
            data: What.
            reply: Where answers go; the server answers there if nobody takes the message.
        """
        self._queue.append((subject, data, reply))
        self._wake()

    def release(self) -> None:
        """Whoever got this from `broker` needs it no more; the last one closes it."""
        self.users -= 1
        if self.users == 0:
            self._forget()
            self._stopping = True
            if self._ready.done():
                self._wake()
                # A server that takes nothing would hold it up for ever.
                self._loop.call_later(_CLOSE_TIMEOUT_S, self._task.cancel)
            else:
                self._task.cancel()

    async def _run(self) -> None:
        client = self._client
        try:
            await self._connect()
            while not (self._stopping and not self._queue) and not self.gone.done():
                while self._queue:
                    await client.publish(*self._queue.popleft())
                if not self._stopping:
                    self._wakeup = self._loop.create_future()
                    await self._wakeup
        except (errors.Error, OSError, ImportError, ValueError) as error:
            # ImportError for what credentials need, ValueError for what is no such file.
            self._problem = self._problem or _text(error)
        finally:
            self._lost()
            await client.abandon(_CLOSE_TIMEOUT_S)

    async def _connect(self) -> None:
        settings = self.settings
        context = None if settings.tls is None else settings.tls.ssl_context()
        name = None if settings.tls is None else settings.tls.server_name
        secret: dict[str, Any] = {}
        if settings.password:
            secret = {"user": settings.user, "password": settings.password}
        elif settings.user:
            secret = {"token": settings.user}
        await self._client.connect(
            f"nats://{settings.server}",
            name="protoplane",
            error_cb=self._error,
            closed_cb=self._closed,
            allow_reconnect=False,
            max_reconnect_attempts=1,
            reconnect_time_wait=0,
            connect_timeout=_CONNECT_TIMEOUT_S,
            ping_interval=_PING_INTERVAL_S,
            tls=context,
            tls_hostname=name,
            user_credentials=settings.credentials or None,
            **secret,
        )
        self._problem = ""
        self._inbox = self._client.new_inbox()
        # Without limits: each link has a window, and their sum is less than what it would take.
        await self._client.subscribe(  # pyright: ignore[reportUnknownMemberType]
            f"{self._inbox}.*", cb=self._bring, pending_msgs_limit=0, pending_bytes_limit=0
        )
        self.max_payload_bytes = self._client.max_payload
        self._ready.set_result(None)

    async def _bring(self, message: Msg) -> None:
        incoming = self._inboxes.get(message.subject)
        if incoming is not None:
            incoming(message)

    async def _error(self, error: Exception) -> None:
        self._problem = _text(error)
        if self._ready.done():
            _log.warning("%s: %s", self.settings.server, self._problem)

    async def _closed(self) -> None:
        self._lost()
        self._wake()

    def _lost(self) -> None:
        self._forget()
        why = self._problem or "the connection to the NATS server is over"
        if not self._ready.done():
            self._ready.set_exception(
                PlaneError(Code.UNAVAILABLE, f"nats://{self.settings.server}: {why}")
            )
            # Whoever waited may be gone.
            self._ready.exception()
        if not self.gone.done():
            self.gone.set_result(why)

    def _forget(self) -> None:
        key = (self._loop, self.settings)
        if _brokers.get(key) is self:
            del _brokers[key]

    def _wake(self) -> None:
        if self._wakeup is not None and not self._wakeup.done():
            self._wakeup.set_result(None)


_brokers: dict[tuple[asyncio.AbstractEventLoop, BrokerSettings], Broker] = {}


async def broker(settings: BrokerSettings) -> Broker:
    """The connection to a server; `Broker.release` it in the end.

    Raises:
        PlaneError: UNAVAILABLE where there is no way there. Cancelling it leaves nothing open.
    """
    key = (asyncio.get_running_loop(), settings)
    found = _brokers.get(key)
    if found is None:
        found = _brokers[key] = Broker(settings)
    found.users += 1
    try:
        await found.connected()
    except BaseException:
        found.release()
        raise
    return found


def _text(error: Exception) -> str:
    return str(error) or type(error).__name__
