"""Discovery of the engine ``zenoh:``: instances as liveliness tokens.

A token is there for as long as its process is connected, and Zenoh tells who watches when it goes.
Every node holds all tokens, so looking somebody up asks nobody.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

from protoplane_runtime.engines.discovery import DEFAULT_NAMESPACE, Change, Instance, Registration
from protoplane_runtime.engines.registrations import Registrations
from protoplane_runtime.engines.roster import (
    Place,
    Roster,
    RosterRegistration,
    check_asked,
    place_of,
    taken,
)
from protoplane_runtime.engines.watchers import Watchers
from protoplane_runtime.engines.zenoh.api import Declared
from protoplane_runtime.engines.zenoh.inbox import Inbox
from protoplane_runtime.engines.zenoh.instance_tokens import (
    InstanceToken,
    claim_key,
    claims_of,
    tokens_of,
)
from protoplane_runtime.engines.zenoh.session import Session

_CLAIM_TIMEOUT_S = 5.0
_CLAIM_INTERVAL_S = 0.005
_LOOK_TIMEOUT_S = 2.0


class ZenohDiscovery:
    """A `Discovery` among the nodes of a Zenoh network.

    A name is claimed before it is taken, so that of several who want it at once one gets it; in
    parts of a network that do not reach each other each has its own. Registering, updating and
    leaving wait until the nodes that are reached know of it.

    Args:
        session: The session; held until the discovery is closed.
    """

    def __init__(self, session: Session) -> None:
        self._session = session.hold()
        self._prefix = session.prefix
        self._roster = Roster()
        self._shown: Registrations[list[Declared]] = Registrations(self._let_go)
        self._watchers = Watchers(self._roster, lambda: _Follower(self._session, self._roster))

    @asynccontextmanager
    async def register(self, instance: Instance) -> AsyncGenerator[Registration, None]:
        """Let others find an instance; see `Discovery.register`.

        Raises:
            PlaneError: As `Discovery.register`; RESOURCE_EXHAUSTED for an instance that says too
                much of itself.
        """
        self._roster.require_open()
        if instance.log:
            # All nodes have all events, so whoever subscribes needs one of them.
            instance = replace(instance, log=self._prefix)
        name = secrets.token_hex(8)
        token = InstanceToken(self._session.id, name, 1, instance)
        key = token.key(self._prefix)
        held: list[Declared] = []
        version = 1

        async def tell(changed: Instance) -> None:
            nonlocal version
            version += 1
            new = InstanceToken(self._session.id, name, version, changed)
            before = tuple(held)
            await self._session.token(new.key(self._prefix), held)
            await self._session.withdraw(*before)
            del held[: len(before)]
            await self._session.settled()

        async with self._shown.hold(
            instance, held, take=lambda _: self._take(instance, name, key, held), tell=tell
        ) as registration:
            yield registration

    async def instances(
        self, path: str | None = None, *, namespace: str | None = DEFAULT_NAMESPACE
    ) -> Sequence[Instance]:
        """Which instances there are now; see `Discovery.instances`."""
        check_asked(path, namespace)
        self._roster.require_open()
        shown = _Tokens()
        for key in await self._session.tokens(f"{self._prefix}/at/**", timeout_s=_LOOK_TIMEOUT_S):
            shown.put(key)
        roster = Roster()
        roster.replace(shown.all())
        return roster.select(path, namespace)

    def watch(
        self, path: str | None = None, *, namespace: str | None = DEFAULT_NAMESPACE
    ) -> AsyncGenerator[Sequence[Change], None]:
        """Follow who comes and goes; see `Discovery.watch`."""
        return self._watchers.watch(path, namespace)

    async def close(self) -> None:
        """End all watches and let go of what is still registered, then of the session."""
        if self._roster.closed:
            return
        self._roster.close()
        await self._watchers.close()
        await self._shown.close()
        await self._session.release()

    async def _take(self, instance: Instance, name: str, key: str, held: list[Declared]) -> None:
        session = self._session
        claim = claim_key(self._prefix, instance, name)
        claims: list[Declared] = []
        try:
            await session.token(claim, claims)
            async with asyncio.timeout(_CLAIM_TIMEOUT_S):
                while True:
                    await session.settled()
                    others = set(await self._found(claims_of(self._prefix, instance))) - {claim}
                    if await self._found(tokens_of(self._prefix, instance)):
                        raise taken(instance)
                    if not others:
                        break
                    if min(others) < claim:
                        raise taken(instance)
                    # The others see this claim and give way, or had the name before it was there.
                    await asyncio.sleep(_CLAIM_INTERVAL_S)
            await session.token(key, held)
            await session.settled()
        except TimeoutError:
            raise taken(instance) from None
        finally:
            await session.withdraw(*claims)

    async def _found(self, key: str) -> list[str]:
        return await self._session.tokens(key, timeout_s=_LOOK_TIMEOUT_S)

    async def _let_go(self, _: RosterRegistration, held: list[Declared]) -> None:
        # What a cancelled step left to be declared comes before this.
        await self._session.run(lambda: None)
        await self._session.withdraw(*held)
        await self._session.settled()


class _Tokens:
    """The tokens that are there, and what they say."""

    def __init__(self) -> None:
        self._places: dict[Place, dict[str, InstanceToken]] = {}

    def put(self, key: str) -> Place | None:
        """Add a token; where it is."""
        token = InstanceToken.parse(key)
        if token is None:
            return None
        place = place_of(token.instance)
        self._places.setdefault(place, {})[key] = token
        return place

    def remove(self, key: str) -> Place | None:
        """Take a token out; where it was."""
        for place, tokens in self._places.items():
            if tokens.pop(key, None) is not None:
                if not tokens:
                    del self._places[place]
                return place
        return None

    def at(self, place: Place) -> Instance | None:
        """Who is at a place: the newest, where one has not left yet when another came."""
        tokens = self._places.get(place)
        if not tokens:
            return None
        return max(
            tokens.values(), key=lambda each: (each.instance.started_s, each.version)
        ).instance

    def all(self) -> Iterable[Instance]:
        """All who are there."""
        return [found for place in self._places if (found := self.at(place)) is not None]


class _Follower:
    """Keeps a roster up to date while somebody watches."""

    def __init__(self, session: Session, roster: Roster) -> None:
        self._session = session
        self._roster = roster
        self._inbox: Inbox[tuple[str, bool]] = Inbox()
        self._tokens = _Tokens()
        self._declared: Declared | None = None
        self._ready = asyncio.ensure_future(self._begin())
        self._task: asyncio.Task[None] | None = None

    @property
    def ended(self) -> bool:
        """Whether it could not begin."""
        return self._ready.done() and self._task is None

    async def ready(self) -> None:
        """Wait until the roster holds who is there."""
        await asyncio.shield(self._ready)

    async def stop(self) -> None:
        """Follow nobody any more."""
        # Where it just begins, what it declares is taken back too.
        await asyncio.wait([self._ready])
        self._inbox.close()
        await self._session.withdraw(self._declared)
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        if not self._ready.cancelled() and (error := self._ready.exception()) is not None:
            raise error

    async def _begin(self) -> None:
        key = f"{self._session.prefix}/at/**"
        self._declared = await self._session.follow(
            key, lambda found, there: self._inbox.put((found, there))
        )
        for each in await self._session.tokens(key, timeout_s=_LOOK_TIMEOUT_S):
            self._tokens.put(each)
        self._roster.replace(self._tokens.all())
        self._task = asyncio.ensure_future(self._follow())

    async def _follow(self) -> None:
        while batch := await self._inbox.take():
            for key, there in batch:
                place = self._tokens.put(key) if there else self._tokens.remove(key)
                if place is None:
                    continue
                instance = self._tokens.at(place)
                if instance is None:
                    self._roster.remove(place)
                else:
                    self._roster.put(instance)
