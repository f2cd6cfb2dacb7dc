"""The link door: serves the calls of other Protoplane processes, over any carrier."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from protoplane.v1.link_pb2 import Hello
from protoplane_runtime.link.acceptor import Acceptor
from protoplane_runtime.link.carriers.interface import Carrier, Receiver
from protoplane_runtime.link.carriers.opening import scheme
from protoplane_runtime.link.connection import Connection
from protoplane_runtime.link.settings import LinkSettings
from protoplane_server.dispatcher import Dispatcher
from protoplane_server.link_calls import LinkCalls

Welcome = Callable[[Hello, str], str]
"""Looks at a hello and at who the carrier says the other end is, and gives the identity of its
calls; it raises `LinkError` for who is not welcome."""


class LinkDoor:
    """Takes links on, whatever carries them.

    Args:
        dispatcher: Where the calls go.
        settings: What this end is and takes.
        welcome: Decides who may come in; by default everybody.
    """

    def __init__(
        self, dispatcher: Dispatcher, settings: LinkSettings, welcome: Welcome | None = None
    ) -> None:
        self._dispatcher = dispatcher
        self._settings = settings
        self._welcome = welcome
        self._links: dict[Connection[Acceptor], str] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        self._draining: tuple[str, tuple[str, ...]] | None = None

    @property
    def links(self) -> frozenset[Connection[Acceptor]]:
        """The links that are open."""
        return frozenset(self._links)

    def accept(self, carrier: Carrier, place: str = "") -> Receiver:
        """Take a link on: a carrier calls this when somebody connected.

        Args:
            carrier: What carries it.
            place: Where it came in; see `drain`.

        Returns:
            Who is told of what the carrier brings.
        """
        link: Connection[Acceptor] = Connection(serving=True)
        calls = LinkCalls(self._dispatcher, carrier.peer, self._settings.identity)

        def welcome(hello: Hello) -> None:
            calls.identity = carrier.identity
            if self._welcome is not None:
                calls.identity = self._welcome(hello, carrier.identity)
            link.watch()

        session = Acceptor(self._settings, wake=link.wake, accept=calls.accept, welcome=welcome)
        calls.session = session
        if self._draining is not None:
            session.drain(*self._draining)
        stats = self._dispatcher.metrics.links(scheme(place) or place)
        stats.began(link)
        self._links[link] = place
        self._idle.clear()
        link.closed.add_done_callback(lambda _: self._gone(link))
        link.closed.add_done_callback(lambda _: stats.ended(link))
        link.start(session, carrier)
        return link

    def drain(
        self, message: str, endpoints: tuple[str, ...] = (), *, place: str | None = None
    ) -> None:
        """Take no more calls; those that come are handed back untouched.

        Args:
            message: Why, for callers.
            endpoints: Where this component can be reached from now on, if it can.
            place: Only on links that came in there; on all, and on those still to come, by default.
        """
        if place is None:
            self._draining = (message, endpoints)
        for link, came_in in self._links.items():
            if place is None or came_in == place:
                link.session.drain(message, endpoints)

    async def stop(self, grace_s: float) -> None:
        """Close all links.

        Who was told that this end goes away closes a link once it has its last answer, so there is
        time for that first: whoever closes a socket while more comes in resets it, and what the
        other end has not read by then is lost to it (RFC 1122, section 4.2.2.13).

        Args:
            grace_s: Seconds after which links that still hold bytes are cut.
        """
        if self._draining is not None and await self._emptied(grace_s / 2):
            return
        for link in self.links:
            link.close()
        if not await self._emptied(grace_s / 2):
            for link in self.links:
                if link.carrier is not None:
                    link.carrier.abort()

    async def _emptied(self, within_s: float) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._idle.wait()
        return not self._links

    def _gone(self, link: Connection[Acceptor]) -> None:
        del self._links[link]
        if not self._links:
            self._idle.set()
