"""Which workers there are: discovery says who, and they say what they have."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import aclosing

from protoplane.inference.v1 import InferenceService, ListModelsRequest
from protoplane.orchestrator.v1 import OrchestratorService
from protoplane_base import PlaneError, ProtoplaneError
from protoplane_client import Plane, Policy, RetryPolicy, connect
from protoplane_client.backoff import Backoff
from protoplane_client.discovering import ways
from protoplane_components.inference.announcing import Loaded, announced, loaded
from protoplane_components.orchestrator.settings import OrchestratorSettings
from protoplane_components.orchestrator.workers import Worker
from protoplane_runtime.engines.discovery import Change, Discovery, Instance, Left

_log = logging.getLogger("protoplane.orchestrator")

_SERVICE = InferenceService.spec.full_name
_OURS = OrchestratorService.spec.full_name
_MOST_SEEN = 10_000
_ONCE = RetryPolicy(max_attempts=1)


class Roster:
    """Follows the workers of a path; `run` has an owner, who calls `close` after it.

    Args:
        discovery: Says who is there.
        namespace: Where in it.
        settings: The orchestrator's.
        changed: Is told of a worker that came, left, or has other models or another capacity.
    """

    def __init__(
        self,
        discovery: Discovery,
        namespace: str,
        settings: OrchestratorSettings,
        changed: Callable[[Worker], None],
    ) -> None:
        self._discovery = discovery
        self._namespace = namespace
        self._settings = settings
        self._changed = changed
        self._workers: dict[str, Worker] = {}
        self._leaving: set[Worker] = set()
        self._ending: set[asyncio.Task[None]] = set()
        self._asking: dict[Worker, asyncio.Task[None]] = {}
        self._drained: set[str] = set()
        self._seen: dict[str, None] = {}
        self.failure = ""

    @property
    def workers(self) -> Mapping[str, Worker]:
        """The workers by name."""
        return self._workers

    def seen(self, model: str) -> bool:
        """Whether a worker that left had a model: another may come with it."""
        return model in self._seen

    def drain(self, worker: Worker, *, drained: bool) -> None:
        """Give a worker no new requests, or give it some again."""
        (self._drained.add if drained else self._drained.discard)(worker.name)
        worker.drained = drained
        self._changed(worker)

    async def run(self) -> None:
        """Follow discovery until cancelled, or until it is closed."""
        backoff = Backoff(first_s=0.1, limit_s=5.0)
        path, namespace = self._settings.workers, self._namespace
        while True:
            try:
                first = True
                async with aclosing(self._discovery.watch(path, namespace=namespace)) as changes:
                    async for batch in changes:
                        self.failure = ""
                        backoff.reset()
                        if first:
                            first = False
                            self._forget({change.instance.name for change in batch})
                        self._take(batch)
            except PlaneError as error:
                self.failure = error.message
                _log.warning("who serves %s is not known: %s", path, error.message)
            else:
                return
            await asyncio.sleep(backoff.next_s())

    async def close(self) -> None:
        """Close the ways to all workers; requests that they have fail."""
        for worker in [*self._asking]:
            self._ask_no_more(worker)
        workers = [*self._workers.values(), *self._leaving]
        self._workers.clear()
        self._leaving.clear()
        for worker in workers:
            worker.gone = True
        await asyncio.gather(*(worker.plane.aclose() for worker in workers))
        if self._ending:
            await asyncio.wait([*self._ending])

    def idle(self, worker: Worker) -> None:
        """A worker has no requests any more: the way to one that left is closed."""
        if worker in self._leaving:
            self._leaving.discard(worker)
            self._end_with(asyncio.create_task(worker.plane.aclose()))

    def _ask_no_more(self, worker: Worker) -> None:
        asking = self._asking.pop(worker, None)
        if asking is not None:
            asking.cancel()
            self._end_with(asking)

    def _end_with(self, task: asyncio.Task[None]) -> None:
        """What is still to end when this closes."""
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    def _forget(self, there: set[str]) -> None:
        """Those who left while nobody watched."""
        for name in self._workers.keys() - there:
            self._left(name)

    def _take(self, batch: Iterable[Change]) -> None:
        for change in batch:
            instance = change.instance
            if isinstance(change, Left):
                self._left(instance.name)
            elif _SERVICE in instance.services and _OURS not in instance.services:
                self._there(instance)

    def _there(self, instance: Instance) -> None:
        worker = self._workers.get(instance.name)
        if worker is not None and not _same_place(worker.instance, instance):
            self._left(instance.name)
            worker = None
        came = worker is None
        if worker is None:
            worker = self._reached(instance)
            if worker is None:
                return
            self._workers[instance.name] = worker
            worker.drained = instance.name in self._drained
            _log.info("worker %s is there, at %s", worker.name, worker.endpoint)
        said = announced(instance)
        worker.instance = instance
        capacity = said.capacity or self._settings.default_capacity
        told = came or capacity != worker.capacity
        worker.capacity = capacity
        if said.models is not None:
            self._ask_no_more(worker)
            told |= self._has(worker, said.models)
        elif worker not in self._asking:
            self._asking[worker] = asyncio.create_task(
                self._ask(worker), name=f"models of {worker.name}"
            )
        # A new load is no news for those who wait.
        if told:
            self._changed(worker)

    def _has(self, worker: Worker, models: Loaded) -> bool:
        """Note what a worker has; tells whether that is news."""
        if worker.known and worker.models == models:
            return False
        worker.known = True
        worker.models = models
        return True

    def _left(self, name: str) -> None:
        worker = self._workers.pop(name, None)
        if worker is None:
            return
        self._ask_no_more(worker)
        if len(self._seen) + len(worker.models) <= _MOST_SEEN:
            self._seen.update(dict.fromkeys(worker.models))
        worker.gone = True
        _log.info("worker %s is gone, with %d requests", name, worker.in_flight)
        self._leaving.add(worker)
        if not worker.in_flight:
            self.idle(worker)
        self._changed(worker)

    def _reached(self, instance: Instance) -> Worker | None:
        for way in ways(instance):
            try:
                plane = self._connect(instance.name, way.given)
            except (ProtoplaneError, OSError) as error:
                _log.warning("%s cannot be reached at %s: %s", instance.name, way.given, error)
            else:
                return Worker(instance, plane, way.given, self._settings.default_capacity)
        _log.warning("no address of %s can be used from here", instance.name)
        return None

    def _connect(self, name: str, address: str) -> Plane:
        policy = Policy(retries=_ONCE)
        return connect({name: address}, token=self._settings.token or None, policy=policy)

    async def _ask(self, worker: Worker) -> None:
        """Keep up with the models of a worker that does not announce them."""
        backoff = Backoff(first_s=0.1, limit_s=self._settings.refresh_s)
        while True:
            try:
                answer = await worker.client.list_models(
                    ListModelsRequest(ready=True), timeout_s=self._settings.ask_timeout_s
                )
            except PlaneError as error:
                worker.last_error = error.message
                _log.warning("%s does not say which models it has: %s", worker.name, error.message)
                await asyncio.sleep(backoff.next_s())
            else:
                backoff.reset()
                if self._has(worker, loaded(answer.models)):
                    self._changed(worker)
                await asyncio.sleep(self._settings.refresh_s)


def _same_place(one: Instance, other: Instance) -> bool:
    """Whether they are one process at the same addresses."""
    return (one.endpoints, one.host, one.pid, one.started_s) == (
        other.endpoints,
        other.host,
        other.pid,
        other.started_s,
    )
