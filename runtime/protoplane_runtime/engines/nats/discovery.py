"""Discovery of the engine ``nats://…``: a bucket of instances, and signs of life beside it.

An instance stands in a KV bucket of JetStream for as long as its process renews it, and is there
for others for as long as its process gives signs of life. These go over plain NATS, so a killed
process is gone within two seconds, and nobody is when JetStream looks for a new leader.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Self

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.discovery import DEFAULT_NAMESPACE, Change, Instance, Registration
from protoplane_runtime.engines.nats.bucket import Bucket
from protoplane_runtime.engines.nats.claim import RENEW_S, Claim, read
from protoplane_runtime.engines.nats.connection import Connection, alone
from protoplane_runtime.engines.nats.discovery_follower import DiscoveryFollower
from protoplane_runtime.engines.nats.pulse import Pulse, living
from protoplane_runtime.engines.nats.settings import NatsSettings
from protoplane_runtime.engines.registrations import Registrations
from protoplane_runtime.engines.roster import (
    Place,
    Roster,
    RosterRegistration,
    check_asked,
    closed_error,
    place_of,
    taken,
)
from protoplane_runtime.engines.watchers import Watchers

_log = logging.getLogger("protoplane.discovery")

_LEAVE_TIMEOUT_S = 2.0
_RETRY_S = 1.0


class NatsDiscovery:
    """A `Discovery` in a NATS server or cluster; get one from `open`.

    A join is seen as soon as the bucket has it, and so is leaving. A killed process is gone at once
    where the kernel tells (Linux, for those who watch on its machine), elsewhere 1.2 seconds after
    its last sign of life, as it may have lost its server and be on its way to another; one whose
    machine is gone, or that hangs, after 5. Somebody who dies and comes again under the same name
    waits as long. Where JetStream is away, watchers keep what they know.

    Use it from the event loop on which it was opened. It holds two tasks while something is
    registered, and two while somebody watches.
    """

    def __init__(self, connection: Connection, bucket: Bucket, subject: str) -> None:
        self._connection = connection
        self._bucket = bucket
        self._subject = subject
        self._urgent = asyncio.Event()
        self._pulse = Pulse(connection, subject, self._urgent.set)
        self._roster = Roster()
        self._claims: Registrations[Claim] = Registrations(self._let_go)
        self._places: set[Place] = set()
        self._holding: set[RosterRegistration] = set()
        self._leaving: list[Claim] = []
        self._renewing: asyncio.Task[None] | None = None
        self._watchers = Watchers(self._roster, self._follow)

    @classmethod
    async def open(cls, url: str) -> Self:
        """Open the discovery that a URL names; see `NatsSettings.parse` for its form.

        The bucket is ``<stream>-instances``, made where there is none.

        Raises:
            PlaneError: As `NatsLog.open`. Cancelling leaves nothing open.
        """
        return await alone(url, cls.on)

    @classmethod
    async def on(cls, connection: Connection, settings: NatsSettings) -> Self:
        """Open the discovery over a connection that others use too; see `open`."""
        bucket = await Bucket.on(connection, settings, "instances", "Instances")
        return cls(connection, bucket, f"{settings.stream}.alive")

    @asynccontextmanager
    async def register(self, instance: Instance) -> AsyncGenerator[Registration, None]:
        """Let others find an instance; see `Discovery.register`."""
        self._roster.require_open()
        place = place_of(instance)
        if place in self._places:
            raise taken(instance)
        if not self._connection.connected:
            raise self._connection.away()
        claim = Claim(self._connection, self._bucket, self._subject, self._pulse.owner, instance)
        self._places.add(place)
        async with self._claims.hold(
            instance,
            claim,
            take=lambda registration: _whole(self._take(registration, claim)),
            tell=claim.tell,
        ) as registration:
            yield registration

    async def instances(
        self, path: str | None = None, *, namespace: str | None = DEFAULT_NAMESPACE
    ) -> Sequence[Instance]:
        """Which instances live now; see `Discovery.instances`.

        Where the bucket still holds some of a process that died elsewhere, it takes 1.2 s to be
        sure of that.
        """
        check_asked(path, namespace)
        self._roster.require_open()
        found = await self._bucket.contents((f"{self._bucket.subjects}.>",))
        claims = [
            claim for claim in map(read, found.items) if claim is not None and not claim.ended
        ]
        follower = self._watchers.follower
        alive = {
            claim.owner
            for claim in claims
            if claim.owner == self._pulse.owner
            or (follower is not None and follower.heard_lately(claim.owner))
        }
        asked = {claim.owner for claim in claims} - alive
        alive |= await living(self._connection, self._subject, asked)
        roster = Roster()
        roster.replace(claim.instance for claim in claims if claim.owner in alive)
        return roster.select(path, namespace)

    def watch(
        self, path: str | None = None, *, namespace: str | None = DEFAULT_NAMESPACE
    ) -> AsyncGenerator[Sequence[Change], None]:
        """Follow who comes and goes; see `Discovery.watch`."""
        return self._watchers.watch(path, namespace)

    async def close(self) -> None:
        """End all watches and let go of what is still registered."""
        if self._roster.closed:
            return
        self._roster.close()
        await self._watchers.close()
        await self._claims.close()
        await self._bucket.close()

    async def _take(self, registration: RosterRegistration, claim: Claim) -> None:
        if registration.ended:
            raise closed_error()
        self._holding.add(registration)
        await self._pulse.hold()
        if self._renewing is None:
            self._renewing = asyncio.create_task(self._renew())
        await claim.take()

    def _follow(self) -> DiscoveryFollower:
        return DiscoveryFollower(
            self._connection, self._bucket, self._subject, self._pulse.owner, self._roster
        )

    async def _let_go(self, registration: RosterRegistration, claim: Claim) -> None:
        self._places.discard(place_of(registration.instance))
        try:
            if not self._connection.connected:
                raise self._connection.away()
            async with asyncio.timeout(_LEAVE_TIMEOUT_S):
                await claim.release()
        except (PlaneError, TimeoutError) as error:
            # Without signs of life it is gone all the same; while there are any, it is tried again.
            _log.info("%s could not leave yet: %s", registration.instance.name, error)
            self._leaving.append(claim)
            self._urgent.set()
        finally:
            if registration in self._holding:
                self._holding.discard(registration)
                await self._pulse.release()
            renewing = self._renewing
            if not self._claims and renewing is not None:
                self._renewing = None
                self._leaving.clear()
                renewing.cancel()
                await asyncio.wait([renewing])

    async def _renew(self) -> None:
        """Keep what is registered in the bucket, also after it was lost."""
        wait_s = RENEW_S
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._urgent.wait()
            self._urgent.clear()
            await self._connection.wait_connected()
            wait_s = RENEW_S
            for registration, claim in self._claims.items():
                try:
                    if not registration.ended:
                        await claim.renew()
                except PlaneError as error:
                    if error.code is Code.ALREADY_EXISTS:
                        _log.error("%s; this one is seen no more", error.message)
                        registration.ended = True
                    else:
                        wait_s = _RETRY_S
            leaving, self._leaving = self._leaving, []
            for claim in leaving:
                try:
                    await claim.release()
                except PlaneError:
                    self._leaving.append(claim)
                    wait_s = _RETRY_S


async def _whole(work: Coroutine[Any, Any, None]) -> None:
    """Do all of it, also where whoever waits is cancelled."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()
        raise
