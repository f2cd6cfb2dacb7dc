"""A link to one address that is kept open: connecting, reconnecting, moving, letting go."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from time import monotonic, time

from protoplane.v1.link_pb2 import GoAway
from protoplane_base import Code, MissingExtraError, PlaneError
from protoplane_client.backoff import Backoff
from protoplane_client.route import ConnectionState, ConnectionStats
from protoplane_runtime.link.caller import Caller
from protoplane_runtime.link.carriers.interface import Carrier, Receiver
from protoplane_runtime.link.carriers.opening import connector
from protoplane_runtime.link.connection import Connection
from protoplane_runtime.link.errors import UnsentError
from protoplane_runtime.link.settings import LinkSettings
from protoplane_runtime.tls import ClientTls

_log = logging.getLogger("protoplane.client")

_STEADY_S = 1.0
"""A link that lived so long was a good one: after it, reconnecting begins with the first delay."""

_LAST_BYTES_S = 2.0

_HOPELESS = frozenset(
    {
        Code.INVALID_ARGUMENT,
        Code.FAILED_PRECONDITION,
        Code.UNAUTHENTICATED,
        Code.PERMISSION_DENIED,
        Code.UNIMPLEMENTED,
    }
)
"""What the other end says for reasons that trying again does not change."""


class LinkConnection:
    """Keeps a link open, from the first call on.

    A link that is lost is opened again, at once where it had been good, then after 100 ms,
    doubling to 30 s. A link whose other end goes away finishes the calls that it has, while new
    ones go to the next link; that is opened to the addresses that the other end named, in their
    order, and to the one before where none of them leads anywhere.

    Args:
        address: Where to; see `protoplane_runtime.link.carriers.opening`.
        settings: What this end is and takes.
        tls: Whom to trust.

    Attributes:
        address: Where the next link goes.
        state: Where the connection stands.
        session: The session that takes new calls; ``None`` while there is none.
        draining: Whether the other end went away and no new link is open yet.

    Raises:
        PlaneError: INVALID_ARGUMENT where the address is no link's.
        MissingExtraError: Its carrier needs an extra that is not installed.
    """

    def __init__(self, address: str, settings: LinkSettings, tls: ClientTls | None = None) -> None:
        connector(address)
        self.address = address
        self._others: deque[str] = deque()
        self.state = ConnectionState.DISCONNECTED
        self.session: Caller | None = None
        self.draining = False
        self._settings = settings
        self._tls = tls
        self._stats = ConnectionStats()
        self._links: set[Connection[Caller]] = set()
        self._link: Connection[Caller] | None = None
        self._backoff = Backoff()
        self._keeper: asyncio.Task[None] | None = None
        self._tried: asyncio.Future[None] | None = None
        self._stir = asyncio.Event()
        self._failure: PlaneError | None = None
        self._closed = False

    @property
    def stats(self) -> ConnectionStats:
        """What all links together have counted."""
        total = replace(self._stats)
        for link in self._links:
            _add(total, link)
        return total

    @property
    def open_calls(self) -> int:
        """Calls that are open, on links that drain too."""
        return sum(link.session.open_calls for link in self._links)

    def start(self) -> None:
        """Begin to connect, where nothing else did; needs a running loop."""
        if self._keeper is None and not self._closed and self.state is not ConnectionState.FAILED:
            self._move(ConnectionState.CONNECTING)
            self._tried = asyncio.get_running_loop().create_future()
            self._keeper = asyncio.create_task(self._keep())

    async def ready(self, timeout_s: float | None = None) -> Caller:
        """The session for a new call, once the try to connect that is under way is over.

        Args:
            timeout_s: Seconds that it may take.

        Raises:
            UnsentError: There is no link, and why; DEADLINE_EXCEEDED once the time is over.
            PlaneError: FAILED_PRECONDITION once this is closed.
        """
        if self._closed:
            raise PlaneError(Code.FAILED_PRECONDITION, f"the plane to {self.address} is closed")
        self.start()
        if self.session is None and self._tried is not None:
            try:
                async with asyncio.timeout(timeout_s):
                    await asyncio.shield(self._tried)
            except TimeoutError:
                raise UnsentError(
                    f"no link to {self.address} within the call's timeout", Code.DEADLINE_EXCEEDED
                ) from None
        if self._closed:
            raise PlaneError(Code.CANCELLED, f"the plane to {self.address} was closed")
        if self.session is not None:
            return self.session
        why = self._failure
        if why is None:
            raise UnsentError(f"there is no link to {self.address}")
        raise UnsentError(f"cannot reach {self.address}: {why.message}", why.code) from why

    def move(self, address: str) -> None:
        """Go on at another address: calls that are open finish where they are.

        Raises:
            PlaneError: INVALID_ARGUMENT where it is no link's address.
        """
        connector(address)
        self.address = address
        self._others.clear()
        self._backoff.reset()
        if self.state is ConnectionState.FAILED:
            self._move(ConnectionState.DISCONNECTED)
        self._retire()

    async def aclose(self) -> None:
        """Cancel what is open and close; closing twice does nothing."""
        if self._closed:
            return
        self._closed = True
        self._link = self.session = None
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
            self._done_trying()
        error = PlaneError(Code.CANCELLED, f"the plane to {self.address} was closed")
        closing = [link.closed for link in self._links]
        for link in tuple(self._links):
            link.close(error)
        if closing:
            _, late = await asyncio.wait(closing, timeout=_LAST_BYTES_S)
            for link in tuple(self._links):
                link.abort(error)
            if late:
                await asyncio.wait(late)
        self._move(ConnectionState.DISCONNECTED)

    async def _keep(self) -> None:
        """Have a link open, until this is closed or there is no hope."""
        first, connected = True, False
        while True:
            if self._tried is None:
                self._tried = asyncio.get_running_loop().create_future()
            self._move(ConnectionState.CONNECTING if first else ConnectionState.RECONNECTING)
            tried = self.address
            try:
                await self._open()
            except Exception as error:  # noqa: BLE001  # whatever it is, who waits must be told
                self._failure = _plane_error(error)
                self._stats.errors += 1
                steady = False
                if self._failure.code in _HOPELESS and self.address == tried and not self._others:
                    self._move(ConnectionState.FAILED)
                    self._keeper = None
                    self._done_trying()
                    return
                if self._others and self.address == tried:
                    self._others.append(self.address)
                    self.address = self._others.popleft()
            else:
                opened = monotonic()
                self._failure = None
                self._stats.reconnects += connected
                connected = True
                self._move(ConnectionState.CONNECTED)
                self._done_trying()
                await self._stir.wait()
                self._stir.clear()
                steady = self._left_in_order() or monotonic() - opened >= _STEADY_S
            first = False
            self._move(ConnectionState.RECONNECTING)
            self._done_trying()
            if steady:
                self._backoff.reset()
            else:
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._backoff.next_s()):
                        await self._stir.wait()

    def _left_in_order(self) -> bool:
        return self._failure is None

    def _done_trying(self) -> None:
        if self._tried is not None:
            self._tried.set_result(None)
            self._tried = None

    async def _open(self) -> None:
        """Have a link that takes calls, at the address that is right by then."""
        while True:
            address = self.address
            self._stir.clear()
            link = await self._connect(address)
            if address == self.address or link.session.going_away:
                break
            link.close()
        if link.closed.done():
            raise link.closed.result() or PlaneError(
                Code.UNAVAILABLE, "the other end closed the link"
            )
        if link.session.going_away:
            link.close()
            raise PlaneError(Code.UNAVAILABLE, "the other end is going away")
        link.watch()
        self._link, self.session = link, link.session
        self.draining = False

    async def _connect(self, address: str) -> Connection[Caller]:
        """A link to an address, once both hellos are exchanged."""
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        link: Connection[Caller] = Connection()

        def greeted() -> None:
            if not ready.done():
                ready.set_result(None)

        def started(carrier: Carrier) -> Receiver:
            session = Caller(
                self._settings,
                wake=link.wake,
                on_ready=greeted,
                on_go_away=lambda gone: self._gone_away(link, gone),
            )
            link.closed.add_done_callback(lambda _: self._lost(link, ready))
            self._links.add(link)
            link.start(session, carrier)
            return link

        connect = connector(address)
        try:
            async with asyncio.timeout(self._settings.hello_timeout_s):
                await connect(address, started, self._tls)
                await ready
        except BaseException as error:
            late = PlaneError(
                Code.UNAVAILABLE,
                f"no hello came within {self._settings.hello_timeout_s:g} s; is it a link?",
            )
            ready.cancel()
            link.abort(late)
            if isinstance(error, TimeoutError):
                raise late from None
            raise
        return link

    def _gone_away(self, link: Connection[Caller], gone: GoAway) -> None:
        addresses = dict.fromkeys([*_known(gone.endpoints), self.address])
        self.address, *others = addresses
        self._others = deque(others)
        if link is self._link:
            self.draining = True
            self._retire()

    def _retire(self) -> None:
        """Let the present link finish what it has and close; new calls wait for the next."""
        link, self._link, self.session = self._link, None, None
        if link is not None:
            link.session.when_idle(link.close)
        self._stir.set()

    def _lost(self, link: Connection[Caller], ready: asyncio.Future[None]) -> None:
        error = link.closed.result() or PlaneError(
            Code.UNAVAILABLE, "the other end closed the link"
        )
        self._links.discard(link)
        _add(self._stats, link)
        if not ready.done():
            ready.set_exception(error)
        elif link is self._link:
            self._link = self.session = None
            self._failure = error
            self._stats.errors += 1
            self._stir.set()

    def _move(self, state: ConnectionState) -> None:
        if state is not self.state:
            self.state = state
            self._stats.since_s = time()


def _known(endpoints: Iterable[str]) -> list[str]:
    """The addresses that this process has a carrier for."""
    known: list[str] = []
    for endpoint in endpoints:
        with suppress(PlaneError, MissingExtraError):
            connector(endpoint)
            known.append(endpoint)
    return known


def _plane_error(error: Exception) -> PlaneError:
    if isinstance(error, PlaneError):
        return error
    if isinstance(error, OSError):
        return PlaneError(Code.UNAVAILABLE, error.strerror or str(error) or type(error).__name__)
    if isinstance(error, ValueError):
        # A host that no name can be, for example.
        return PlaneError(Code.INVALID_ARGUMENT, str(error))
    _log.error("a carrier failed in a way that it should not", exc_info=error)
    return PlaneError(Code.INTERNAL, f"the carrier failed: {error!r}")


def _add(total: ConnectionStats, link: Connection[Caller]) -> None:
    session: Caller = link.session
    total.messages_sent += session.messages_sent
    total.messages_received += session.messages_received
    total.bytes_sent += link.bytes_sent
    total.bytes_received += link.bytes_received
