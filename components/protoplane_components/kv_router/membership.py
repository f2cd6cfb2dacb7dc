"""Which workers there are: those that were registered, and those that discovery finds."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from contextlib import aclosing
from dataclasses import dataclass

from protoplane.inference.v1 import InferenceService
from protoplane.orchestrator.v1 import OrchestratorService
from protoplane.router.v1 import KvStateRequest, KvWorkerClient, KvWorkerService, Worker
from protoplane_base import Code, PlaneError, Timestamp
from protoplane_client import connect
from protoplane_components.kv_router.conversion import worker_of
from protoplane_components.kv_router.described import described, described_without_events
from protoplane_components.kv_router.following import Course, KvFollower
from protoplane_components.kv_router.index import Target
from protoplane_components.kv_router.load import Reservation
from protoplane_components.kv_router.registrations import Registrations
from protoplane_components.kv_router.router import Router
from protoplane_components.kv_router.states import FetchedState, gather
from protoplane_runtime.engines.discovery import Discovery, Instance, Left

_log = logging.getLogger("protoplane.router")

_SERVICE = KvWorkerService.spec.full_name
_TEXTS = InferenceService.spec.full_name
_NOT_ONE = frozenset((_SERVICE, OrchestratorService.spec.full_name))
_FETCH_S = 60.0
_NOT_IN_ID = frozenset("/*#?$")
_MAX_ID_CHARS = 256
_MAX_RANKS = 1024

# Behind an HTTP address of a worker that was registered is its engine, which knows nothing of this.
_ASKABLE = ("link+", "grpc://", "grpcs://", "inproc:")


@dataclass(frozen=True, slots=True)
class Member:
    """A worker that is there.

    Attributes:
        worker: What it is.
        instance: Name of the instance that it was found as; empty where it was registered.
        since: When it was added.
    """

    worker: Worker
    instance: str
    since: Timestamp


class Membership:
    """Adds workers to a router and takes them away, with their blocks and reservations.

    Args:
        router: The router.
        discovery: Where to find workers; ``None`` for nowhere.
        namespace: Where in it.
    """

    def __init__(self, router: Router, discovery: Discovery | None, namespace: str) -> None:
        self._router = router
        self._discovery = discovery
        self._namespace = namespace
        self._members: dict[str, Member] = {}
        # Workers of a snapshot that are not there yet; their events are followed already.
        self._expected: set[str] = set()
        # How many workers each model has.
        self._models: Counter[str] = Counter()
        self.follower: KvFollower | None = None
        self.registrations: Registrations | None = None

    @property
    def members(self) -> Mapping[str, Member]:
        """The workers by their ids."""
        return self._members

    def registered(self) -> list[Worker]:
        """The workers that did not come by discovery."""
        return [member.worker for member in self._members.values() if not member.instance]

    def expect(self, courses: Mapping[Target, Course]) -> None:
        """Note what the index already has; a worker that comes goes on from there."""
        for target, course in courses.items():
            if self.follower is not None:
                self.follower.restored(target, course)
            if target.worker not in self._members:
                self._expected.add(target.worker)

    def add(self, worker: Worker) -> bool:
        """Register a worker, here and at the other replicas; tells whether it is new.

        Raises:
            PlaneError: As for `put`.
        """
        added = self.put(worker)
        if self.registrations is not None:
            self.registrations.added(worker)
        return added

    def remove(self, worker: str) -> list[Reservation] | None:
        """Forget a worker at once, here and at the other replicas.

        Returns:
            Its reservations, ``None`` where it is not there.
        """
        member = self._members.get(worker)
        if member is not None and self.registrations is not None:
            self.registrations.removed(worker, member.instance)
        return self._forget(worker)

    def put(self, worker: Worker, instance: str = "") -> bool:
        """Have a worker here; tells whether it is new.

        Args:
            worker: The worker.
            instance: Name of the instance that it was found as; empty where it was registered.

        Raises:
            PlaneError: INVALID_ARGUMENT for an id that is none or ranks that cannot be,
                FAILED_PRECONDITION for another block size than the router's.
        """
        _check(worker)
        known = worker_of(worker)
        before = self._router.workers.get(worker.id)
        added = self._router.register(known)
        self._note_model(worker.id, worker.model)
        self._members[worker.id] = Member(worker, instance, Timestamp.now())
        if self.follower is not None:
            if before is not None and (known.no_events or before.targets() != known.targets()):
                self.follower.remove(worker.id)
            self._expected.discard(worker.id)
            for target in () if known.no_events else known.targets():
                self.follower.add(target)
        return added

    def drop(self, worker: str, instance: str) -> None:
        """Forget a worker here, if it is the one that was removed at another replica."""
        member = self._members.get(worker)
        if member is not None and member.instance == instance:
            self._forget(worker)

    def of_model(self, model: str, pinned: Collection[str]) -> Collection[str]:
        """Workers that a request may go to; empty for all.

        Raises:
            PlaneError: INVALID_ARGUMENT where a request names no model and there are several,
                UNAVAILABLE where no worker that it allows has the model.
        """
        models = self._models.keys()
        if not model:
            if len(models) > 1 and not pinned:
                raise PlaneError(
                    Code.INVALID_ARGUMENT,
                    f"model is empty, and there are several: {', '.join(sorted(models))}; name one",
                )
            return pinned
        if models <= {model}:
            return pinned
        able = {id_ for id_, member in self._members.items() if member.worker.model in ("", model)}
        able = able & set(pinned) if pinned else able
        if not able:
            raise PlaneError(
                Code.UNAVAILABLE, f"no worker that the request allows has the model {model!r}"
            )
        return able

    def _forget(self, worker: str) -> list[Reservation] | None:
        self._note_model(worker, "")
        self._members.pop(worker, None)
        if self.follower is not None:
            self.follower.remove(worker)
        return self._router.remove(worker)

    def _note_model(self, worker: str, model: str) -> None:
        """Note which model a worker has; it is called before the worker itself is noted."""
        before = self._members.get(worker)
        if before is not None and before.worker.model:
            self._models[before.worker.model] -= 1
            if not self._models[before.worker.model]:
                del self._models[before.worker.model]
        if model:
            self._models[model] += 1

    async def watch(self, path: str | None) -> None:
        """Follow who comes and goes, until it is cancelled.

        Args:
            path: Where workers are: a component or a collection; ``None`` for all that say they
                are workers.

        Raises:
            PlaneError: INVALID_ARGUMENT for what is no path.
        """
        if self._discovery is None:
            self._forget_expected()
            return
        first = True
        async with aclosing(self._discovery.watch(path, namespace=self._namespace)) as changes:
            async for batch in changes:
                for change in batch:
                    if isinstance(change, Left):
                        self._left(change.instance)
                    elif _SERVICE in change.instance.services:
                        self._came(change.instance, described)
                if first:
                    first = False
                    self._forget_expected()

    async def watch_without_events(self, path: str) -> None:
        """Follow which workers come and go that tell nothing of their caches.

        These are the instances that serve texts and are no workers by their own word. Runs until
        it is cancelled.

        Args:
            path: Where they are: a component or a collection.

        Raises:
            PlaneError: INVALID_ARGUMENT for what is no path.
        """
        if self._discovery is None:
            return
        async with aclosing(self._discovery.watch(path, namespace=self._namespace)) as changes:
            async for batch in changes:
                for change in batch:
                    services = change.instance.services
                    if isinstance(change, Left):
                        self._left(change.instance)
                    elif _TEXTS in services and not _NOT_ONE.intersection(services):
                        self._came(change.instance, described_without_events)

    def _came(self, instance: Instance, read: Callable[[Instance], Worker]) -> None:
        try:
            worker = read(instance)
            known = self._members.get(worker.id)
            if known is not None and known.instance != instance.name:
                raise PlaneError(
                    Code.ALREADY_EXISTS,
                    f"there is a worker {worker.id} already, "
                    f"{known.instance or 'which was registered'}",
                )
            if known is not None and known.worker == worker:
                # Its load has changed, which is told in its reservations.
                return
            self.put(worker, instance.name)
            if self.registrations is not None:
                self.registrations.found(worker.id)
        except PlaneError as error:
            _log.error("worker %s is refused: %s", instance.name, error.message)

    def _left(self, instance: Instance) -> None:
        for id_, member in [*self._members.items()]:
            if member.instance == instance.name:
                ended = self._forget(id_)
                _log.info("worker %s is gone, with %d reservations", id_, len(ended or ()))

    def _forget_expected(self) -> None:
        """Workers of a snapshot that are not there now are not coming back."""
        for worker in self._expected:
            if self.follower is not None:
                self.follower.remove(worker)
        self._expected.clear()

    async def fetch(self, target: Target) -> FetchedState | None:
        """Ask a worker for the state of a rank; ``None`` where it cannot be asked.

        Raises:
            PlaneError: UNAVAILABLE where the worker is not there yet; and what the call raises.
        """
        member = self._members.get(target.worker)
        if member is None:
            raise PlaneError(Code.UNAVAILABLE, "the worker is not there yet")
        if member.instance:
            plane = connect(member.instance, engine=self._discovery, namespace=self._namespace)
        elif member.worker.endpoint.startswith(_ASKABLE):
            plane = connect(member.worker.endpoint)
        else:
            return None
        async with plane:
            pieces = KvWorkerClient(plane).kv_state(
                KvStateRequest(worker=target.worker, dp_rank=target.dp_rank), timeout_s=_FETCH_S
            )
            return await gather(pieces, self._router.block_size)


def _check(worker: Worker) -> None:
    """Make sure that a worker can be one: it has an id that events can be filed under, and ranks.

    Raises:
        PlaneError: INVALID_ARGUMENT with what is wrong.
    """
    id_ = worker.id
    if (
        not 0 < len(id_) <= _MAX_ID_CHARS
        or id_ in (".", "..")
        or id_.startswith("@")
        or not id_.isprintable()
        or not _NOT_IN_ID.isdisjoint(id_)
    ):
        shown = repr(id_ if len(id_) <= 80 else f"{id_[:77]}...")
        raise PlaneError(
            Code.INVALID_ARGUMENT,
            f"{shown} is no id of a worker: it is one segment of a path, up to {_MAX_ID_CHARS} "
            "characters, without '/', '*', '#', '?', '$' and control characters, and with no '@' "
            "at its beginning",
        )
    if worker.dp_size > _MAX_RANKS or worker.dp_start + worker.dp_size > 1 << 32:
        raise PlaneError(
            Code.INVALID_ARGUMENT,
            f"worker {id_} cannot have {worker.dp_size} ranks from {worker.dp_start} on: it may "
            f"have {_MAX_RANKS}, with numbers below 2**32",
        )
