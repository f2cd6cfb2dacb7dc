"""Links over Zenoh, with no broker: ``link+zenoh:<name>``; `zenoh_address` tells of addresses.

Who connects asks the name, by a query that the nearest of its listeners answers; several processes
may share one. Each end of a link has an inbox, a key that it alone subscribes, and a liveliness
token of its session tells at once when its process dies. All links of an event loop with the same
locators go over one session.

A message is its `Kind` (1), its number (4, big-endian, from 0 each way) and the body of `windowed`.
A number that is left out ends the link. TLS is a matter between sessions, so links learn nothing of
who is at the other end, and whoever is let into the network can read along.
"""

from __future__ import annotations

import asyncio
import struct

from protoplane_base import MissingExtraError
from protoplane_runtime.link.carriers.interface import Started
from protoplane_runtime.link.carriers.windowed import Kind, WindowedCarrier
from protoplane_runtime.link.carriers.zenoh_address import ZenohAddress
from protoplane_runtime.link.carriers.zenoh_session import Session, session
from protoplane_runtime.link.carriers.zenoh_thread import Declared
from protoplane_runtime.tls import ClientTls, ServerTls

try:
    from zenoh import KeyExpr
except ModuleNotFoundError as error:
    raise MissingExtraError("zenoh", "a link over Zenoh") from error

_HEAD = struct.Struct(">BI")
_MAX_BATCH_BYTES = 1024 * 1024


async def connect(address: str, started: Started, tls: ClientTls | None) -> None:
    """See `carriers.opening.Connect`."""
    where = ZenohAddress.parse(address, tls)
    found = await session(where.settings)
    # From here on the carrier releases it.
    carrier = ZenohCarrier(found, f"zenoh:{where.name}", where.name)
    await carrier.open(started)


async def listen(address: str, started: Started, tls: ServerTls | None) -> ZenohListener:
    """See `carriers.opening.Listen`; it is found again by itself after the network was away."""
    where = ZenohAddress.parse(address, tls)
    found = await session(where.settings)
    try:
        listening = ZenohListener(found, where, started)
        await listening.start()
    except BaseException:
        found.release()
        raise
    return listening


class ZenohCarrier(WindowedCarrier):
    """An end of a link.

    Args:
        through: The session; the carrier releases it at its end.
        peer: Who is at the other end, for logs.
        name: Whom to ask for the link; empty for who was asked.
    """

    def __init__(self, through: Session, peer: str, name: str = "") -> None:
        super().__init__(peer, "", _MAX_BATCH_BYTES)
        self._session = through
        self._name = name
        self._theirs = ""
        self._to: KeyExpr | None = None
        self._sent = 0
        self._came = 0
        self._inbox = through.inbox(self.incoming)

    def post(self, kind: int, body: bytes) -> None:
        """See `WindowedCarrier`."""
        if self._to is None and kind != Kind.OPEN:
            # There is nobody yet to tell.
            return
        data = _HEAD.pack(kind, self._sent) + body
        self._sent = (self._sent + 1) & 0xFFFFFFFF
        if self._to is None:
            self._session.ask(self._name, data, self._inbox, self.fail)
        else:
            self._session.publish(self._to, data, self._inbox if kind == Kind.OPENED else "")

    def ended(self, *, flush: bool) -> None:
        """See `WindowedCarrier`."""
        self._session.close_inbox(self._inbox)
        self._session.unwatch(self._theirs, self._inbox)
        self._session.release()

    def answer(self, hello: bytes, inbox: str, started: Started) -> None:
        """Begin as the end that was connected to, with the body of the OPEN and its inbox."""
        self._came = 1
        self._answered(inbox)
        self.accept(hello, started)

    def incoming(self, data: bytes, inbox: str) -> None:
        """A message came to the inbox."""
        if len(data) < _HEAD.size:
            return
        kind, number = _HEAD.unpack_from(data)
        if kind == Kind.ABORT:
            self.take(kind, data[_HEAD.size :])
        elif number != self._came:
            self.break_off(f"message {self._came} was lost on the way, {number} came")
        else:
            self._came = (number + 1) & 0xFFFFFFFF
            if self._to is None and inbox:
                self._answered(inbox)
            self.take(kind, data[_HEAD.size :])

    def _answered(self, inbox: str) -> None:
        self._theirs = inbox
        self._to = KeyExpr(inbox)
        self._session.watch(inbox, self._inbox, self.fail)


class ZenohListener:
    """Takes links of a name; see `carriers.interface.Listener`.

    Args:
        through: The session; the listener releases it at its end.
        where: The address that was asked for.
        started: Called for each link.
    """

    def __init__(self, through: Session, where: ZenohAddress, started: Started) -> None:
        self.address = where.told(through.locators)
        self._session = through
        self._name = where.name
        self._started = started
        self._refusing = False
        self._queryable: Declared | None = None

    async def start(self) -> None:
        """Begin to listen.

        Raises:
            PlaneError: UNAVAILABLE where Zenoh refuses it.
        """
        self._queryable = await self._session.take(self._name, self._asked)

    async def aclose(self) -> None:
        """Take no more connections; those that are open go on."""
        queryable, self._queryable = self._queryable, None
        if queryable is not None:
            self._refusing = True
            try:
                await asyncio.shield(asyncio.ensure_future(self._session.leave(queryable)))
            finally:
                self._session.release()

    def _asked(self, data: bytes, inbox: str) -> None:
        if self._refusing or len(data) < _HEAD.size:
            refusal = _HEAD.pack(Kind.ABORT, 0) + b"the listener takes no more links"
            self._session.publish(KeyExpr(inbox), refusal, "")
            return
        self._session.users += 1
        carrier = ZenohCarrier(self._session, f"zenoh:{inbox.rpartition('/')[0][-32:]}")
        carrier.answer(data[_HEAD.size :], inbox, self._started)
