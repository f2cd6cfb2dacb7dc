"""Who has a worker and who waits for one: never more requests than a worker takes."""

from __future__ import annotations

import asyncio
from bisect import insort
from collections.abc import Mapping, Sequence
from time import monotonic

from protoplane_components.orchestrator.counts import Counts
from protoplane_components.orchestrator.needs import Need
from protoplane_components.orchestrator.policies import Policy, Reservation, picking
from protoplane_components.orchestrator.reasons import none_suits, queue_full
from protoplane_components.orchestrator.roster import Roster
from protoplane_components.orchestrator.settings import OrchestratorSettings
from protoplane_components.orchestrator.workers import Worker

# Mostly who waits is woken. A connection that is back tells nobody, so those who wait look, too.
_LOOK_S = 1.0
_LOOK_OFTEN_S = 0.05

_PACE = 0.2


class Slot:
    """A place at a worker, from when it was given until `release`.

    Args:
        pool: Whose it is.
        worker: The worker.
    """

    __slots__ = ("_pool", "_released", "reservation", "worker")

    def __init__(self, pool: Pool, worker: Worker) -> None:
        self._pool = pool
        self._released = False
        self.worker = worker
        self.reservation: Reservation | None = None

    def release(self) -> None:
        """Give it back; twice does no more."""
        if self._released:
            return
        self._released = True
        if self.reservation is not None:
            self.reservation.release()
        self._pool.released(self.worker)


class _Waiter:
    """A request in the queue."""

    __slots__ = ("need", "rank", "stir", "worker")

    def __init__(self, need: Need) -> None:
        self.need = need
        self.rank = (-need.priority, need.arrival)
        self.stir = asyncio.Event()
        self.worker: Worker | None = None


class Pool:
    """Gives requests workers, by a policy, and lets the others wait: by priority, then by arrival.

    It is for one event loop.

    Args:
        settings: The orchestrator's.
        counts: What is counted.

    Attributes:
        roster: Who the workers are.
        policy: How one is chosen.
    """

    def __init__(self, settings: OrchestratorSettings, counts: Counts) -> None:
        self.roster: Roster | None = None
        self.policy: Policy = picking("least-loaded")
        self._settings = settings
        self._counts = counts
        self._at_once = picking("least-loaded")
        self._line: list[_Waiter] = []
        self._arrivals = 0
        self._pace_s: float | None = None
        self._left_at = 0.0

    @property
    def queued(self) -> int:
        """Requests that wait."""
        return len(self._line)

    @property
    def workers(self) -> Mapping[str, Worker]:
        """The workers by name."""
        return {} if self.roster is None else self.roster.workers

    async def acquire(self, need: Need) -> Slot:
        """A place at a worker that a request can go to.

        Cancelling it leaves the queue, and gives back a place that was given meanwhile.

        Raises:
            PlaneError: RESOURCE_EXHAUSTED with ``google.rpc.RetryInfo`` where too many wait;
                NOT_FOUND, UNIMPLEMENTED or FAILED_PRECONDITION where no worker has the model;
                UNAVAILABLE where none is there, or not for this request, and none came in the
                grace; what the request failed with last, where it has tried all that there are.
        """
        if not need.arrival:
            self._arrivals += 1
            need.arrival = self._arrivals
        ready = [worker for worker in self.candidates(need) if worker.has_room]
        if ready:
            choice = await self.policy.choose(need, ready)
            # While the policy thought about it, somebody else may have taken the place.
            if choice.worker.has_room and need.suits(choice.worker):
                slot = self._give(choice.worker)
                slot.reservation = choice.reservation
                return slot
            if choice.reservation is not None:
                choice.reservation.release()
        worker = await self._wait(need)
        slot = Slot(self, worker)
        try:
            slot.reservation = (await self.policy.choose(need, [worker])).reservation
        except BaseException:
            slot.release()
            raise
        return slot

    def candidates(self, need: Need) -> Sequence[Worker]:
        """Workers that a request may go to, with room or without.

        Those that it was lost with are among them only where there is no other. A need that names
        no model gets the first, by name, that can do what it asks.
        """
        workers = self.workers.values()
        if not need.model:
            able = (
                model
                for worker in workers
                if worker.available and not worker.drained
                for model, can in worker.models.items()
                if need.capability in can
            )
            need.model = min(able, default="")
        found = [worker for worker in workers if need.suits(worker)]
        if need.tried:
            return [worker for worker in found if worker not in need.tried] or found
        return found

    def changed(self, worker: Worker) -> None:
        """A worker came, left or has other models: look who can have it, and who has none now."""
        self._serve(worker)
        for waiter in self._line:
            waiter.stir.set()

    def released(self, worker: Worker) -> None:
        """A request is over."""
        worker.in_flight -= 1
        self._departed()
        self._serve(worker)
        if not worker.in_flight and self.roster is not None:
            self.roster.idle(worker)

    def _give(self, worker: Worker) -> Slot:
        worker.in_flight += 1
        worker.dispatched += 1
        return Slot(self, worker)

    def _serve(self, worker: Worker) -> None:
        """Give a worker's free places to those who wait."""
        served: list[_Waiter] = []
        for waiter in self._line:
            if not worker.has_room:
                break
            if waiter.need.suits(worker):
                worker.in_flight += 1
                worker.dispatched += 1
                waiter.worker = worker
                waiter.stir.set()
                served.append(waiter)
        for waiter in served:
            self._line.remove(waiter)

    async def _wait(self, need: Need) -> Worker:
        if not need.attempts and len(self._line) >= self._settings.max_queued:
            candidates = self.candidates(need)
            if not candidates:
                raise none_suits(need, self.roster, self._settings).error
            if not any(worker.has_room for worker in candidates):
                self._counts.refused += 1
                raise queue_full(len(self._line), self._settings.max_queued, self._expected_s())
        waiter = _Waiter(need)
        insort(self._line, waiter, key=lambda each: each.rank)
        hopeless_since: float | None = None
        try:
            while waiter.worker is None:
                candidates = self.candidates(need)
                ready = [worker for worker in candidates if worker.has_room]
                if ready:
                    self._line.remove(waiter)
                    waiter.worker = self._at_once.pick(ready)
                    waiter.worker.in_flight += 1
                    waiter.worker.dispatched += 1
                    break
                look_s = _LOOK_S
                if candidates:
                    hopeless_since = None
                else:
                    now = monotonic()
                    hopeless_since = now if hopeless_since is None else hopeless_since
                    left_s = hopeless_since + self._settings.grace_s - now
                    reason = none_suits(need, self.roster, self._settings)
                    if reason.final or left_s <= 0:
                        raise reason.error
                    look_s = min(left_s, _LOOK_OFTEN_S)
                await _stirred(waiter.stir, look_s)
        except BaseException as error:
            if waiter.worker is not None:
                self.released(waiter.worker)
            else:
                self._line.remove(waiter)
            self._counts.left += isinstance(error, asyncio.CancelledError)
            raise
        return waiter.worker

    def _departed(self) -> None:
        """Note that room was made, for the estimate of the wait."""
        now = monotonic()
        if self._left_at:
            gap_s = now - self._left_at
            before_s = self._pace_s
            self._pace_s = gap_s if before_s is None else before_s + _PACE * (gap_s - before_s)
        self._left_at = now

    def _expected_s(self) -> float:
        """How long one more would wait, as far as can be told from those who left."""
        return 1.0 if self._pace_s is None else max(0.01, self._pace_s * (len(self._line) + 1))


async def _stirred(event: asyncio.Event, seconds: float) -> None:
    """Wait until an event is set, or so long; it is cleared."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
    event.clear()
