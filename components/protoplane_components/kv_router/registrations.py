"""What the replicas of a router tell each other of workers that were registered by hand.

Each change is an event. Every few seconds a replica tells the hash of all that are registered with
it; who has another hash is told all of them, so that what was lost on the way heals.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Protocol

from xxhash import xxh3_64_intdigest

from protoplane.router.v1 import RegistrationsTold, Worker, WorkerRegistration
from protoplane_base import PlaneError, Timestamp
from protoplane_components.kv_router.gossip import hear, tell, together
from protoplane_runtime.engines.interface import EventLog

_log = logging.getLogger("protoplane.router")

_TOLD = RegistrationsTold.__pb__.DESCRIPTOR.full_name
_AT_ONCE = 500
_REMOVALS_AGAIN_NS = 30 * 10**9
_REMOVALS_KEPT_NS = 600 * 10**9


class Members(Protocol):
    """Who has the workers."""

    def put(self, worker: Worker) -> bool:
        """Have a worker that was registered at another replica; tells whether it is new."""
        ...

    def drop(self, worker: str, instance: str) -> None:
        """Forget a worker, if it is the one that was removed at another replica."""
        ...


@dataclass(frozen=True, slots=True)
class _Known:
    """The last that is known of a worker.

    Attributes:
        time_ns: When that was, in nanoseconds since 1970.
        data: The message, by which two of the same moment are told apart.
        message: What is told of it.
    """

    time_ns: int
    data: bytes
    message: WorkerRegistration

    @property
    def order(self) -> tuple[int, bytes]:
        """Of two, the one with the greater is the later."""
        return self.time_ns, self.data


class Registrations:
    """Keeps the workers that were registered by hand the same at all replicas of a router.

    Of two changes to a worker the later one counts, by the clocks of the replicas where they were
    made. Removals are kept for ten minutes; a replica that was cut off for longer may bring back a
    worker that was removed meanwhile.

    Args:
        members: Who has the workers here.
        events: The event plane.
        router: Which router this is a replica of.
        name: Name of the instance; one path segment.
        interval_s: Seconds between two rounds.
        clock_ns: Nanoseconds since 1970.
    """

    def __init__(
        self,
        members: Members,
        events: EventLog,
        *,
        router: str,
        name: str,
        interval_s: float = 2.0,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._members = members
        self._events = events
        self._router = router
        self._interval_s = interval_s
        self._clock_ns = clock_ns
        self.replica = f"{name}-{secrets.token_hex(4)}"
        self._known: dict[str, _Known] = {}
        # Those of them that were removed.
        self._gone: set[str] = set()
        self._fingerprint = 0
        self._changed: set[str] = set()
        # The first round asks the others for what they have.
        self._all_due = True
        self._all_told_at = float("-inf")
        self._due = asyncio.Event()

    @property
    def fingerprint(self) -> int:
        """Hash of all that are registered; equal ones at replicas that know the same."""
        return self._fingerprint

    def kept(self, worker: Worker) -> None:
        """Note a worker of a snapshot; whatever else is known of it is later."""
        if worker.id not in self._known:
            self._note(worker.id, _known(WorkerRegistration(worker=worker, time=_moment(0))))

    def added(self, worker: Worker) -> None:
        """Tell others that a worker was registered here."""
        self._change(worker.id, WorkerRegistration(worker=worker))

    def removed(self, worker: str, instance: str) -> None:
        """Tell others that a worker was removed here.

        Args:
            worker: Its id.
            instance: Name of the instance that discovery had found it as; empty for none.
        """
        gone = WorkerRegistration(worker=Worker(id=worker), removed=True, instance=instance)
        self._change(worker, gone)

    def found(self, worker: str) -> None:
        """Note that discovery finds a worker: that it was removed once says nothing any more."""
        known = self._known.get(worker)
        if known is not None and known.message.removed:
            del self._known[worker]
            self._gone.discard(worker)
            self._changed.discard(worker)

    async def run(self) -> None:
        """Tell and listen until it is cancelled.

        An engine that is away is no reason to end: the next round heals what was missed.

        Raises:
            PlaneError: The event plane is closed.
        """
        takers: dict[str, Callable[[bytes], None]] = {
            _TOLD: lambda data: self.take(RegistrationsTold.from_bytes(data))
        }
        await together(hear(self._events, takers), self._rounds())

    def take(self, told: RegistrationsTold) -> None:
        """Take in what another replica tells."""
        if told.replica == self.replica or told.router != self._router:
            return
        for message in told.registrations:
            self._merge(message)
        if told.fingerprint is not None and told.fingerprint != self._fingerprint:
            self._all_due = True
            # Those that can never agree must not talk without a pause.
            if time.monotonic() - self._all_told_at > self._interval_s / 8:
                self._due.set()

    async def _rounds(self) -> None:
        round_at = time.monotonic()
        while True:
            self._due.clear()
            now = time.monotonic()
            round_due = now >= round_at
            if round_due:
                round_at = now + self._interval_s
                self._forget()
            await self._tell(self._changed | self._lately() if round_due else self._changed)
            try:
                async with asyncio.timeout(max(0.0, round_at - time.monotonic())):
                    await self._due.wait()
            except TimeoutError:
                pass

    async def _tell(self, changed: Collection[str]) -> None:
        first = self._all_told_at == float("-inf")
        everything = self._all_due
        wanted = self._known if everything else changed
        if not (self._known or first):
            return
        messages = [self._known[id_].message for id_ in wanted if id_ in self._known]
        self._all_due = False
        self._changed = set()
        if everything:
            self._all_told_at = time.monotonic()
        for begin in range(0, max(1, len(messages)), _AT_ONCE):
            end = begin + _AT_ONCE
            told = RegistrationsTold(
                replica=self.replica,
                router=self._router,
                fingerprint=self._fingerprint if end >= len(messages) else None,
                registrations=messages[begin:end],
            )
            if not await tell(self._events, told):
                self._all_due = True
                return

    def _lately(self) -> set[str]:
        """Workers that were removed a moment ago: no hash tells that somebody has not heard so."""
        since = self._clock_ns() - _REMOVALS_AGAIN_NS
        return {id_ for id_ in self._gone if self._known[id_].time_ns > since}

    def _forget(self) -> None:
        before = self._clock_ns() - _REMOVALS_KEPT_NS
        for id_ in [each for each in self._gone if self._known[each].time_ns < before]:
            self._gone.discard(id_)
            del self._known[id_]

    def _change(self, id_: str, message: WorkerRegistration) -> None:
        before = self._known.get(id_)
        now = self._clock_ns()
        # Later than what it replaces, whosever clock that was by.
        message.time = _moment(now if before is None else max(now, before.time_ns + 1))
        self._note(id_, _known(message))
        self._changed.add(id_)
        self._due.set()

    def _merge(self, message: WorkerRegistration) -> None:
        worker = message.worker
        if worker is None:
            return
        new, before = _known(message), self._known.get(worker.id)
        if before is not None and before.order >= new.order:
            return
        if message.removed and new.time_ns < self._clock_ns() - _REMOVALS_KEPT_NS:
            return
        self._note(worker.id, new)
        if message.removed:
            self._members.drop(worker.id, message.instance)
            return
        try:
            self._members.put(worker)
        except PlaneError as error:
            _log.error("worker %s of another replica is refused: %s", worker.id, error.message)

    def _note(self, id_: str, new: _Known) -> None:
        before = self._known.get(id_)
        for each in (before, new):
            if each is not None and not each.message.removed:
                self._fingerprint ^= xxh3_64_intdigest(each.data)
        self._known[id_] = new
        if new.message.removed:
            self._gone.add(id_)
        else:
            self._gone.discard(id_)


def _known(message: WorkerRegistration) -> _Known:
    when = message.time
    time_ns = 0 if when is None else when.seconds * 10**9 + when.nanos
    return _Known(time_ns, message.to_bytes(), message)


def _moment(time_ns: int) -> Timestamp:
    return Timestamp(seconds=time_ns // 10**9, nanos=time_ns % 10**9)
