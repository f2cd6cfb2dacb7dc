"""Models that run in this process: which are known, which are loaded, and the worker for them."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from protoplane_base import Code, PlaneError
from protoplane_server.backends.counting import ModelCounters
from protoplane_server.backends.interface import ModelMetadata, ModelSource, ModelState, ModelStats
from protoplane_server.backends.partial import PartialBackend


class LoadedModel(Protocol):
    """A model that is loaded."""

    @property
    def metadata(self) -> ModelMetadata:
        """What it is."""
        ...

    @property
    def counters(self) -> ModelCounters:
        """What it has done."""
        ...

    async def close(self) -> None:
        """End what it is at with UNAVAILABLE, and give back what it holds."""
        ...


Model = TypeVar("Model", bound=LoadedModel)


class InProcessBackend(PartialBackend, ABC, Generic[Model]):
    """Models by their names, and one worker thread in which all of them compute.

    Args:
        sources: Models that are known from the start, and the files of each; ``None`` for those
            that need none.
        first: Which of them to load at the start.
    """

    def __init__(self, sources: Mapping[str, Path | None], first: Sequence[str]) -> None:
        self._first = tuple(first)
        self._models: dict[str, Model] = {}
        self._sources = dict(sources)
        self._absent: dict[str, ModelMetadata] = {}
        self._worker: ThreadPoolExecutor | None = None
        self._loading = asyncio.Lock()

    async def start(self) -> None:
        """Start the worker, and load the first models."""
        if self._worker is None:
            self._worker = ThreadPoolExecutor(1, f"protoplane-{self.name}")
            try:
                for model in self._first:
                    await self.load(model, ModelSource())
            except BaseException:
                await self.stop()
                raise

    async def stop(self) -> None:
        """End all that the models are at, and the worker."""
        models, self._models = self._models, {}
        for model in models.values():
            await self._replaced(model)
        worker, self._worker = self._worker, None
        if worker is not None:
            # What it may still be at are milliseconds; it waits where that blocks nobody.
            await asyncio.to_thread(worker.shutdown)

    async def live(self) -> bool:
        """Whether it has been started."""
        return self._worker is not None

    async def ready(self, model: str, version: str = "") -> bool:
        """Whether a model is loaded; they have no versions."""
        return model in self._models and not version

    async def metadata(self, model: str, version: str = "") -> ModelMetadata:
        """What a model is."""
        self._known(model, version)
        return self._metadata(model)

    async def list(self) -> Sequence[ModelMetadata]:
        """All that were ever loaded, and those that are known from the start."""
        return [self._metadata(model) for model in sorted(self._sources)]

    async def stats(self, model: str) -> ModelStats:
        """What a model has done since it was loaded."""
        self._known(model)
        loaded = self._models.get(model)
        return ModelStats() if loaded is None else loaded.counters.snapshot()

    @abstractmethod
    async def load(self, model: str, source: ModelSource) -> ModelMetadata:
        """Load a model; see `protoplane_server.backends.interface.Backend.load`."""

    async def unload(self, model: str) -> None:
        """Unload a model; it stays known, with where it came from."""
        self._known(model)
        async with self._loading:
            loaded = self._models.pop(model, None)
            if loaded is not None:
                self._absent[model] = replace(loaded.metadata, state=ModelState.UNLOADED)
                await loaded.close()

    @abstractmethod
    def _unloaded(self, model: str) -> ModelMetadata:
        """What there is to know of a model that never was loaded."""

    async def _replaced(self, model: Model) -> None:
        """A model goes, and nobody asked for that."""
        await model.close()

    def _running(self) -> ThreadPoolExecutor:
        """The worker.

        Raises:
            PlaneError: UNAVAILABLE; the backend was not started.
        """
        if self._worker is None:
            raise PlaneError(Code.UNAVAILABLE, "the backend is not running; start it first")
        return self._worker

    async def _put(self, model: str, made: Model, path: Path | None) -> None:
        """A model was loaded. Nothing waits but for the last step of what it replaces."""
        before = self._models.get(model)
        self._models[model] = made
        self._sources[model] = path
        self._absent.pop(model, None)
        if before is not None:
            await self._replaced(before)

    def _known(self, model: str, version: str = "") -> None:
        """Make sure that there is a model.

        Raises:
            PlaneError: NOT_FOUND; there is none, or not in that version.
        """
        if model not in self._sources:
            raise PlaneError(
                Code.NOT_FOUND,
                f"there is no model {model!r}; there are {', '.join(sorted(self._sources))}",
            )
        if version:
            raise PlaneError(
                Code.NOT_FOUND, f"there is no version {version!r} of {model}; it has none"
            )

    def _loaded(self, model: str, version: str = "") -> Model:
        """A model that can be used.

        Raises:
            PlaneError: NOT_FOUND, or FAILED_PRECONDITION where it is not loaded.
        """
        self._known(model, version)
        found = self._models.get(model)
        if found is None:
            raise PlaneError(
                Code.FAILED_PRECONDITION, f"{model} is not loaded; load it first (LoadModel)"
            )
        return found

    def _metadata(self, model: str) -> ModelMetadata:
        found = self._models.get(model)
        if found is not None:
            return found.metadata
        return self._absent.get(model) or self._unloaded(model)
