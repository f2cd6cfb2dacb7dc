"""What the replicas of a router tell each other of the load that they place.

Each change to a reservation is an event with a number, and every few seconds each replica tells
all of its reservations. That round replaces what others believe, so what was lost on the way heals.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections import deque
from collections.abc import Callable, Sequence
from math import ceil

from protoplane.router.v1 import ReservationChanged, ReservationDigest, SharedReservation
from protoplane_base import Duration, Message, PlaneError, Timestamp
from protoplane_components.kv_router.gossip import hear, tell, together
from protoplane_components.kv_router.index import Target
from protoplane_components.kv_router.load import LoadTable, Reservation
from protoplane_runtime.engines.interface import EventLog

_MAX_WAITING = 10_000
_SILENT_ROUNDS = 10

_CHANGED = ReservationChanged.__pb__.DESCRIPTOR.full_name
_DIGEST = ReservationDigest.__pb__.DESCRIPTOR.full_name


class Replicas:
    """Keeps a load table at what all replicas have placed.

    The table holds the reservations of others beside those of this replica, and their leases end
    like its own. Where a replica is gone, its reservations stay until then: the workers go on with
    the requests.

    Args:
        loads: The table.
        events: The event plane.
        clock: The clock of the table, in seconds.
        name: Name of the instance; one path segment.
        interval_s: Seconds between two rounds.
        release: Ends a reservation in the table; what else is to happen then, it does too.
        prefill_completed: The same for a prompt that is computed.
    """

    def __init__(
        self,
        loads: LoadTable,
        events: EventLog,
        clock: Callable[[], float],
        *,
        name: str,
        interval_s: float = 2.0,
        release: Callable[[str], object] | None = None,
        prefill_completed: Callable[[str], object] | None = None,
    ) -> None:
        self._loads = loads
        self._release = release or loads.release
        self._prefill_completed = prefill_completed or self._computed
        self._events = events
        self._clock = clock
        self._interval_s = interval_s
        # It counts from 1, so one that starts again under its name is somebody else.
        self.replica = f"{name}-{secrets.token_hex(4)}"
        self._sequence = 0
        # The last change of each of the others, and when it was heard.
        self._peers: dict[str, tuple[int, float]] = {}
        # Whose the reservations are that others have made.
        self._owners: dict[str, str] = {}
        # Reservations that ended, with when they would have ended by themselves: what says
        # otherwise is late.
        self._over: dict[str, float] = {}
        self._waiting: deque[Message] = deque(maxlen=_MAX_WAITING)
        self._due = asyncio.Event()
        self._round_due = asyncio.Event()

    @property
    def peers(self) -> Sequence[str]:
        """The other replicas that are heard of."""
        return [*self._peers]

    def changed(self, reservation: Reservation, *, released: bool = False) -> None:
        """Tell others of a reservation that was made, or has changed, or ended here."""
        if released:
            self._owners.pop(reservation.id, None)
            self._over[reservation.id] = reservation.expires_at
        else:
            self._over.pop(reservation.id, None)
        if self._peers:
            self._append(self._shared(reservation), released=released)

    async def run(self) -> None:
        """Tell and listen until it is cancelled.

        An engine that is away is no reason to end: the next round heals what was missed.

        Raises:
            PlaneError: The event plane is closed.
        """
        takers: dict[str, Callable[[bytes], None]] = {
            _CHANGED: lambda data: self.take_change(ReservationChanged.from_bytes(data)),
            _DIGEST: lambda data: self.take_digest(ReservationDigest.from_bytes(data)),
        }
        await together(hear(self._events, takers), self._tell(), self._rounds())

    async def _tell(self) -> None:
        while True:
            await self._due.wait()
            if not self._waiting:
                self._due.clear()
                continue
            # One that is lost leaves a hole, and the next round heals it.
            await tell(self._events, self._waiting.popleft())

    async def _rounds(self) -> None:
        while True:
            self._round_due.clear()
            self._forget()
            # Behind the changes that it includes: a reader passes over those that come later.
            self._waiting.append(self.digest())
            self._due.set()
            # Not all at the same moment.
            wait_s = self._interval_s * random.uniform(0.8, 1.2)  # noqa: S311  # no secret
            try:
                async with asyncio.timeout(wait_s):
                    await self._round_due.wait()
            except TimeoutError:
                pass

    def digest(self) -> ReservationDigest:
        """All reservations of this replica."""
        return ReservationDigest(
            replica=self.replica,
            sequence=self._sequence,
            time=Timestamp.now(),
            reservations=[
                self._shared(each) for each in self._loads if each.id not in self._owners
            ],
        )

    def take_change(self, change: ReservationChanged) -> None:
        """Take in what another replica tells of one reservation."""
        shared = change.reservation
        if change.replica == self.replica or shared is None:
            return
        if change.sequence <= self._heard(change.replica, change.sequence):
            return
        if change.released:
            self._end(shared.id, self._clock() + _seconds(shared.lease))
        elif shared.id not in self._over:
            self._put(shared, change.replica)

    def take_digest(self, digest: ReservationDigest) -> None:
        """Replace what is believed of another replica by what it tells."""
        if digest.replica == self.replica:
            return
        if digest.sequence < self._heard(digest.replica, digest.sequence):
            # Changes that it lacks have come already.
            return
        told = {shared.id for shared in digest.reservations}
        theirs = [id_ for id_, owner in self._owners.items() if owner == digest.replica]
        for id_ in theirs:
            if id_ not in told:
                self._owners.pop(id_)
                self._release(id_)
        for shared in digest.reservations:
            if shared.id in self._over:
                # It ended here, and the replica that made it has not heard so.
                self._append(shared, released=True)
            else:
                self._put(shared, digest.replica)

    def _put(self, shared: SharedReservation, replica: str) -> None:
        """Have a reservation of another replica in the table, or what it says of one of ours."""
        now, lease_s = self._clock(), _seconds(shared.lease)
        target = Target(shared.worker, shared.dp_rank)
        found = self._loads.get(shared.id)
        if found is None or found.target != target:
            made = Reservation(
                id=shared.id,
                target=target,
                prefill_tokens=shared.prefill_tokens,
                prompt_blocks=shared.decode_blocks,
                output_blocks=0,
                lease_s=lease_s,
                expires_at=now + lease_s,
            )
            try:
                self._loads.reserve(made)
            except PlaneError:
                # The worker is not known here yet; a later round tells of it again.
                return
            self._owners[shared.id] = replica
            return
        expires_at = max(found.expires_at, now + lease_s)
        if found.prefill_tokens and not shared.prefill_tokens:
            self._prefill_completed(shared.id)
        if shared.decode_blocks > found.decode_blocks:
            self._loads.output_blocks(shared.id, shared.decode_blocks - found.prompt_blocks, now)
        found.expires_at = expires_at

    def _computed(self, id_: str) -> None:
        self._loads.prefill_completed(id_, self._clock())

    def _end(self, id_: str, until: float) -> None:
        self._owners.pop(id_, None)
        self._over[id_] = until
        self._release(id_)

    def _heard(self, replica: str, sequence: int) -> int:
        """Note that a replica was heard; gives the last change that was known of it."""
        now = self._clock()
        before, _ = self._peers.get(replica, (0, now))
        if replica not in self._peers:
            # It is to hear of what is here.
            self._round_due.set()
        self._peers[replica] = (max(before, sequence), now)
        return before

    def _forget(self) -> None:
        """Forget what is over: reservations that ended, and replicas that say nothing."""
        now = self._clock()
        silent = now - _SILENT_ROUNDS * self._interval_s
        for replica in [each for each, (_, heard) in self._peers.items() if heard < silent]:
            del self._peers[replica]
        for id_ in [each for each, until in self._over.items() if until < now]:
            del self._over[id_]
        for id_ in [each for each in self._owners if self._loads.get(each) is None]:
            del self._owners[id_]

    def _append(self, shared: SharedReservation, *, released: bool) -> None:
        self._sequence += 1
        self._waiting.append(
            ReservationChanged(
                replica=self.replica,
                sequence=self._sequence,
                reservation=shared,
                released=released,
            )
        )
        self._due.set()

    def _shared(self, reservation: Reservation) -> SharedReservation:
        return SharedReservation(
            id=reservation.id,
            worker=reservation.target.worker,
            dp_rank=reservation.target.dp_rank,
            prefill_tokens=ceil(reservation.prefill_tokens),
            decode_blocks=reservation.decode_blocks,
            lease=Duration.from_seconds(max(0.0, reservation.expires_at - self._clock())),
        )


def _seconds(duration: Duration | None) -> float:
    return 0.0 if duration is None else duration.total_seconds
