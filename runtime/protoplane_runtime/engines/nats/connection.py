"""One connection to a NATS server or cluster, which comes back by itself."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections import deque
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any, Self, TypeVar, cast

from protoplane_base import Code, MissingExtraError, PlaneError
from protoplane_runtime.engines.nats.settings import NatsSettings
from protoplane_runtime.nats_client import NatsClient

try:
    from nats import errors
    from nats.aio.msg import Msg
    from nats.aio.subscription import Subscription
except ModuleNotFoundError as error:
    raise MissingExtraError("nats", "the engine nats:") from error

__all__ = ["Connection", "JetStreamError", "Msg", "Subscription", "alone", "status_of"]

_Part = TypeVar("_Part")

_log = logging.getLogger("protoplane.engines")

_CONNECT_TIMEOUT_S = 5
_RECONNECT_WAIT_S = 0.2
_PING_INTERVAL_S = 5
_CLOSE_TIMEOUT_S = 2.0
_REQUEST_TIMEOUT_S = 3.0
_MAX_QUEUE = 1024
_NO_RESPONDERS = "503"

Incoming = Callable[[Msg], None]
"""Takes a message; called on the event loop."""


class JetStreamError(Exception):
    """JetStream refused a request.

    Attributes:
        code: Its number of the error (https://docs.nats.io, ``err_code``).
        status: The kind, as HTTP has them.
        description: What it says.
    """

    def __init__(self, code: int, status: int, description: str) -> None:
        super().__init__(f"{description} ({code})")
        self.code = code
        self.status = status
        self.description = description


class Connection:
    """A connection that all parts of one engine share; get one from `open`.

    Attributes:
        origin: Eight bytes, drawn by chance, that tell this connection from all others.
        max_payload_bytes: Most bytes of a message.
        prefix: What stands before the subjects of a KV bucket, for the domain's sake.
        losses: How often the connection was lost.
        lost: Called each time it is lost.
        back: Called each time it is there again.
    """

    def __init__(self, settings: NatsSettings) -> None:
        self.origin = os.urandom(8)
        self.max_payload_bytes = 0
        self.losses = 0
        self.lost: list[Callable[[], None]] = []
        self.back: list[Callable[[], None]] = []
        self.prefix = f"$JS.{settings.domain}.API." if settings.domain else ""
        self._holders = 1
        self._settings = settings
        self._api = f"$JS.{settings.domain}.API" if settings.domain else "$JS.API"
        self._client = NatsClient(settings.tls is not None)
        self._inbox = f"_INBOX.{self.origin.hex()}"
        self._numbers = count(1)
        self._answers: dict[str, Incoming] = {}
        self._queue: deque[tuple[str, bytes, str, dict[str, str] | None] | Subscription] = deque()
        self._wakeup: asyncio.Future[None] | None = None
        self._up = asyncio.Event()
        self._empty = asyncio.Event()
        self._problem = ""
        self._over = False
        self._closing = False
        self._task: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, settings: NatsSettings) -> Self:
        """Connect.

        Raises:
            PlaneError: UNAVAILABLE where no server can be reached or lets one in. Cancelling it
                leaves nothing open.
        """
        self = cls(settings)
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                await self._connect()
        except (errors.Error, OSError, TimeoutError, ImportError, ValueError) as error:
            # ImportError for what credentials need, ValueError for what is no such file.
            await self.close()
            why = self._problem or str(error) or "it does not answer"
            raise PlaneError(
                Code.UNAVAILABLE, f"no NATS server at {', '.join(settings.servers)}: {why}"
            ) from error
        except BaseException:
            await self.close()
            raise
        self._task = asyncio.create_task(self._write())
        return self

    def share(self) -> Self:
        """The same connection for one more holder, who closes it too."""
        self._holders += 1
        return self

    @property
    def connected(self) -> bool:
        """Whether it is there just now."""
        return self._up.is_set()

    @property
    def why(self) -> str:
        """What is known of why it is not there."""
        return self._problem or "the connection to the NATS server is lost"

    async def wait_connected(self) -> None:
        """Wait until it is there; for ever, where the server does not come back.

        Raises:
            PlaneError: UNAVAILABLE where it will not come back.
        """
        await self._up.wait()
        if self._over:
            raise self.away()

    def away(self) -> PlaneError:
        """The error for whoever needs it while it is not there."""
        return PlaneError(
            Code.UNAVAILABLE, f"NATS at {', '.join(self._settings.servers)}: {self.why}"
        )

    def send(
        self,
        subject: str,
        data: bytes,
        reply: str = "",
        named: str = "",
        headers: dict[str, str] | None = None,
    ) -> None:
        """Send a message after all that was sent before; while it is away, it may get lost.

        Args:
            subject: Where to.
            data: What.
            reply: Where answers go.
            named: What JetStream knows the message by if it comes again; empty for nothing.
            headers: Its headers.
        """
        if named:
            headers = {"Nats-Msg-Id": named, **(headers or {})}
        self._queue.append((subject, data, reply, headers))
        self._wake()

    async def room(self) -> None:
        """Wait until what is sent does not pile up here."""
        if len(self._queue) > _MAX_QUEUE:
            self._empty.clear()
            await self._empty.wait()

    def expect(self, answer: Incoming) -> str:
        """A subject of one's own, on which an answer is expected; `forget` it in the end."""
        subject = f"{self._inbox}.{next(self._numbers)}"
        self._answers[subject] = answer
        return subject

    def forget(self, subject: str) -> None:
        """Take no answer there any more."""
        self._answers.pop(subject, None)

    def inbox(self) -> str:
        """A subject of one's own to `subscribe` to."""
        return f"{self._inbox}.box.{next(self._numbers)}"

    async def subscribe(self, subject: str, incoming: Incoming) -> Subscription:
        """Take what is sent to a subject, also after it was away, until `unsubscribe`.

        Raises:
            PlaneError: UNAVAILABLE.
        """

        async def bring(message: Msg) -> None:
            incoming(message)

        try:
            # Without limits: what is under way is bounded by whoever asks for it, or taken at once.
            return await self._client.subscribe(  # pyright: ignore[reportUnknownMemberType]
                subject, cb=bring, pending_msgs_limit=0, pending_bytes_limit=0
            )
        except errors.Error as error:
            raise PlaneError(Code.UNAVAILABLE, f"{subject}: {_text(error)}") from error

    def unsubscribe(self, subscription: Subscription) -> None:
        """Take nothing from there any more."""
        self._queue.append(subscription)
        self._wake()

    async def settle(self) -> None:
        """Wait until the server has taken in all that was sent.

        Raises:
            PlaneError: UNAVAILABLE.
        """
        if self._queue:
            self._empty.clear()
            await self._empty.wait()
        try:
            await self._client.flush(int(_REQUEST_TIMEOUT_S))
        except (errors.Error, TimeoutError) as error:
            raise PlaneError(Code.UNAVAILABLE, _text(error)) from error

    async def ask(self, what: str, request: dict[str, Any] | None = None) -> dict[str, Any]:
        """Ask JetStream's API (https://docs.nats.io/reference/reference-protocols/nats_api_reference).

        Args:
            what: Subject, without what stands before all of them.
            request: What is asked.

        Raises:
            JetStreamError: It refuses.
            PlaneError: UNAVAILABLE where it does not answer.
        """
        body = b"" if request is None else json.dumps(request).encode()
        answered: asyncio.Future[Msg] = asyncio.get_running_loop().create_future()

        def answer(message: Msg) -> None:
            if not answered.done():
                answered.set_result(message)

        reply = self.expect(answer)
        try:
            async with asyncio.timeout(_REQUEST_TIMEOUT_S):
                await self.wait_connected()
                self.send(f"{self._api}.{what}", body, reply)
                message = await answered
        except TimeoutError:
            why = f"JetStream does not answer {what}" if self.connected else self.why
            raise PlaneError(Code.UNAVAILABLE, why) from None
        finally:
            self.forget(reply)
        if status_of(message) == _NO_RESPONDERS:
            raise PlaneError(
                Code.UNAVAILABLE, "the NATS server has no JetStream; start it with --jetstream"
            )
        found = cast("dict[str, Any]", json.loads(message.data))
        refusal = found.get("error")
        if refusal is not None:
            raise JetStreamError(
                refusal.get("err_code", 0), refusal.get("code", 0), refusal.get("description", "")
            )
        return found

    def next_messages(self, stream: str, consumer: str, request: bytes, reply: str) -> None:
        """Ask a consumer for its next messages; they come on ``reply``."""
        self.send(f"{self._api}.CONSUMER.MSG.NEXT.{stream}.{consumer}", request, reply)

    def delete_consumer(self, stream: str, consumer: str) -> None:
        """Give a consumer back; the server forgets it by itself too, in time."""
        self.send(f"{self._api}.CONSUMER.DELETE.{stream}.{consumer}", b"")

    async def close(self) -> None:
        """Send what is waiting, and close, once all who hold it have closed it."""
        self._holders -= 1
        if self._holders > 0:
            return
        self._closing = True
        self._wake()
        task, self._task = self._task, None
        if task is not None:
            _, late = await asyncio.wait([task], timeout=_CLOSE_TIMEOUT_S)
            for each in late:
                each.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await self._client.abandon(_CLOSE_TIMEOUT_S)
        self._finish()

    async def _connect(self) -> None:
        settings = self._settings
        secret: dict[str, Any] = {}
        if settings.password:
            secret = {"user": settings.user, "password": settings.password}
        elif settings.user:
            secret = {"token": settings.user}
        await self._client.connect(
            [f"nats://{server}" for server in settings.servers],
            name="protoplane",
            error_cb=self._error,
            disconnected_cb=self._disconnected,
            reconnected_cb=self._reconnected,
            closed_cb=self._closed,
            allow_reconnect=True,
            max_reconnect_attempts=-1,
            reconnect_time_wait=cast("int", _RECONNECT_WAIT_S),
            connect_timeout=2,
            ping_interval=_PING_INTERVAL_S,
            no_echo=True,
            # Subjects are made here, from keys that were checked.
            skip_subject_validation=True,
            tls=None if settings.tls is None else settings.tls.ssl_context(),
            tls_hostname=None if settings.tls is None else settings.tls.server_name,
            user_credentials=settings.credentials or None,
            **secret,
        )
        await self._client.subscribe(  # pyright: ignore[reportUnknownMemberType]
            f"{self._inbox}.*", cb=self._bring, pending_msgs_limit=0, pending_bytes_limit=0
        )
        self._problem = ""
        self.max_payload_bytes = self._client.max_payload
        self._up.set()

    async def _write(self) -> None:
        client, queue = self._client, self._queue
        while True:
            while queue and not self._over:
                item = queue.popleft()
                try:
                    if isinstance(item, tuple):
                        await client.publish(*item)
                    else:
                        await item.unsubscribe()
                except (errors.Error, OSError) as error:
                    # Whoever waits for an answer notices.
                    self._problem = _text(error)
            self._empty.set()
            if self._closing or self._over:
                return
            self._wakeup = asyncio.get_running_loop().create_future()
            await self._wakeup

    async def _bring(self, message: Msg) -> None:
        answer = self._answers.get(message.subject)
        if answer is not None:
            answer(message)

    async def _error(self, error: Exception) -> None:
        text = _text(error)
        if text != self._problem and self.max_payload_bytes and not self._closing:
            _log.warning("NATS: %s", text)
        self._problem = text

    async def _disconnected(self) -> None:
        if self._up.is_set() and not self._closing:
            self._up.clear()
            self.losses += 1
            for told in tuple(self.lost):
                told()

    async def _reconnected(self) -> None:
        self._problem = ""
        self.max_payload_bytes = self._client.max_payload
        self._up.set()
        for told in tuple(self.back):
            told()

    async def _closed(self) -> None:
        if not self._closing and self.max_payload_bytes:
            _log.error("NATS closed the connection for good: %s", self.why)
            self._finish()

    def _finish(self) -> None:
        first, self._over = not self._over, True
        self._up.set()
        self._empty.set()
        self._wake()
        if first:
            self.losses += 1
            for told in tuple(self.lost):
                told()

    def _wake(self) -> None:
        if self._wakeup is not None and not self._wakeup.done():
            self._wakeup.set_result(None)


async def alone(url: str, on: Callable[[Connection, NatsSettings], Awaitable[_Part]]) -> _Part:
    """Open a part of an engine over a connection that only it uses.

    Args:
        url: The engine's URL.
        on: Opens the part, which shares the connection.

    Raises:
        PlaneError: As `Connection.open`, and what ``on`` raises. Cancelling leaves nothing open.
    """
    settings = NatsSettings.parse(url)
    connection = await Connection.open(settings)
    try:
        return await on(connection, settings)
    finally:
        await connection.close()


def status_of(message: Msg) -> str:
    """The status of a message of the server itself; empty for a message of somebody's."""
    return "" if message.headers is None else message.headers.get("Status", "")


def _text(error: Exception) -> str:
    return str(error) or type(error).__name__
