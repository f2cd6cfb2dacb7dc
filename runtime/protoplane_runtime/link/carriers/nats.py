"""Links through a NATS server: ``link+nats://server:port/subject``.

Whoever listens takes the subject, in a queue group, so several instances may share one: the server
picks who gets a new link. Each end of a link has an inbox of its own; all links of an event loop go
over one connection to the server.

Credentials stand in the address as clients of NATS take them, ``link+nats://user:password@…`` or
``link+nats://token@…``, or in a file of a user's JWT and key: ``?creds=/etc/a.creds``. Both ends
are clients of the server, so TLS is set the same way at both: ``?ca=/etc/ca.pem``, and for mutual
TLS ``&cert=…&key=…`` too; an end that connects may give `ClientTls` instead. With either, a server
that does not speak TLS is refused. The server sees all that passes, and does not say who sent it.

A message is its `Kind` (1), its number (4, big-endian, from 0 each way) and the body of `windowed`.
NATS delivers at most once: a number that is left out ends the link. So does the loss of the server.

Nothing closes when a process dies: only the next message to it tells, because the server says that
nobody takes it. An end that hears nothing after what it sent therefore sends a message of no bytes
now and then, which the other end drops.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import struct
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit

from protoplane_base import Code, PlaneError
from protoplane_runtime.link.carriers.interface import Started
from protoplane_runtime.link.carriers.nats_broker import Broker, BrokerSettings, broker
from protoplane_runtime.link.carriers.windowed import Kind, WindowedCarrier
from protoplane_runtime.tls import ClientTls

if TYPE_CHECKING:
    from nats.aio.msg import Msg

    from protoplane_runtime.tls import ServerTls

_log = logging.getLogger("protoplane.link")

_HEAD = struct.Struct(">BI")
_QUEUE = "link"
_MAX_BATCH_BYTES = 1024 * 1024
_NO_RESPONDERS = "503"
_SUBJECT = re.compile(r"[^\s*>.]+(\.[^\s*>.]+)*")
_FIRST_RETRY_S = 0.1
_LAST_RETRY_S = 30.0
_FIRST_PROBE_S = 1.0
# Later a link that is idle is asked by its pings.
_LAST_PROBE_S = 8.0


async def connect(address: str, started: Started, tls: ClientTls | None) -> None:
    """See `carriers.opening.Connect`."""
    where = _Address.parse(address, tls)
    found = await broker(where.settings)
    # From here on the carrier releases it.
    carrier = NatsCarrier(found, where.subject, f"nats:{where.settings.server}/{where.subject}")
    await carrier.open(started)


async def listen(address: str, started: Started, tls: ServerTls | None) -> NatsListener:
    """See `carriers.opening.Listen`; it listens again by itself after the server was gone."""
    where = _Address.parse(address, None)
    listening = NatsListener(where, started)
    await listening.start()
    return listening


class NatsCarrier(WindowedCarrier):
    """An end of a link.

    Args:
        through: The connection to the server; the carrier releases it at its end.
        to: Where the other end is: its inbox, or the subject until it answered.
        peer: The same for logs.
    """

    def __init__(self, through: Broker, to: str, peer: str) -> None:
        super().__init__(peer, "", min(through.max_payload_bytes - _HEAD.size, _MAX_BATCH_BYTES))
        self._broker = through
        self._to = to
        self._answered = False
        self._sent = 0
        self._came = 0
        self._probe: asyncio.TimerHandle | None = None
        self._inbox = through.inbox(self.incoming)
        through.gone.add_done_callback(self._broker_gone)

    def post(self, kind: int, body: bytes) -> None:
        """See `WindowedCarrier`."""
        if kind == Kind.ABORT and not self._answered:
            # It would reach any of those who listen.
            return
        head = _HEAD.pack(kind, self._sent)
        self._sent = (self._sent + 1) & 0xFFFFFFFF
        self._broker.publish(self._to, head + body, self._inbox)
        if self._probe is None and self._answered:
            self._listen_for(_FIRST_PROBE_S)

    def ended(self, *, flush: bool) -> None:
        """See `WindowedCarrier`."""
        if self._probe is not None:
            self._probe.cancel()
        self._broker.close_inbox(self._inbox)
        self._broker.gone.remove_done_callback(self._broker_gone)
        self._broker.release()

    def answer(self, hello: bytes, started: Started) -> None:
        """Begin as the end that was connected to, with the body of the OPEN."""
        self._answered = True
        self._came = 1
        self.accept(hello, started)

    def incoming(self, message: Msg) -> None:
        """A message came to the inbox."""
        data = message.data
        if len(data) < _HEAD.size:
            if (message.headers or {}).get("Status") == _NO_RESPONDERS:
                self.fail("the other end is gone" if self._answered else "nobody listens there")
            return
        kind, number = _HEAD.unpack_from(data)
        if kind == Kind.ABORT:
            self.take(kind, data[_HEAD.size :])
        elif number != self._came:
            self.break_off(f"message {self._came} was lost on the way, {number} came")
        else:
            self._came = (number + 1) & 0xFFFFFFFF
            if not self._answered:
                self._answered = True
                self._to = message.reply
            self.take(kind, data[_HEAD.size :])

    def _listen_for(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        self._probe = loop.call_later(seconds, self._heard, self._sent, self._came, seconds)

    def _heard(self, sent: int, came: int, seconds: float) -> None:
        self._probe = None
        if came == self._came:
            self._broker.publish(self._to, b"", self._inbox)
            if seconds < _LAST_PROBE_S:
                self._listen_for(seconds * 2)
        elif sent != self._sent:
            self._listen_for(_FIRST_PROBE_S)

    def _broker_gone(self, gone: asyncio.Future[str]) -> None:
        self.fail(gone.result())


class NatsListener:
    """Takes links on a subject; see `carriers.interface.Listener`.

    Args:
        where: The server and the subject.
        started: Called for each link.
    """

    def __init__(self, where: _Address, started: Started) -> None:
        self.address = f"link+nats://{where.settings.server}/{where.subject}"
        self._where = where
        self._started = started
        self._refusing = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen for the first time.

        Raises:
            PlaneError: UNAVAILABLE where the server cannot be reached or does not let one in.
                Cancelling it leaves nothing open.
        """
        listening: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._run(listening))
        try:
            await listening
        except BaseException:
            self._task.cancel()
            raise

    async def aclose(self) -> None:
        """Take no more connections; those that are open go on."""
        self._refusing.set()
        if self._task is not None:
            await self._task

    async def _run(self, listening: asyncio.Future[None]) -> None:
        delay_s = _FIRST_RETRY_S
        while not self._refusing.is_set():
            try:
                found = await broker(self._where.settings)
                try:
                    async with found.subscribed(
                        self._where.subject, _QUEUE, partial(self._asked, found)
                    ):
                        if not listening.done():
                            listening.set_result(None)
                        delay_s = _FIRST_RETRY_S
                        await self._until_over(found)
                finally:
                    found.release()
            except PlaneError as error:
                if not listening.done():
                    listening.set_exception(error)
                    return
                _log.warning("%s: %s; trying again in %g s", self.address, error, delay_s)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(delay_s):
                        await self._refusing.wait()
                delay_s = min(delay_s * 2, _LAST_RETRY_S)

    async def _until_over(self, found: Broker) -> None:
        refusing = asyncio.create_task(self._refusing.wait())
        either: list[asyncio.Future[Any]] = [refusing, found.gone]
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            refusing.cancel()

    def _asked(self, found: Broker, message: Msg) -> None:
        data = message.data
        if len(data) < _HEAD.size or data[0] != Kind.OPEN or not message.reply:
            return
        if self._refusing.is_set():
            refusal = _HEAD.pack(Kind.ABORT, 0) + b"the listener takes no more links"
            found.publish(message.reply, refusal, "")
            return
        found.users += 1
        carrier = NatsCarrier(found, message.reply, f"nats:{message.reply}")
        carrier.answer(data[_HEAD.size :], self._started)


@dataclass(frozen=True, slots=True)
class _Address:
    settings: BrokerSettings
    subject: str

    @classmethod
    def parse(cls, address: str, tls: ClientTls | None) -> _Address:
        url = urlsplit(address)
        subject = unquote(url.path.removeprefix("/"))
        asked = dict(parse_qsl(url.query, keep_blank_values=True))
        ca, cert, key = (asked.pop(name, None) for name in ("ca", "cert", "key"))
        credentials = asked.pop("creds", "")
        try:
            port = url.port or 4222
        except ValueError:
            port = 0
        if not url.hostname or not port or asked or not _SUBJECT.fullmatch(subject):
            raise PlaneError(
                Code.INVALID_ARGUMENT,
                f"{address.rpartition('@')[2]!r} is no NATS address; one looks like "
                "link+nats://127.0.0.1:4222/forge.captioner, with ?creds=, ?ca=, ?cert= and ?key=",
            )
        if ca or cert:
            tls = ClientTls(ca=ca, cert=cert, key=key)
        host = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
        settings = BrokerSettings(
            f"{host}:{port}",
            unquote(url.username or ""),
            unquote(url.password or ""),
            credentials,
            tls,
        )
        return cls(settings, subject)
