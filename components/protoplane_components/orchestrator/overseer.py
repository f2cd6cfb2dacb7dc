"""The service that tells of the workers, and takes them out of use."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from protoplane.orchestrator.v1 import (
    DrainWorkerRequest,
    DrainWorkerResponse,
    ListWorkersRequest,
    ListWorkersResponse,
    OrchestratorService,
    UndrainWorkerRequest,
    UndrainWorkerResponse,
    WatchWorkersRequest,
    WatchWorkersResponse,
    Worker,
)
from protoplane_base import Code, Duration, PlaneError
from protoplane_components.orchestrator.counts import Counts
from protoplane_components.orchestrator.everywhere import Everywhere
from protoplane_components.orchestrator.pool import Pool
from protoplane_components.orchestrator.settings import OrchestratorSettings
from protoplane_server import Context

_INTERVAL_S = 0.25
_LEAST_INTERVAL_S = 0.01


class Overseer(OrchestratorService):
    """Tells of the workers of an orchestrator.

    Args:
        pool: Its workers.
        everywhere: Finds them by their names.
        settings: Its settings.
        counts: What it counted.
    """

    endless_methods = ("WatchWorkers",)

    def __init__(
        self, pool: Pool, everywhere: Everywhere, settings: OrchestratorSettings, counts: Counts
    ) -> None:
        self._pool = pool
        self._everywhere = everywhere
        self._settings = settings
        self._counts = counts

    async def list_workers(self, request: ListWorkersRequest, ctx: Context) -> ListWorkersResponse:
        """List the workers."""
        return ListWorkersResponse(
            workers=[*self._workers(request.model)],
            queued=self._pool.queued,
            max_queued=self._settings.max_queued,
            policy=self._pool.policy.name,
            counts=self._counts.message(),
        )

    async def watch_workers(
        self, request: WatchWorkersRequest, ctx: Context
    ) -> AsyncIterator[WatchWorkersResponse]:
        """List them, and anew whenever something has changed."""
        interval_s = _interval_s(request.interval)
        told: WatchWorkersResponse | None = None
        while True:
            # What a worker is doing changes with each request: it is looked at, not told.
            now = WatchWorkersResponse(
                workers=[*self._workers(request.model)], queued=self._pool.queued
            )
            if now != told:
                told = now
                yield now
            await asyncio.sleep(interval_s)

    async def drain_worker(self, request: DrainWorkerRequest, ctx: Context) -> DrainWorkerResponse:
        """Give a worker no new requests."""
        return DrainWorkerResponse(worker=self._drain(request.worker, drained=True))

    async def undrain_worker(
        self, request: UndrainWorkerRequest, ctx: Context
    ) -> UndrainWorkerResponse:
        """Give a worker requests again."""
        return UndrainWorkerResponse(worker=self._drain(request.worker, drained=False))

    def _drain(self, name: str, *, drained: bool) -> Worker:
        worker = self._everywhere.find(name)
        assert self._pool.roster is not None
        self._pool.roster.drain(worker, drained=drained)
        return worker.message()

    def _workers(self, model: str) -> Sequence[Worker]:
        workers = self._pool.workers
        return [
            workers[name].message()
            for name in sorted(workers)
            if not model or model in workers[name].models
        ]


def _interval_s(asked: Duration | None) -> float:
    if asked is None:
        return _INTERVAL_S
    if asked.total_seconds < 0:
        raise PlaneError(
            Code.INVALID_ARGUMENT, f"an interval of {asked} is none; give a time of 0 or more"
        )
    return max(_LEAST_INTERVAL_S, asked.total_seconds)
