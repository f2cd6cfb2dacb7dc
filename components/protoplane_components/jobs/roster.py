"""Which workers there are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import aclosing

from pydantic import ValidationError

from protoplane.jobs.v1 import ListModelsResponse, Model
from protoplane_components.jobs.settings import JobSettings
from protoplane_runtime.engines.discovery import Discovery, Instance, Left

_MODELS = "models"
_SLOTS = "slots"


def worker_instance(name: str, models: Sequence[Model], slots: int, namespace: str) -> Instance:
    """How a worker tells others of itself."""
    models_json = ListModelsResponse(models=[*models]).model_dump_json()
    return Instance(name, metadata={_MODELS: models_json, _SLOTS: str(slots)}, namespace=namespace)


class Roster:
    """Follows the workers of a queue; `run` has an owner."""

    def __init__(self, discovery: Discovery, settings: JobSettings) -> None:
        self._discovery = discovery
        self._path = settings.workers
        self._workers: dict[str, Instance] = {}
        self._slots = 0
        self._models: Sequence[Model] = ()

    @property
    def workers(self) -> int:
        """How many workers there are."""
        return len(self._workers)

    @property
    def slots(self) -> int:
        """How many jobs they take at a time, together."""
        return self._slots

    @property
    def models(self) -> Sequence[Model]:
        """The models that they have, in the order of the names."""
        return self._models

    def __contains__(self, worker: str) -> bool:
        return worker in self._workers

    async def run(self) -> None:
        """Follow discovery until cancelled, or until it is closed."""
        self._workers.clear()
        async with aclosing(self._discovery.watch(self._path, namespace=None)) as batches:
            async for batch in batches:
                for change in batch:
                    if isinstance(change, Left):
                        self._workers.pop(change.instance.name, None)
                    else:
                        self._workers[change.instance.name] = change.instance
                self._slots = sum(map(_slots, self._workers.values()))
                self._models = _merged(self._workers.values())

    async def look(self) -> frozenset[str]:
        """Names of the workers that there are at this moment.

        Raises:
            PlaneError: UNAVAILABLE where the engine is away, so that nobody can tell.
        """
        found = await self._discovery.instances(self._path, namespace=None)
        return frozenset(instance.name for instance in found)


def _merged(workers: Iterable[Instance]) -> Sequence[Model]:
    found: dict[str, Model] = {}
    for worker in workers:
        for model in _models(worker):
            found.setdefault(model.name, model).workers += 1
    return [found[name] for name in sorted(found)]


def _slots(worker: Instance) -> int:
    text = worker.metadata.get(_SLOTS, "")
    return int(text) if text.isascii() and text.isdigit() else 0


def _models(worker: Instance) -> Sequence[Model]:
    try:
        text = worker.metadata.get(_MODELS, "{}")
        return ListModelsResponse.model_validate_json(text, extra="ignore").models
    except ValidationError:
        return ()  # Something else that took the name; it has no models for us.
