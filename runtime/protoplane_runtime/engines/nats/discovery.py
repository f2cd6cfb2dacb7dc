"""Discovery of the engine ``nats://…``: a bucket of instances, and signs of life beside it.

An instance stands in a KV bucket of JetStream for as long as its process renews it, and is there
for others for as long as its process gives signs of life. These go over plain NATS, so a killed
process is gone within two seconds, and nobody is when JetStream looks for a new leader.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any, Self

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.discovery import DEFAULT_NAMESPACE, Change, Instance, Registration
from protoplane_runtime.engines.nats.bucket import Bucket
from protoplane_runtime.engines.nats.claim import RENEW_S, Claim, read
from protoplane_runtime.engines.nats.connection import Connection
from protoplane_runtime.engines.nats.discovery_follower import DiscoveryFollower
from protoplane_runtime.engines.nats.pulse import Pulse, living
from protoplane_runtime.engines.nats.settings import NatsSettings
from protoplane_runtime.engines.roster import (
    Place,
    Roster,
    RosterRegistration,
    check_asked,
    closed_error,
    place_of,
    taken,
)

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
        self._claims: dict[RosterRegistration, Claim] = {}
        self._places: set[Place] = set()
        self._holding: set[RosterRegistration] = set()
        self._leaving: list[Claim] = []
        self._renewing: asyncio.Task[None] | None = None
        self._watchers = 0
        self._follower: DiscoveryFollower | None = None

    @classmethod
    async def open(cls, url: str) -> Self:
        """Open the discovery that a URL names; see `NatsSettings.parse` for its form.

        The bucket is ``<stream>-instances``, made where there is none.

        Raises:
            PlaneError: As `NatsLog.open`. Cancelling leaves nothing open.
        """
        settings = NatsSettings.parse(url)
        connection = await Connection.open(settings)
        try:
            return await cls.on(connection, settings)
        finally:
            await connection.close()

    @classmethod
    async def on(cls, connection: Connection, settings: NatsSettings) -> Self:
        """Open the discovery over a connection that others use too; see `open`."""
        bucket = Bucket(connection.share(), settings, "instances", "Instances")
        try:
            await bucket.made()
        except BaseException:
            await bucket.close()
            raise
        return cls(connection, bucket, f"{settings.stream}.alive")

    @asynccontextmanager
    async def register(self, instance: Instance) -> AsyncGenerator[Registration, None]:
        """Let others find an instance; see `Discovery.register`."""
        if self._roster.closed:
            raise closed_error()
        place = place_of(instance)
        if place in self._places:
            raise taken(instance)
        if not self._connection.connected:
            raise self._connection.away()
        claim = Claim(self._connection, self._bucket, self._subject, self._pulse.owner, instance)
        registration = RosterRegistration(instance, claim.tell)
        self._claims[registration] = claim
        self._places.add(place)
        try:
            await _whole(self._take(registration, claim))
            yield registration
        finally:
            await self._end(registration)

    async def instances(
        self, path: str | None = None, *, namespace: str | None = DEFAULT_NAMESPACE
    ) -> Sequence[Instance]:
        """Which instances live now; see `Discovery.instances`.

        Where the bucket still holds some of a process that died elsewhere, it takes 1.2 s to be
        sure of that.
        """
        check_asked(path, namespace)
        if self._roster.closed:
            raise closed_error()
        found = await self._bucket.contents((f"{self._bucket.subjects}.>",))
        claims = [
            claim for claim in map(read, found.items) if claim is not None and not claim.ended
        ]
        follower = self._follower
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
        check_asked(path, namespace)
        return self._watch(path, namespace)

    async def close(self) -> None:
        """End all watches and let go of what is still registered."""
        if self._roster.closed:
            return
        self._roster.close()
        follower, self._follower = self._follower, None
        if follower is not None:
            await follower.stop()
        await asyncio.gather(*(self._end(each) for each in tuple(self._claims)))
        await self._bucket.close()

    async def _watch(
        self, path: str | None, namespace: str | None
    ) -> AsyncGenerator[Sequence[Change], None]:
        if self._roster.closed:
            return
        self._watchers += 1
        try:
            if self._follower is None or self._follower.ended:
                self._follower = DiscoveryFollower(
                    self._connection, self._bucket, self._subject, self._pulse.owner, self._roster
                )
            await self._follower.ready()
            async with aclosing(self._roster.watch(path, namespace)) as watched:
                async for changes in watched:
                    yield changes
        finally:
            self._watchers -= 1
            if self._watchers == 0 and self._follower is not None:
                follower, self._follower = self._follower, None
                await follower.stop()

    async def _take(self, registration: RosterRegistration, claim: Claim) -> None:
        if registration.ended:
            raise closed_error()
        self._holding.add(registration)
        await self._pulse.hold()
        if self._renewing is None:
            self._renewing = asyncio.create_task(self._renew())
        await claim.take()

    async def _end(self, registration: RosterRegistration) -> None:
        claim = self._claims.pop(registration, None)
        if claim is None:
            return
        registration.ended = True
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
            for registration, claim in tuple(self._claims.items()):
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
